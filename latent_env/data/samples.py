"""A data set before it is decoded: its samples and splits, and files that can't be used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent_common.errors import UserError
from latent_common.files import check_file_name
from latent_env.data.images import open_image, open_mask

SHOWN = 5
"""At most so many skipped files or copies are named in a remark; the rest are counted."""


class Sample(Protocol):
    """One image that can be decoded."""

    @property
    def name(self) -> str:
        """A unique name, such as the path below the data set's folder."""

    @property
    def label(self) -> int:
        """0 normal, 1 anomaly."""

    @property
    def kind(self) -> str:
        """The kind of defect, or the class; splits keep the share of each kind."""

    @property
    def masked(self) -> bool:
        """Whether there is a mask of its anomalous pixels."""

    def image(self, size: int) -> tuple[Image.Image, tuple[int, int]]:
        """The image upright, mode L or RGB, and its native (width, height) in pixels.

        It may be decoded smaller than native if it is still several times ``size``.
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
    """An image in memory, ``(H, W)`` or ``(H, W, 3)`` uint8, perhaps with a mask."""

    pixels: NDArray[np.uint8]
    label: int
    name: str
    marked: NDArray[np.bool_] | None = None
    kind: str = ""
    border: int = 0
    """So many black pixels are added on every side, which reaches a size without blurring."""

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
        """Raise a ``UserError`` with ``message``, or count the file as skipped."""
        if self.on_error == "stop":
            raise UserError(f"{message}\nTo go on without such files: dataset.on_error=skip")
        self.skipped.append(message)

    def remarks(self) -> list[str]:
        """Lines for the user on what was skipped."""
        if not self.skipped:
            return []
        count = len(self.skipped)
        head = f"skipped {count} file{'s' if count > 1 else ''} (dataset.on_error=skip):"
        return ["\n  ".join([head, *shortened(self.skipped)])]


@dataclass(frozen=True)
class Source:
    """A data set that was found and split, but not decoded.

    :param name: of the data set, also in paths.
    :param splits: ``train``, ``valid`` and ``test``; train is normal only. (Textures have one split.)
    :param files: all files that it is read from: when one changes, the data set is prepared again.
    :param settings: plain values that all images and splits depend on, besides the files.
    :param channels: 1 for grey, 3 for RGB, None for what the training images are.
    :param remarks: lines for the user.
    """

    name: str
    splits: Mapping[str, Sequence[Sample]]
    files: Sequence[Path]
    settings: Mapping[str, Any]
    channels: int | None = None
    remarks: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_file_name(self.name, "dataset.name")

    def fingerprint(self) -> str:
        """A digest of the files' names, sizes and times of change, and of which split has what."""
        digest = hashlib.sha256()
        for path in self.files:
            try:
                about = path.stat()
                facts = (path.name, about.st_size, about.st_mtime_ns)
            except OSError:  # decoding gives the error that names it
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
    """The first ``SHOWN`` lines, and a line with the number of the others."""
    more = [f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [*lines[:SHOWN], *more]


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]} pixels"
