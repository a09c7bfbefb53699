"""A data set: three splits of images with labels, names and masks."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_common.errors import UserError
from latent_common.image_source import LARGEST_IMAGE


def check_size(size: int) -> int:
    """Return ``size``, the side of images in pixels; a ``UserError`` if autoencoders can't have it."""
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise UserError(f"size={size!r} is not a whole number of pixels: give for example 64.")
    if not 8 <= size <= LARGEST_IMAGE or size % 8:
        below = min(max(int(size) // 8 * 8, 8), LARGEST_IMAGE)
        raise UserError(
            f"size={size} does not fit: images are square with a side that is a multiple of 8 "
            f"from 8 to {LARGEST_IMAGE}. The nearest below is {below}."
        )
    return int(size)


@dataclass(frozen=True)
class Split:
    """Images with their labels, masks and names.

    :param images: ``(N, C, H, W)`` uint8, C is 1 (grey) or 3 (RGB).
    :param labels: ``(N,)`` int64, 0 normal and 1 anomaly.
    :param masks: ``(N, H, W)`` bool, true on anomalous pixels; None without pixel truth. Normal
        images of a data set with pixel truth have empty masks.
    :param names: N names, such as paths below the data set's folder.

    Images and masks may be mapped from a file: indexing then reads only what is asked for.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = self.images.shape
        if self.images.ndim != 4 or self.images.dtype != np.uint8 or shape[1] not in (1, 3):
            raise UserError(
                f"images must be (N, C, H, W) uint8 with 1 or 3 channels, not {shape} {self.images.dtype}."
            )
        if self.labels.shape != shape[:1] or self.labels.dtype != np.int64:
            raise UserError(
                f"labels must be ({shape[0]},) int64, one an image, "
                f"not {self.labels.shape} {self.labels.dtype}."
            )
        if not np.isin(self.labels, (0, 1)).all():
            raise UserError("labels must be 0 (normal) or 1 (anomaly).")
        if len(self.names) != shape[0]:
            raise UserError(f"names must be {shape[0]}, one an image, not {len(self.names)}.")
        if self.masks is None:
            return
        expected = (shape[0], *shape[2:])
        if self.masks.shape != expected or self.masks.dtype != np.bool_:
            raise UserError(
                f"masks must be {expected} bool, one an image, not {self.masks.shape} {self.masks.dtype}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> "Split":
        """The images at these positions, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Split(
            self.images[chosen],
            self.labels[chosen],
            None if self.masks is None else self.masks[chosen],
            tuple(self.names[i] for i in chosen),
        )

    @property
    def measurable(self) -> bool:
        """Whether it has normal and anomalous images: without both there is no AUROC, AP, F1 or AUPRO."""
        return len(np.unique(self.labels)) == 2

    def normal(self) -> "Split":
        """The normal images only."""
        return self.subset(np.flatnonzero(self.labels == 0))


Size = tuple[int, int]
"""Width and height, in pixels."""

TRACKS = ("auto", "few_labelled", "one_class")


def check_labelled_count(count: int, available: int, where: str) -> None:
    """Raise a ``UserError`` if ``available`` anomalies can't give so many labelled ones."""
    if count > available:
        raise UserError(
            f"labelled.count={count} is more than can be had: {where} {available}; give at most so many, "
            "0 for none, or null for what the data set gives"
        )


def check_track(track: str) -> None:
    """Raise a ``UserError`` unless ``track`` is one of :data:`TRACKS`."""
    if track not in TRACKS:
        raise UserError(f"track={track} is unknown: choose one of {', '.join(TRACKS)}")


@dataclass(frozen=True)
class Dataset:
    """Three splits ready for use: train is normal only, valid and test may be.

    :param native: the smallest and the largest size before images were resized; None if they weren't.
    :param remarks: lines for the user.
    :param digest: of the contents, if it is known.
    :param folder: where the data set is prepared; None if it isn't.
    :param files: the file of each training image by its name; empty if they come from no files of their own.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    native: tuple[Size, Size] | None = None
    remarks: tuple[str, ...] = ()
    digest: str | None = None
    folder: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split, part in (("train", self.train), ("valid", self.valid), ("test", self.test)):
            if not len(part):
                raise UserError(f"{self.name}: the {split} split has no images.")
            shape = part.images.shape[1:]
            if shape != self.train.images.shape[1:] or shape[1] != shape[2]:
                raise UserError(
                    f"{self.name}: all images must be square and of one size and channel count, "
                    f"but train is {self.train.images.shape[1:]} and {split} is {shape}."
                )
        if self.train.labels.any():
            first = self.train.names[int(self.train.labels.argmax())]
            raise UserError(
                f"{self.name}: the train split must be normal only, but {first} is labelled an "
                "anomaly. Move anomalies to valid or test."
            )
        if self.test.labels.all():
            raise UserError(
                f"{self.name}: the test split needs normal images to measure anything, but all "
                f"{len(self.test)} are anomalous."
            )

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return int(self.train.images.shape[1])

    @property
    def size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self.train.images.shape[2])

    def for_track(self, track: str) -> "Dataset":
        """The data set without labelled anomalies in valid, if ``track`` is ``one_class``."""
        check_track(track)
        if track != "one_class" or not self.valid.labels.any():
            return self
        return replace(
            self, valid=self.valid.normal(), digest=None if self.digest is None else f"{self.digest}n"
        )

    def with_labelled(self, count: int, seed: int) -> "Dataset":
        """The data set with so many of the labelled anomalies that valid has, chosen at random."""
        anomalies = np.flatnonzero(self.valid.labels)
        check_labelled_count(count, len(anomalies), "the set labels")
        if count == len(anomalies):
            return self
        chosen = np.random.default_rng(seed).permutation(anomalies)[:count]
        rows = np.sort(np.concatenate([np.flatnonzero(self.valid.labels == 0), chosen]))
        digest = None if self.digest is None else f"{self.digest}-l{count}s{seed}"
        return replace(self, valid=self.valid.subset(rows), digest=digest)

    def with_max_train_images(self, most: int) -> "Dataset":
        """The data set with at most so many training images, evenly spaced."""
        if len(self.train) <= most:
            return self
        picks = np.linspace(0, len(self.train) - 1, most).round().astype(np.int64)
        digest = None if self.digest is None else f"{self.digest}-{most}"
        return replace(self, train=self.train.subset(picks), digest=digest)

    def summary(self) -> str:
        """One line with what is in it, for the head of a log."""
        kind = "grey" if self.channels == 1 else "RGB"
        normal, anomalous = _counts(self.valid)
        valid = f"{normal} normal + {anomalous} anomalous" if anomalous else f"{normal} normal"
        normal, anomalous = _counts(self.test)
        test = f"{normal} + {anomalous}" if anomalous else f"{normal} normal"
        masks = "no pixel masks" if self.test.masks is None else "pixel masks"
        return (
            f"{self.name}: train {len(self.train)} · valid {valid} · test {test} · "
            f"{self.size}×{self.size} {kind}{self._origin()} · {masks}"
        )

    def _origin(self) -> str:
        if self.native is None:
            return ""
        smallest, largest = (f"{width}×{height}" for width, height in self.native)
        return f" from {smallest}" if smallest == largest else f" from {smallest} to {largest}"

    def fingerprint(self) -> str:
        """A short SHA-256 of all images, labels, masks and names; equal for equal contents."""
        if self.digest is not None:
            return self.digest
        digest = hashlib.sha256()
        for part in (self.train, self.valid, self.test):
            masks = np.zeros(0, np.bool_) if part.masks is None else part.masks
            digest_into(digest, (part.images, part.labels, masks))
            digest.update(repr(part.names).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()[:12]


def digest_into(digest: Any, arrays: Iterable[NDArray[Any]]) -> None:
    """Update a hashlib digest with arrays, their shapes and types."""
    for array in arrays:
        digest.update(repr((array.shape, array.dtype.str)).encode())
        for part in in_chunks(array):
            digest.update(part.data)


def in_chunks(array: NDArray[Any], rows: int = 64) -> Iterator[NDArray[Any]]:
    """An array some rows at a time, so that a mapped one is never in memory as a whole."""
    for first in range(0, len(array), rows):
        yield np.ascontiguousarray(array[first : first + rows])


def _counts(split: Split) -> tuple[int, int]:
    anomalous = int(split.labels.sum())
    return len(split) - anomalous, anomalous
