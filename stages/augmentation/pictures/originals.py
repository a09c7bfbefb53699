"""Samples at full size: what an agent changed, drawn into the original image files, with masks."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agents.rollout import KINDS, Augmented, load_augmented
from latent_common.artifacts import load_artifact, write_atomically
from latent_common.errors import UserError
from latent_common.lock import LOCK, locked
from latent_common.progress import progress_bar, say
from latent_env.data import Dataset
from latent_env.data.images import open_original
from latent_env.shell import ANOMALY
from stages.augmentation.pictures.blending import blend_change

FOLDER, TABLE = "full_size", "samples.csv"
COLUMNS = ("image", "mask", "source", "label", "kind", "copied", "reward", "width", "height")
COMPRESSION = 3
"""Of PNG: more takes several seconds an image of 20 megapixels and saves some per cent."""


def draw_full_size(run: Path, dataset: Dataset, starts: NDArray[np.int64], count: int) -> None:
    """Draw ``count`` anomalies of a finished run into their original files, below ``<run>/full_size``.

    Those of different originals come first, the best paid before others. Each is a PNG beside its mask;
    ``samples.csv``, written last, says where each came from. What was drawn before isn't drawn again. Images
    that come from no files of their own are drawn at the size that the agent saw.

    :param starts: ``(S,)`` positions of the start images among the training images.
    """
    folder = run / FOLDER
    if not count or _drawn(folder) >= count:
        return
    made = load_augmented(run / "augmented.npz")
    picks = ranked(made)[:count]
    if len(picks) == _drawn(folder):
        return
    with locked(run / LOCK):  # who finds it unlocked removes what is being written
        if len(picks) > _drawn(folder):  # by another process meanwhile
            _draw(run, dataset, starts, made, picks)


def _draw(
    run: Path, dataset: Dataset, starts: NDArray[np.int64], made: Augmented, picks: Sequence[int]
) -> None:
    """Draw the samples at the positions ``picks`` of ``made``, then write the table."""
    folder, (images, _) = run / FOLDER, load_artifact(run, "images", "images")
    rows = []
    with progress_bar("samples at full size", len(picks)) as bar:
        for number, pick in enumerate(picks):
            bar.update()
            source = int(made.source[pick])
            name, start = dataset.train.names[starts[source]], images["images"][source].numpy()
            try:
                original = _original(dataset, name, start)
            except UserError as error:  # what was made is worth more than stopping for a file that has gone
                say(f"full_size: left out: {error}")
                continue
            change = made.images[pick].numpy().astype(np.int16) - start
            files = f"{number + 1:04d}.png", f"{number + 1:04d}_mask.png"
            for file, picture in zip(files, blend_change(original, change), strict=True):
                _write(folder / file, picture)
            rows.append((*files, str(dataset.files.get(name, name)), *_facts(made, pick), *original.size))
    _write_table(folder / TABLE, rows)


def ranked(made: Augmented) -> list[int]:
    """All anomalies: the best paid one of each start image, best first, then the second best of each."""
    anomalies = np.flatnonzero(made.labels.numpy() == ANOMALY)
    best_first = anomalies[np.argsort(-made.reward.numpy()[anomalies], kind="stable")]
    seen: dict[int, int] = {}
    turns = []
    for source in made.source.numpy()[best_first].tolist():
        turns.append(seen.get(source, 0))
        seen[source] = turns[-1] + 1
    order: list[int] = best_first[np.argsort(turns, kind="stable")].tolist()
    return order


def _original(dataset: Dataset, name: str, start: NDArray[np.uint8]) -> Image.Image:
    """The file of a training image; ``start (C, s, s)`` itself, if it comes from no file of its own."""
    if name in dataset.files:
        return open_original(dataset.files[name])
    return Image.fromarray(start[0] if len(start) == 1 else start.transpose(1, 2, 0))


def _facts(made: Augmented, index: int) -> tuple[int, str, int, str]:
    """Label, kind, copied anomaly and reward of a sample."""
    kind, copied, reward = KINDS[made.kinds[index]], int(made.copied[index]), float(made.reward[index])
    return int(made.labels[index]), kind, copied, f"{reward:.4f}"


def _drawn(folder: Path) -> int:
    """How many samples were drawn into ``folder`` before."""
    try:
        with (folder / TABLE).open(newline="", encoding="utf-8") as file:
            return sum(1 for _ in csv.DictReader(file))
    except FileNotFoundError:
        return 0


def _write(path: Path, picture: Image.Image) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=COMPRESSION)
    write_atomically(path, buffer.getvalue())


def _write_table(path: Path, rows: Sequence[tuple[str | int, ...]]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue().encode("utf-8", "surrogateescape"))
