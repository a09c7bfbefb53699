"""Soft-edged shapes on a square canvas, which the phantom is drawn with.

Lengths are in half canvas widths: ``x`` runs from -1 at the left edge to 1 at the right, ``y`` from
-1 at the top to 1 at the bottom. A shape is its coverage, ``(H, W)`` float in [0, 1], with an edge one pixel
wide, so that it looks the same at every resolution.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Canvas:
    """The coordinates of every pixel; ``x`` and ``y`` are ``(H, W)``, in half canvas widths."""

    x: Field
    y: Field

    @property
    def pixel(self) -> float:
        """Width of one pixel, in half canvas widths."""
        return 2.0 / len(self.x)

    def ellipse(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        angle: float = 0.0,
        waves: NDArray[np.float64] | None = None,
        edge: float = 1.0,
    ) -> Field:
        """Coverage of an ellipse, ``(H, W)``.

        :param angle: turn of the first radius from the x axis, in radians.
        :param waves: ``(K, 3)`` rows of frequency, amplitude (share of the radius) and phase that
            make the outline uneven.
        :param edge: width of the soft edge, in pixels.
        """
        cos, sin = np.cos(angle), np.sin(angle)
        x, y = self.x - np.float32(centre[0]), self.y - np.float32(centre[1])
        u = (x * np.float32(cos) + y * np.float32(sin)) / np.float32(radii[0])
        v = (y * np.float32(cos) - x * np.float32(sin)) / np.float32(radii[1])
        distance = np.sqrt(u * u + v * v)  # 1 on the outline
        if waves is not None:
            theta = np.arctan2(v, u)
            outline = np.ones_like(distance)
            for frequency, amplitude, phase in waves.astype(np.float32):
                outline += amplitude * np.cos(frequency * theta + phase)
            distance /= outline
        return soft((1 - distance) * np.float32(min(radii)), self.pixel * edge)

    def tube(self, start: tuple[float, float], end: tuple[float, float], width: tuple[float, float]) -> Field:
        """Coverage of a vessel ``(H, W)`` whose radius goes from ``width[0]`` to ``width[1]``."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        x, y = self.x - np.float32(start[0]), self.y - np.float32(start[1])
        along = (x * np.float32(dx) + y * np.float32(dy)) / np.float32(dx * dx + dy * dy + 1e-9)
        along = np.clip(along, 0, 1)
        gap = np.hypot(x - along * np.float32(dx), y - along * np.float32(dy))
        depth = width[0] + along * (width[1] - width[0]) - gap
        return soft(depth.astype(np.float32), self.pixel)


def make_canvas(size: int, zoom: float, angle: float, shift: tuple[float, float]) -> Canvas:
    """A canvas of ``size`` × ``size`` pixels, seen enlarged, turned (radians) and shifted."""
    axis = ((np.arange(size) + 0.5) * (2.0 / size) - 1).astype(np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    x, y = (x - np.float32(shift[0])) / zoom, (y - np.float32(shift[1])) / zoom
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return Canvas((x * cos + y * sin).astype(np.float32), (y * cos - x * sin).astype(np.float32))


def soft(depth: Field, edge: float) -> Field:
    """Coverage ``(H, W)`` from the signed depth below the outline; ``edge`` is the ramp's width."""
    coverage: Field = np.clip(depth / np.float32(edge) + np.float32(0.5), 0, 1, dtype=np.float32)
    return coverage


def paint(image: Field, coverage: Field, value: float | Field) -> None:
    """Lay ``value`` over ``image`` in place, by ``coverage``; all ``(H, W)``."""
    image += coverage * (np.float32(value) - image)


def smooth_noise(rng: np.random.Generator, size: int, sigma: float) -> Field:
    """Gaussian noise ``(size, size)`` correlated over ``sigma`` pixels, mean 0 and variance 1."""
    noise = gaussian_filter(rng.standard_normal((size, size), dtype=np.float32), sigma, mode="wrap")
    scaled: Field = (noise - noise.mean()) / (noise.std() + np.float32(1e-6))
    return scaled


def random_waves(rng: np.random.Generator, roughness: float) -> NDArray[np.float64]:
    """Low-frequency waves ``(4, 3)`` for an outline that is off by about ``roughness``."""
    frequency = np.arange(2, 6)
    amplitude = rng.normal(0, roughness, 4) / np.sqrt(frequency)
    return np.stack([frequency, amplitude, rng.uniform(0, 2 * np.pi, 4)], axis=1)
