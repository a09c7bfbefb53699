"""How an autoencoder learned and what it knows, as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.metrics import image_AUROC
from latent_env.rendering import Picture

Numbers = npt.NDArray[np.floating[Any]]


class Canvas:
    """A figure with one set of axes, and the picture that it becomes."""

    def __init__(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.2), dpi=100, layout="constrained")
        self._canvas = FigureCanvasAgg(figure)
        self.axes: Any = figure.subplots()

    def picture(self) -> Picture:
        """What was drawn, ``(H, W, 3)``."""
        self._canvas.draw()
        picture: Picture = np.asarray(self._canvas.buffer_rgba())[:, :, :3].copy()
        return picture


@contextmanager
def _drawn(title: str, x: str, y: str, legend: bool = True) -> Iterator[Canvas]:
    canvas = Canvas()
    yield canvas
    canvas.axes.set(title=title, xlabel=x, ylabel=y)
    canvas.axes.grid(alpha=0.3)
    if legend:
        canvas.axes.legend()


def over_epochs(
    epochs: Sequence[float], values: Mapping[str, Sequence[float]], title: str, y: str
) -> Picture:
    """Curves by name over epochs, ``(H, W, 3)``."""
    with _drawn(title, "epoch", y) as canvas:
        for name, curve in values.items():
            canvas.axes.plot(epochs, curve, marker=".", label=name)
    return canvas.picture()


def error_distributions(scores: Numbers, labels: npt.NDArray[Any], split: str) -> Picture:
    """Histograms of the errors ``(N,)`` of normal and abnormal images, on common bins."""
    low, high = np.quantile(scores, [0, 0.995])  # a few huge errors would press all others into one bin
    bins = np.linspace(low, max(high, low + 1e-9), 41)
    title = f"reconstruction error, {split} images: AUROC {image_AUROC(scores, labels):.3f}"
    with _drawn(title, "error of an image", "share of images") as canvas:
        for label, name in ((0, "normal"), (1, "abnormal")):
            values = np.minimum(scores[labels == label], bins[-1])
            shares = np.full(len(values), 1 / max(len(values), 1))
            canvas.axes.hist(values, bins, weights=shares, alpha=0.55, label=f"{name} ({len(values)})")
    return canvas.picture()


def memory_use(usage: Numbers, dead: int) -> Picture:
    """The mean weight of every prototype ``(items,)``, from the most to the least used."""
    title = f"memory: {len(usage) - dead} of {len(usage)} prototypes ever matter, {dead} are dead"
    with _drawn(title, "prototypes, most used first", "mean weight", legend=False) as canvas:
        canvas.axes.bar(np.arange(len(usage)), np.sort(usage)[::-1], width=1.0)
    return canvas.picture()
