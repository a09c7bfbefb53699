"""From samples to files: decoding and resizing on all cores, writing in order."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from latent_common.errors import UserError
from latent_common.machine import cores
from latent_common.progress import progress_bar
from latent_env.data.dataset import Size, digest_into
from latent_env.data.images import is_grey, shrink_image, shrink_mask
from latent_env.data.samples import Problems, Sample, Source, shortened
from latent_env.data.splitting import evenly_spaced_samples
from latent_env.data.prepared.split_files import (SplitWriter, open_split)

MANY_FILES = 50
"""From so many files on there is a progress bar."""

GREY_PROBES = 8
"""So many training images decide between grey and RGB."""

DARK = 32
"""Data sets whose largest value (of 255) is below this get a remark."""

AHEAD = 4
"""For each thread, so many images are decoded ahead of the one that is written."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Decoded:
    """One image ready to be written."""

    image: NDArray[np.uint8]
    """``(C, H, W)``"""
    mask: NDArray[np.bool_] | None
    """``(H, W)``"""
    native: Size
    digest: bytes
    """Of the decoded pixels; equal for copies of an image."""


@dataclass
class Findings:
    """Facts about a data set that are collected while it is decoded."""

    natives: set[Size] = field(default_factory=set)
    copies: list[dict[str, str]] = field(default_factory=list)
    """Images whose pixels are those of an image in an earlier split."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """The number of images by split and label."""
    brightest: int = 0
    """The largest value, from 0 to 255."""
    _first: dict[bytes, tuple[str, str]] = field(default_factory=dict)

    def note(self, split: str, sample: Sample, decoded: Decoded) -> None:
        """Count one image, and compare it with all earlier ones."""
        counts = self.counts.setdefault(split, {"normal": 0, "anomalous": 0})
        counts["anomalous" if sample.label else "normal"] += 1
        self.natives.add(decoded.native)
        self.brightest = max(self.brightest, int(decoded.image.max()))
        first_split, first_name = self._first.setdefault(decoded.digest, (split, sample.name))
        if first_split != split:
            copy = {"split": split, "name": sample.name, "of_split": first_split, "of_name": first_name}
            self.copies.append(copy)

    def remarks(self) -> list[str]:
        """Lines for the user."""
        remarks = []
        if self.brightest < DARK:
            remarks.append(
                f"all images are very dark (at most {self.brightest} of 255), as 12-bit images are in 16-bit "
                "files: save them so that they use the whole range"
            )
        if not self.copies:
            return remarks
        lines = ["{name} ({split}) = {of_name} ({of_split})".format(**copy) for copy in self.copies]
        what = "image is an exact copy" if len(lines) == 1 else "images are exact copies"
        head = f"{len(lines)} {what} of images in another split, so figures on them say little:"
        return [*remarks, "\n  ".join([head, *shortened(lines)])]


def decode_all(source: Source, size: int, folder: Path, problems: Problems, progress: bool) -> dict[str, Any]:
    """Write every split of ``source`` as ``.npz`` into ``folder``; returns facts for ``prepared.json``."""
    already = len(problems.skipped)
    every = [sample for samples in source.splits.values() for sample in samples]
    channels = source.channels or decide_channels(next(iter(source.splits.values())), size)
    with_masks = any(sample.masked for sample in every)
    findings = Findings()
    hidden = not progress or len(every) < MANY_FILES
    with (
        progress_bar(f"preparing {source.name}", len(every), hidden=hidden) as bar,
        ThreadPoolExecutor(cores()) as pool,
    ):
        for split, samples in source.splits.items():
            # Pillow decodes and resizes outside of Python's lock, so threads are enough.
            decoded = _ordered(pool, lambda sample: _decode(sample, size, channels), samples)
            writer = SplitWriter(folder, split, channels, size, with_masks)
            with contextlib.closing(writer), contextlib.closing(decoded):
                for sample, future in decoded:
                    bar.update()
                    try:
                        done = future.result()
                    except UserError as error:
                        problems.note(str(error))
                        continue
                    writer.append(done.image, done.mask, sample.label, sample.name)
                    findings.note(split, sample, done)
                writer.finish()
            _check_left(source, split, findings, problems)
    natives = sorted(findings.natives, key=lambda native: (native[0] * native[1], native))
    return {
        "name": source.name,
        "digest": _digest(folder, source.splits),
        "splits": findings.counts,
        "size": size,
        "channels": channels,
        "masks": with_masks,
        "native": [natives[0], natives[-1]],
        "skipped": problems.skipped[already:],
        "copies": findings.copies,
        "remarks": findings.remarks(),
    }


def decide_channels(samples: Sequence[Sample], size: int) -> int:
    """1 if some evenly spaced samples are all grey, 3 if one of them has colour."""
    for sample in evenly_spaced_samples(samples, GREY_PROBES):
        with contextlib.suppress(UserError):  # decoding it later gives the error, or skips it
            if not is_grey(sample.image(size)[0]):
                return 3
    return 1


def _decode(sample: Sample, size: int, channels: int) -> Decoded:
    image, native = sample.image(size)
    mask = shrink_mask(sample.mask(native), size) if sample.masked else None
    small = np.ascontiguousarray(shrink_image(image, size, channels))
    # A checksum of all pixels distinguishes images that are equal only when small; a real digest of them would
    # take a tenth of the time.
    key = f"{image.size} {zlib.crc32(np.asarray(image).data)}".encode()
    return Decoded(small, mask, native, hashlib.blake2b(small.data, digest_size=12, key=key).digest())


def _ordered(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T]
) -> Generator[tuple[T, Future[R]], None, None]:
    """Run ``function`` on every item, in order, a few items ahead, so that memory stays bounded."""
    waiting: deque[tuple[T, Future[R]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > AHEAD * cores():
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:  # after an error or Ctrl-C the rest isn't needed
        for _, future in waiting:
            future.cancel()


def _check_left(source: Source, split: str, findings: Findings, problems: Problems) -> None:
    """Raise a ``UserError`` if skipping broken files left nothing of a label that was there."""
    for label, what in ((0, "normal"), (1, "anomalous")):
        there = any(sample.label == label for sample in source.splits[split])
        if there and not findings.counts.get(split, {}).get(what):
            reasons = "\n  ".join(shortened(problems.skipped))
            raise UserError(f"{source.name}: no {what} image is left in {split}. Skipped were\n  {reasons}")


def _digest(folder: Path, splits: Mapping[str, Any]) -> str:
    """A digest of all contents."""
    digest = hashlib.sha256()
    for split in splits:
        part = open_split(folder / f"{split}.npz")
        masks = np.zeros(0, np.bool_) if part.masks is None else part.masks
        digest_into(digest, (part.images, part.labels, masks))
        digest.update(repr(part.names).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:12]
