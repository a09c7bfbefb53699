"""ROC and precision-recall curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve

from detectors.metrics import image_AP, image_AUROC, roc_points
from latent_env.rendering import Picture


def curves(labels: npt.NDArray[Any], scores: Mapping[str, npt.NDArray[Any]]) -> Picture:
    """ROC and precision-recall curves of several detectors on the same images, ``(H, W, 3)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    roc, precision = figure.subplots(1, 2)
    for name, values in scores.items():
        false, true = roc_points(values, labels)
        roc.plot(false, true, label=f"{name}: AUROC {image_AUROC(values, labels):.3f}")
        correct, found, _ = precision_recall_curve(labels, values)
        precision.plot(found, correct, label=f"{name}: AP {image_AP(values, labels):.3f}")
    roc.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC, images")
    precision.set(xlabel="recall", ylabel="precision", title="precision and recall, images")
    for axes in (roc, precision):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower center")
    canvas.draw()
    picture: Picture = np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
    return picture
