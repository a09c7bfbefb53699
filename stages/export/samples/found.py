"""The samples of a run, one by one: drawn into their original files where these are still there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agents.rollout import KINDS, Augmented, load_augmented
from latent_common.artifacts import load_artifact
from latent_common.errors import UserError
from latent_env.data.images import open_image, open_original, shrink_image
from latent_env.worlds.store import newest_run
from stages.augmentation.pictures.blending import blend_change
from stages.augmentation.pictures.originals import ranked
from stages.augmentation.sources import Source, load_sources
from stages.export.selection import SELECTION, read_rejected

SAMPLES = "augmented.npz"

KEPT_OPEN = 4
"""So many originals are kept decoded: successive samples have the same one."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Item:
    """One sample as others read it."""

    row: int
    """Its row in ``augmented.npz``."""
    kind: str
    label: int
    """0 normal, 1 anomaly"""
    image: Image.Image
    mask: Mask
    """``(H, W)``, of the image's size: what a detector should mark; empty for normal samples."""
    is_original: bool
    """Whether it was drawn into the original file, at its size."""

    @property
    def stem(self) -> str:
        """The name of its files."""
        return f"{self.row:05d}"


@dataclass(frozen=True)
class RunSamples:
    """What the agent of a run made."""

    folder: Path
    made: Augmented
    starts: NDArray[np.uint8]
    """``(S, C, s, s)``, the images that samples were made from."""
    sources: Sequence[Source]
    rejected: frozenset[int]
    """Rows that a person rejected."""

    def kept(self, best: int | None = None) -> list[int]:
        """The rows that nobody rejected, in order.

        :param best: only so many anomalies: the best paid of different start images first.
        """
        if best is not None:
            return sorted([row for row in ranked(self.made) if row not in self.rejected][:best])
        return [row for row in range(len(self.made)) if row not in self.rejected]

    def items(self, rows: Sequence[int], original: bool) -> Iterator[Item]:
        """The samples at ``rows``, those of one start image one after the other.

        :param original: draw into the original files where they are known, still there and unchanged.
        """
        cached = lru_cache(KEPT_OPEN)(self._original)
        for row in sorted(rows, key=lambda row: (int(self.made.source[row]), row)):
            yield self._item(row, cached(int(self.made.source[row])) if original else None)

    def _item(self, row: int, original: Image.Image | None) -> Item:
        pixels, mask = self.made.images[row].numpy(), self.made.masks[row, 0].numpy()
        if original is None:
            image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        else:
            change = pixels.astype(np.int16) - self.starts[int(self.made.source[row])]
            image = blend_change(original, change)[0]
            mask = enlarged(mask, image.size)
        kind, label = KINDS[self.made.kinds[row]], int(self.made.labels[row])
        return Item(row, kind, label, image, mask, original is not None)

    def _original(self, source: int) -> Image.Image | None:
        """The file of a start image; None if it isn't known, or is another image than it was."""
        file, start = self.sources[source].file, self.starts[source]
        if file is None:
            return None
        try:
            seen = shrink_image(open_image(file, start.shape[-1])[0], start.shape[-1], len(start))
            return open_original(file) if np.array_equal(seen, start) else None
        except UserError:
            return None


def enlarged(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask at another ``size``, width and height, with smooth edges; what was marked doesn't vanish."""
    grey = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    smooth: Mask = np.asarray(grey.resize(size, Image.Resampling.BICUBIC)) >= 128
    if mask.any() and not smooth.any():
        return np.asarray(grey.resize(size, Image.Resampling.NEAREST)) > 0
    return smooth


def load_run(name: str) -> RunSamples:
    """The samples of the run in the folder ``name``, or of the newest run below it that has some."""
    folder = find_run(Path(name).expanduser())
    made = load_augmented(folder / SAMPLES)
    starts = load_artifact(folder, "images", "images")[0]["images"].numpy()
    if len(made) and (int(made.source.max()) >= len(starts) or made.images.shape[1:] != starts.shape[1:]):
        raise UserError(
            f"{folder / SAMPLES} is of another world than {folder / 'images.json'}: make it again"
        )
    rejected = read_rejected(folder)
    if rejected and max(rejected) >= len(made):
        raise UserError(
            f"{folder / SELECTION} rejects sample {max(rejected)}, but there are {len(made)}, from 0: "
            "correct it, or delete it to keep all"
        )
    return RunSamples(folder, made, starts, load_sources(folder, len(starts)), rejected)


def find_run(folder: Path) -> Path:
    """The folder of a run with samples."""
    if (folder / SAMPLES).is_file():
        return folder
    newest = newest_run(folder, SAMPLES)
    if newest is None:
        what = "holds no samples" if folder.is_dir() else "is no folder"
        raise UserError(f"{folder} {what}: `latent-aug train` makes some below runs/<data set>/agent/")
    return newest
