"""The notebooks can be published as they are stored, run at a small budget, and fail with one clear block."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

from benchmarks import notebooks
from benchmarks.notebooks import BUDGET, SMALL, all_notebooks, execute, main, problems, update
from latent_common.errors import UserError

NAMES = ["quick_start", "what_the_study_found", "your_own_agent", "your_own_images"]


def test_all_notebooks_are_known() -> None:
    assert [path.stem for path in all_notebooks()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_can_be_published(name: str) -> None:
    assert problems(notebooks.FOLDER / f"{name}.ipynb") == []


def test_code_cells_are_clean() -> None:
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(notebooks.FOLDER)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebooks_run_at_a_small_budget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BUDGET, SMALL)
    path = notebooks.FOLDER / f"{name}.ipynb"
    stored = path.read_bytes()
    made = execute(path)
    assert path.read_bytes() == stored
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(cell.outputs for cell in code)


def stored(path: Path, *cells: NotebookNode) -> Path:
    """A notebook of these cells, numbered as if they had been executed."""
    for number, cell in enumerate(cells, 1):
        cell.execution_count = number
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def printing(text: str, stream: str = "stdout") -> NotebookNode:
    return new_code_cell("print()", outputs=[new_output("stream", name=stream, text=text)])


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (printing("wrote /tmp/x3/run"), "cell 1 has a path of one machine: /tmp/x3/run"),
        (printing("a warning", "stderr"), "cell 1 writes to stderr: a warning"),
        (new_code_cell("1 + 1"), "cell 1 shows nothing"),
        (
            new_code_cell("x", outputs=[new_output("error", ename="NameError", evalue="x", traceback=[])]),
            "cell 1 failed: NameError: x",
        ),
    ],
)
def test_problems_are_found(cell: NotebookNode, said: str, tmp_path: Path) -> None:
    assert problems(stored(tmp_path / "one.ipynb", cell)) == [said]


def test_other_paths_and_pictures_are_no_problem(tmp_path: Path) -> None:
    picture = new_output("display_data", data={"image/jpeg": " /tmp/aaaa"})
    cell = new_code_cell("x", outputs=[picture])
    path = stored(tmp_path / "one.ipynb", printing("../work/x data_root=/data runs/tmp/y"), cell)
    assert problems(path) == []


def test_cells_out_of_order_and_large_files_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.ipynb"
    cells = [printing("a"), printing("b")]
    cells[0].execution_count, cells[1].execution_count = 2, 1
    nbformat.write(new_notebook(cells=cells), path)
    monkeypatch.setattr(notebooks, "MOST_BYTES", 10)
    order, size = problems(path)
    assert order == "its cells were not executed in order, once each: [2, 1]"
    assert "at most 10 are wanted" in size


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "broken.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("x = 1"), new_code_cell("x + y  # no y")]), path)
    before = path.read_bytes()
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    with pytest.raises(UserError) as caught:
        main([])
    first, *rest = str(caught.value).splitlines()
    assert first == "broken.ipynb, cell 2 of the notebook failed: NameError: name 'y' is not defined"
    assert "    | x + y  # no y" in rest
    assert "\x1b" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_notebook_is_written_in_place_and_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    path = tmp_path / "good.ipynb"
    checksum = zlib.crc32(sys.prefix.encode())
    same_python = new_code_cell(f"import sys, zlib\nprint(zlib.crc32(sys.prefix.encode()) == {checksum})")
    nbformat.write(new_notebook(cells=[same_python]), path)
    monkeypatch.setenv(BUDGET, SMALL)
    with pytest.raises(UserError, match="unset it, or give --check"):
        main([])
    update(path)
    (cell,) = nbformat.read(path, as_version=4).cells
    assert cell.outputs == [new_output("stream", name="stdout", text="True\n")]
    assert cell.metadata == {}

    nbformat.write(new_notebook(cells=[new_code_cell("print('/home' + '/me')")]), path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="executed but not written:\n    cell 1 has a path of one machine"):
        update(path)
    assert path.read_bytes() == before


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match="there is no notebook nobody: choose among quick_start"):
        main(["nobody"])
