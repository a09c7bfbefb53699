"""Pictures of images: what agents make of normal ones, and where the detector is most wrong."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from benchmarks.augmentation.collect import Row, Scores
from latent_env.data import Split
from latent_env.rendering import Picture, heat, side_by_side, stack, to_rgb
from latent_env.shell import ANOMALY

MOST_BYTES = 300_000
TILE = 112
SHOWN = 3
GREY = 0.45
LOOKED_AT = 64
"""Of so many first samples those are shown that are anomalies."""

CASES = 6


def save_small(path: Path, picture: Picture) -> Path:
    """Write a picture as PNG of fewer than 300 KB: smaller if need be."""
    image, share = Image.fromarray(picture), 1.0
    while True:
        size = (max(int(image.width * share), 1), max(int(image.height * share), 1))
        buffer = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
        if buffer.tell() < MOST_BYTES or max(size) < 64:
            break
        share *= 0.85
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return path


def first_rows(path: Path, name: str, count: int) -> NDArray[np.generic]:
    """The first rows of an array in an ``.npz``: the rest, perhaps gigabytes, is not unpacked."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, kind = read(file)
        count = min(count, shape[0])
        length = count * int(np.prod(shape[1:])) * kind.itemsize
        return np.frombuffer(file.read(length), kind).reshape(count, *shape[1:])


def made(row: Row) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The first anomalous samples of a run: where it began, what was made, what is marked; ``(C, H, W)``.

    What is marked is white by the mask of the image, and grey by that of the latent's tokens alone.
    """
    path, starts = row.folder / "augmented.npz", row.folder / "images.safetensors"
    if not (path.is_file() and starts.is_file()):
        return []
    names = ("labels", "images", "source", "masks", "tokens")
    labels, images, source, masks, tokens = (first_rows(path, name, LOOKED_AT) for name in names)
    found = []
    with safe_open(starts, "pt") as held:
        normal = held.get_slice("images")
        for index in np.flatnonzero(labels == ANOMALY)[:SHOWN]:
            start = int(source[index])
            image, mask, of_tokens = (
                torch.from_numpy(each[index].copy()) for each in (images, masks, tokens)
            )
            wide = functional.interpolate(of_tokens[None].float(), size=mask.shape[-2:])[0]
            found.append((normal[start : start + 1][0], image, torch.maximum(mask.float(), wide * GREY)))
    return found


def samples(path: Path, rows: Sequence[Row]) -> Path | None:
    """A row an agent: images that it started from, what it made, where they differ, and what is marked.

    What detectors of latents learn from is in the latent: a decoder may draw nothing of it.
    """
    lines = []
    for agent, row in {row.run.agent: row for row in reversed(rows)}.items():
        tiles, captions = [], []
        for start, image, marked in made(row):
            difference = (image.float() - start.float()).abs().mean(0) / 255
            tiles += [to_rgb(start), to_rgb(image), heat(difference * 8), to_rgb(marked)]
            captions += ["normal", agent, "difference", "marked"]
        if len(captions) == 4 * SHOWN:
            lines.append(side_by_side(tiles, captions, TILE))
    return save_small(path, stack(lines[::-1])) if lines else None


def cases(path: Path, scores: Scores, split: Split) -> Path | None:
    """Rows of anomalies with the lowest scores, normals with the highest, and anomalies with the highest."""
    if len(scores.labels) != len(split) or not np.array_equal(scores.labels, split.labels):
        return None
    normal, anomalous = (np.flatnonzero(scores.labels == label) for label in (0, 1))
    if min(len(normal), len(anomalous)) < 1:
        return None
    rising = anomalous[np.argsort(scores.after[anomalous], kind="stable")]
    alarms = normal[np.argsort(-scores.after[normal], kind="stable")]
    lines = [
        case_row(split, rising[:CASES], scores.after, normal, "anomaly", "max_train_images"),
        case_row(split, alarms[:CASES], scores.after, anomalous, "normal", "anomalies"),
        case_row(split, rising[::-1][:CASES], scores.after, normal, "anomaly", "max_train_images"),
    ]
    return save_small(path, stack([widened(line, CASES) for line in lines]))


def case_row(
    split: Split,
    chosen: NDArray[np.int64],
    scores: NDArray[np.float64],
    others: NDArray[np.int64],
    what: str,
    of: str,
) -> Picture:
    """Test images with how many ``others`` they score above."""
    tiles = [to_rgb(torch.from_numpy(np.array(split.images[index]))) for index in chosen]
    above = [np.mean(scores[others] < scores[index]) for index in chosen]
    captions = [f"{what}, above {share:.0%} of {of}" for share in above]
    return side_by_side(tiles, captions, 2 * TILE)


def widened(line: Picture, tiles: int) -> Picture:
    """A row of fewer tiles, as wide as one of ``tiles``."""
    blank = np.zeros((8, 8, 3), np.uint8)
    width = side_by_side([blank] * tiles, [""] * tiles, 2 * TILE).shape[1]
    missing = width - line.shape[1]
    return np.pad(line, ((0, 0), (0, missing), (0, 0)), mode="edge") if missing > 0 else line
