"""Image files to measure with, as many and as large as one likes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from latent_common.progress import progress_bar


def draw_set(root: Path, count: int, side: int, ending: str) -> None:
    """Write ``count`` grey images of ``side`` × ``side`` pixels, noisy as scans are, in MVTec's layout."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(0, 9, side), np.linspace(0, 7, side))
    # Drawing every image anew would take longer than all that is measured.
    waves = [120 + 60 * np.sin(x + phase) * np.cos(y - phase) for phase in rng.uniform(0, 6, 8)]
    noises = 8 * rng.standard_normal((8, side, side), dtype=np.float32)
    parts = {"train/good": count - count // 10, "test/good": count // 20}
    parts["test/spot"] = count - sum(parts.values())
    with progress_bar("drawing images", count) as bar:
        for folder, number in parts.items():
            (root / folder).mkdir(parents=True)
            for index in range(number):
                wave, noise = waves[rng.integers(8)], noises[rng.integers(8)]
                noisy = wave + np.roll(noise, rng.integers(side, size=2), axis=(0, 1))
                image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
                image.save(root / folder / f"{index:06d}.{ending}", compress_level=1)
                bar.update()
