"""Execute the notebooks of ``results-ipynb/``, in order, and keep what they print and draw.

LATENT_AUG_NOTEBOOKS=small in the environment makes them quick; what is kept comes from the full budget.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from benchmarks.command import run_command
from latent_common.artifacts import write_atomically
from latent_common.errors import UserError
from latent_common.progress import progress_bar

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results-ipynb"

BUDGET, SMALL = "LATENT_AUG_NOTEBOOKS", "small"
"""The variable that notebooks read, and the value that makes them quick."""

LONGEST_CELL = 3600
"""A cell that takes more seconds is given up."""

MOST_BYTES = 400_000
"""A notebook is at most so large, so that it opens quickly and the repository stays small."""

MACHINE_PATH = re.compile(r"(?<![\w./+-])/(?:tmp|home|work|root|Users|private|var)\b[\w./-]*")
"""A path that exists on one machine alone."""

COLOURS = re.compile(r"\x1b\[[0-9;]*m")

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""All that a notebook says of what ran it: the rest differs from machine to machine."""

SHOWN_LINES = 15
"""Of a traceback so many last lines are shown."""


def all_notebooks() -> list[Path]:
    """The files of all notebooks, by name."""
    return sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path) -> NotebookNode:
    """Execute a notebook from its first cell in a new kernel of this Python, and return it cleaned.

    :raises UserError: if a cell fails; its message has the notebook, the cell and the error.
    """
    notebook = nbformat.read(path, as_version=4)
    current = 0

    def began(cell: NotebookNode, cell_index: int) -> None:  # noqa: ARG001 - called with these names
        nonlocal current
        current = cell_index

    def ended(**_: Any) -> None:
        bar.update()

    total = sum(cell.cell_type == "code" for cell in notebook.cells)
    with tempfile.TemporaryDirectory() as scratch, progress_bar(path.stem, total) as bar:
        client = NotebookClient(
            notebook,
            km=kernel_manager(Path(scratch)),
            timeout=LONGEST_CELL,
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_start=began,
            on_cell_executed=ended,
        )
        try:
            client.execute(cleanup_kc=True, env=environment(scratch))
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise UserError(failure(path, notebook.cells[current], current, error)) from error
        except AssertionError:  # at Ctrl-C the client ends the kernel, and then misses it
            if client.km is not None:
                raise
            raise KeyboardInterrupt from None
    return cleaned(notebook)


def kernel_manager(scratch: Path) -> AsyncKernelManager:
    """What starts a kernel with this Python, whatever kernels the user has installed."""
    specs = KernelSpecManager(kernel_dirs=[])
    files = {"connection_file": str(scratch / "kernel.json"), "ip": str(scratch / "kernel")}
    return AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs, transport="ipc", **files)


def environment(scratch: str) -> dict[str, str]:
    """The kernel's variables: modules of this checkout come first, and no user's profile is read."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    own = {"PYTHONPATH": paths, "IPYTHONDIR": scratch, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return {**os.environ, **own}


def failure(path: Path, cell: NotebookNode, index: int, error: Exception) -> str:
    """What to say of a cell that failed: where it is, what it does, and what went wrong."""
    if isinstance(error, CellExecutionError):
        reason = f"{error.ename}: {error.evalue}"
        raised = [output for output in cell.outputs if output.output_type == "error"]
        trace = COLOURS.sub("", "\n".join(raised[-1].traceback)) if raised else reason
    else:
        reason = trace = "the kernel died" if isinstance(error, DeadKernelError) else "it took too long"
    lines = trace.strip().splitlines()[-SHOWN_LINES:]
    return "\n".join(
        [
            f"{path.name}, cell {index + 1} of the notebook failed: {COLOURS.sub('', reason)}",
            *(f"    | {line}" for line in cell.source.splitlines()),
            *(f"    {line}" for line in lines),
        ]
    )


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs from machine to machine and from time to time."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = NotebookNode()
            if "image/jpeg" in output.get("data", {}):  # Pillow shows a PNG as well, five times as large
                output.data.pop("image/png", None)
    return notebook


def problems(path: Path) -> list[str]:
    """What is wrong with a stored notebook, a sentence each; none if it can be published."""
    notebook = nbformat.read(path, as_version=4)
    found = [*_format_problems(notebook), *_output_problems(notebook)]
    if (size := path.stat().st_size) > MOST_BYTES:
        found.append(f"it has {size:,} bytes, at most {MOST_BYTES:,} are wanted: draw smaller pictures")
    return found


def _format_problems(notebook: NotebookNode) -> Iterator[str]:
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        yield f"it is no valid notebook: {str(error).splitlines()[0]}"
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    if counts != list(range(1, len(counts) + 1)):
        yield f"its cells were not executed in order, once each: {counts}"


def _output_problems(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(notebook.cells, 1):
        texts = [cell.source]
        if cell.cell_type == "code" and not cell.outputs:
            yield f"cell {number} shows nothing"
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                yield f"cell {number} failed: {output.ename}: {output.evalue}"
            if output.get("name") == "stderr":
                yield f"cell {number} writes to stderr: {output.text.strip()}"
            data = output.get("data", {})
            texts += [output.get("text", ""), *(data[kind] for kind in data if not kind.startswith("image/"))]
        for path in MACHINE_PATH.findall("\n".join(map(str, texts))):
            yield f"cell {number} has a path of one machine: {path}"


def update(path: Path) -> None:
    """Execute a notebook and write it in its own place, if nothing is wrong with it."""
    notebook = execute(path)
    content = (nbformat.writes(notebook) + "\n").encode()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / path.name
        copy.write_bytes(content)
        if found := problems(copy):
            raise UserError("\n    ".join([f"{path.name} was executed but not written:", *found]))
    write_atomically(path, content)
    print(f"{path.relative_to(ROOT)}: {len(content):,} bytes")


def chosen(names: Sequence[str]) -> list[Path]:
    """The notebooks of these names; all without names."""
    known = {path.stem: path for path in all_notebooks()}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"there is no notebook {unknown[0]}: choose among {', '.join(known)}")
    return [known[name] for name in names or known]


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as quick_start (default: all)")
    parser.add_argument("--check", action="store_true", help="execute them, and write nothing")
    given = parser.parse_args(arguments)
    paths = chosen(given.names)
    if not given.check and os.environ.get(BUDGET) == SMALL:
        raise UserError(
            f"{BUDGET}={SMALL} is set, but results of the full budget are kept: unset it, or give --check"
        )
    for path in paths:
        if given.check:
            execute(path)
        else:
            update(path)
    return 0


if __name__ == "__main__":
    run_command("notebooks", main)
