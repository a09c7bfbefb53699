"""Where odd and bad files lie in a small data set, what they hold, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from small_datasets import SIDE, read

from latent_env.data import Dataset, Parts, Problems, Splitting, folder_source

Pixels = NDArray[np.uint8]

TRAIN, ANOMALY, MASK = "train/good/002.png", "test/dent/001.png", "ground_truth/dent/001_mask.png"


def load(
    root: Path, tmp_path: Path, problems: Problems | None = None, channels: int | None = None
) -> Dataset:
    problems = problems or Problems()
    source = folder_source(root, "", Parts(), Splitting(valid_fraction=0.34), problems, channels)
    return read(source, tmp_path, problems)


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


GREY = noise(SIDE, SIDE)


def image_writer(pixels: NDArray[Any], mode: str | None = None, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(path, **options)

    return write
