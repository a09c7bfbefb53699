"""Inspecting images: measured once, and judged again whenever the threshold moves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent_common.errors import UserError
from latent_env.data.images import open_image, shrink_image
from latent_env.prediction.detector import AnomalyDetector
from latent_env.prediction.pixels import Pixels
from latent_env.prediction.result import Prediction
from latent_env.worlds.thresholds import Decision, Threshold
from stages.predict.pictures import overlaid

SIDE = 480
"""Pictures are shown with at most so many pixels a side."""

MOST = 100
"""So many images are shown at once; `latent-aug predict` takes any number."""


@dataclass(frozen=True, eq=False)
class Measured:
    """An image file that went through the networks."""

    pixels: Pixels
    score: float
    """The detector's raw score."""
    map: NDArray[np.float32]
    """``(size, size)``, raw."""
    base: Image.Image
    """The picture as it is shown, RGB."""


@dataclass(frozen=True)
class Seen:
    """The images that were dropped, by file."""

    measured: Mapping[str, Measured]
    broken: Mapping[str, str]
    """Why each of the others can't be read."""
    left_out: int = 0
    """How many more there are than can be shown."""

    @classmethod
    def nothing(cls) -> Seen:
        """No image at all."""
        return cls({}, {})


@dataclass(frozen=True)
class Consequences:
    """What a threshold would do on the images that it was chosen by."""

    threshold: Threshold
    flagged: int
    """Normal images that score above it."""
    normals: int
    found: int
    """Labelled anomalies that score above it."""
    anomalies: int

    @classmethod
    def of(cls, decision: Decision, threshold: Threshold) -> Consequences:
        """Those of ``threshold`` on the validation images of ``decision``."""
        flagged, found = (
            int((scores > threshold.score).sum()) for scores in (decision.normal, decision.anomalous)
        )
        return cls(threshold, flagged, len(decision.normal), found, len(decision.anomalous))


def measure(detector: AnomalyDetector, files: Sequence[str], earlier: Seen) -> Iterator[Seen]:
    """Measure ``files``, a batch at a time, and yield what is known after each.

    What was measured ``earlier`` isn't measured again; files that are no longer among ``files`` are dropped.
    """
    chosen = files[:MOST]
    measured = {file: earlier.measured[file] for file in chosen if file in earlier.measured}
    broken = {file: earlier.broken[file] for file in chosen if file in earlier.broken}
    waiting = [file for file in chosen if file not in measured and file not in broken]
    left_out = len(files) - len(chosen)
    for first in range(0, len(waiting), detector.together):
        read: dict[str, tuple[Pixels, Image.Image]] = {}
        for file in waiting[first : first + detector.together]:
            try:
                read[file] = _read(detector, Path(file))
            except UserError as error:
                broken[file] = str(error).replace(file, Path(file).name)
        measured |= _measured(detector, read)
        yield Seen(dict(measured), dict(broken), left_out)
    if not waiting:
        yield Seen(measured, broken, left_out)


def judge(detector: AnomalyDetector, seen: Seen) -> list[Prediction]:
    """What the detector's threshold makes of the measured images, in their order."""
    found = list(seen.measured.values())
    if not found:
        return []
    scores = np.array([each.score for each in found], np.float32)
    return detector.judge([each.pixels for each in found], scores, np.stack([each.map for each in found]))


def picture(measured: Measured, prediction: Prediction, with_map: bool) -> Image.Image:
    """The image as it is shown: with its map laid over it, findings outlined, or plain."""
    if not with_map:
        return measured.base
    return overlaid(measured.base, prediction.map, measured.base.size)


def _measured(
    detector: AnomalyDetector, read: Mapping[str, tuple[Pixels, Image.Image]]
) -> dict[str, Measured]:
    if not read:
        return {}
    scores, maps = detector.measure([pixels for pixels, _ in read.values()])
    return {
        file: Measured(pixels, float(scores[at]), maps[at], base)
        for at, (file, (pixels, base)) in enumerate(read.items())
    }


def _read(detector: AnomalyDetector, file: Path) -> tuple[Pixels, Image.Image]:
    """What the networks see of a file, and what a person sees of it."""
    image, native = open_image(file, detector.size)
    pixels = Pixels(shrink_image(image, detector.size, detector.channels), native, file.name)
    width, height = native
    scale = SIDE / max(width, height)
    if image.width < min(width, round(width * scale)):  # a JPEG that was decoded at a fraction of its size
        image, _ = open_image(file, SIDE)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return pixels, image.convert("RGB").resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
