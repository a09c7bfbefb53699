"""What a data set is made of before anything is decoded: samples, splits, and what went wrong."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent_common.errors import UserError
from latent_env.data.images import open_image, open_mask

SHOWN = 5
"""So many skipped files or duplicates are named in a remark; the rest are counted."""


class Sample(Protocol):
    """One image that can be decoded."""

    @property
    def name(self) -> str:
        """Such as its path below the data set's folder."""

    @property
    def label(self) -> int:
        """0 normal, 1 anomaly."""

    @property
    def kind(self) -> str:
        """The kind of defect, or the class: splits keep its share."""

    @property
    def masked(self) -> bool:
        """Whether it comes with a mask of its anomalous pixels."""

    def image(self, size: int) -> tuple[Image.Image, tuple[int, int]]:
        """The image upright, mode L or RGB, and its native (width, height) in pixels.

        It may come smaller than native if it is still several times ``size``.
        """

    def mask(self, native: tuple[int, int]) -> Image.Image:
        """Its mask, mode L, 255 on anomalous pixels; ``native`` is the image's size."""


@dataclass(frozen=True)
class FileSample:
    """An image file, perhaps with a mask file."""

    path: Path
    label: int
    name: str
    mask_path: Path | None = None
    kind: str = ""

    @property
    def masked(self) -> bool:
        """Whether there is a mask file."""
        return self.mask_path is not None

    def image(self, size: int) -> tuple[Image.Image, tuple[int, int]]:
        """Decode the file."""
        return open_image(self.path, size)

    def mask(self, native: tuple[int, int]) -> Image.Image:
        """Decode the mask file, which must be of the image's size."""
        assert self.mask_path is not None
        return open_mask(self.mask_path, self.path, native)


@dataclass(frozen=True)
class ArraySample:
    """An image that already lies in memory, ``(H, W)`` or ``(H, W, 3)`` uint8, perhaps with a mask."""

    pixels: NDArray[np.uint8]
    label: int
    name: str
    marked: NDArray[np.bool_] | None = None
    kind: str = ""
    border: int = 0
    """So many black pixels are added on every side, which keeps small images sharp."""

    @property
    def masked(self) -> bool:
        """Whether there is a mask."""
        return self.marked is not None

    def image(self, size: int) -> tuple[Image.Image, tuple[int, int]]:  # noqa: ARG002 - it is decoded
        """The array as an image."""
        native = self.pixels.shape[1], self.pixels.shape[0]
        sides = [(self.border, self.border)] * 2 + [(0, 0)] * (self.pixels.ndim - 2)
        return Image.fromarray(np.pad(self.pixels, sides)), native

    def mask(self, native: tuple[int, int]) -> Image.Image:
        """The mask as an image."""
        assert self.marked is not None
        mask = Image.fromarray(np.pad(self.marked, self.border).astype(np.uint8) * np.uint8(255))
        if self.marked.shape != native[::-1]:
            raise UserError(
                f"{self.name}: the mask is {_size(self.marked.shape)}, its image {_size(native[::-1])}"
            )
        return mask


@dataclass
class Problems:
    """Files that can't be used: the first one stops everything, or all are skipped and counted."""

    on_error: str = "stop"
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise UserError(f"dataset.on_error={self.on_error} is unknown: choose stop or skip")

    def note(self, message: str) -> None:
        """Raise a ``UserError`` with ``message``, or remember it."""
        if self.on_error == "stop":
            raise UserError(f"{message}\nTo go on without such files: dataset.on_error=skip")
        self.skipped.append(message)

    def remarks(self) -> list[str]:
        """What was skipped, for the log."""
        if not self.skipped:
            return []
        count = len(self.skipped)
        head = f"skipped {count} file{'s' if count > 1 else ''} (dataset.on_error=skip):"
        return ["\n  ".join([head, *shortened(self.skipped)])]


@dataclass(frozen=True)
class Source:
    """A data set on disk, found and sorted into splits but not decoded.

    :param name: what it is called, also in paths.
    :param splits: ``train``, ``valid`` and ``test``; train is normal only. (Textures have one split.)
    :param files: every file it is read from: when one changes, it is prepared again.
    :param settings: plain values that tell this choice of images from another of the same name.
    :param channels: 1 for grey, 3 for RGB, None for what the training images are.
    :param remarks: lines that a user should read.
    """

    name: str
    splits: Mapping[str, Sequence[Sample]]
    files: Sequence[Path]
    settings: Mapping[str, Any]
    channels: int | None = None
    remarks: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^/\\.\0][^/\\\0]*", self.name):
            raise UserError(f"dataset.name={self.name} can't be the name of a folder: choose another")

    def fingerprint(self) -> str:
        """A digest of the files' names, sizes and times of change, and of which split has what."""
        digest = hashlib.sha256()
        for path in self.files:
            try:
                about = path.stat()
                facts = (path.name, about.st_size, about.st_mtime_ns)
            except OSError:  # decoding will say what is wrong with it
                facts = (path.name, -1, -1)
            digest.update(repr(facts).encode("utf-8", "surrogateescape"))
        for split, samples in self.splits.items():
            for sample in samples:
                digest.update(f"{split} {sample.name!r} {sample.label} {sample.masked}".encode())
        return digest.hexdigest()[:16]


def files_of(samples: Sequence[FileSample]) -> list[Path]:
    """The image and mask files of the samples."""
    return [path for sample in samples for path in (sample.path, sample.mask_path) if path is not None]


def shortened(lines: Sequence[str]) -> list[str]:
    """The first lines, and how many more there are."""
    more = [f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [*lines[:SHOWN], *more]


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]} pixels"
