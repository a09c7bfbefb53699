"""From a run to a folder of samples: whole or absent, with a table of where each came from."""

from __future__ import annotations

import csv
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.rollout import KINDS
from latent_common.artifacts import write_atomically
from latent_common.errors import UserError
from latent_common.progress import progress_bar, say
from stages.export.samples.found import RunSamples, load_run
from stages.export.samples.layouts import LAYOUTS, ONE_SIZE
from stages.export.selection import SELECTION

TABLE = "samples.csv"
COLUMNS = (
    *("sample", "kept", "image", "mask", "label", "kind", "source", "copied", "reward", "delta_norm"),
    *("width", "height", "original"),
)

Row = list[str | int]


def export_samples(run: str, target: Path, layout: str, best: int | None) -> None:
    """Write the samples of ``run`` that nobody rejected into the folder ``target``.

    :param layout: a name in :data:`LAYOUTS`.
    :param best: only so many anomalies: the best paid of different start images first.
    """
    found = load_run(run)
    if found.folder != Path(run):
        say(f"samples: {found.folder}")
    rows = found.kept(best)
    if not rows:
        why = f", all are rejected in {SELECTION}" if len(found.made) else ""
        raise UserError(f"{found.folder} has no samples to export{why}")
    with whole(target) as folder:
        written = write_samples(found, rows, folder, layout)
        write_table(found, written, folder / TABLE)
    drawn = sum(facts[-1] == "yes" for facts in written.values())
    size = "" if layout in ONE_SIZE else f", {drawn} of them in their original files' size"
    say(f"{target}: {len(rows)} of {len(found.made)} samples{size}, {len(found.rejected)} rejected")


def write_samples(found: RunSamples, rows: list[int], folder: Path, layout: str) -> dict[int, Row]:
    """Write the samples at ``rows``; what the table says of their files, by row."""
    writer = LAYOUTS[layout](folder)
    written: dict[int, Row] = {}
    with progress_bar("samples", len(rows)) as bar:
        for item in found.items(rows, original=layout not in ONE_SIZE):
            image, mask = writer.add(item)
            written[item.row] = [image, mask, *item.image.size, "yes" if item.is_original else "no"]
            bar.update()
    writer.finish()
    return written


def write_table(found: RunSamples, written: dict[int, Row], path: Path) -> None:
    """Write a row for every sample, also for those that were left out."""
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer)
    table.writerow(COLUMNS)
    made = found.made
    norms = made.delta.float().flatten(1).norm(dim=1)
    for row in range(len(made)):
        image, mask, *size = written.get(row, ["", "", "", "", ""])
        source = found.sources[int(made.source[row])]
        table.writerow(
            [
                *(row, "no" if row in found.rejected else "yes", image, mask),
                *(int(made.labels[row]), KINDS[made.kinds[row]], str(source.file or source.name)),
                *(int(made.copied[row]), f"{float(made.reward[row]):.4f}", f"{float(norms[row]):.4f}"),
                *size,
            ]
        )
    write_atomically(path, buffer.getvalue().encode("utf-8", "surrogateescape"))


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A new folder that becomes ``target`` at the end, unless something fails."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"--samples {target}: something is there already; name another folder, or delete it")
    made = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        made.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--samples {target}: can't write there ({error.strerror})") from error
    try:
        yield made
        os.replace(made, target)
    finally:  # also on Ctrl-C
        shutil.rmtree(made, ignore_errors=True)
