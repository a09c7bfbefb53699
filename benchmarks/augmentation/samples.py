"""A picture of what agents make of normal images."""

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

from benchmarks.cases import Outcome
from latent_env.rendering import Picture, heat, side_by_side, stack, to_rgb
from latent_env.shell import ANOMALY

MOST_BYTES = 300_000
TILE, SHOWN = 112, 3
GREY = 0.45
FIRST = 64
"""Of so many first samples those are shown that are anomalies."""


def draw_samples(path: Path, runs: Sequence[Outcome]) -> Path | None:
    """A row an agent: images that it started from, what it made, where they differ, and what is marked.

    Marked are the anomaly's pixels in white, and in grey the tokens that detectors of latents learn from: of
    these a decoder may draw nothing.
    """
    rows = []
    for run in runs:
        tiles, captions = [], []
        for start, image, marked in read_samples(run):
            difference = (image.float() - start.float()).abs().mean(0) / 255
            tiles += [to_rgb(start), to_rgb(image), heat(difference * 8), to_rgb(marked)]
            captions += ["normal", run.case.method, "difference", "marked"]
        if len(captions) == 4 * SHOWN:
            rows.append(side_by_side(tiles, captions, TILE))
    return save_small(path, stack(rows)) if rows else None


def read_samples(run: Outcome) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The first anomalous samples of a run: where each began, what was made, what is marked ``(C, H, W)``."""
    assert run.folder is not None
    path, starts = run.folder / "augmented.npz", run.folder / "images.safetensors"
    if not (path.is_file() and starts.is_file()):
        return []
    names = ("labels", "images", "source", "masks", "tokens")
    labels, images, source, masks, tokens = (first_rows(path, name, FIRST) for name in names)
    found = []
    with safe_open(starts, "pt") as held:
        normal = held.get_slice("images")
        for index in np.flatnonzero(labels == ANOMALY)[:SHOWN]:
            start = int(source[index])
            image, mask, grid = (torch.from_numpy(each[index].copy()) for each in (images, masks, tokens))
            wide = functional.interpolate(grid[None].float(), size=mask.shape[-2:])[0]
            found.append((normal[start : start + 1][0], image, torch.maximum(mask.float(), wide * GREY)))
    return found


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
