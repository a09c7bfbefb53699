"""Learning curves: a picture a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.cases import Outcome
from benchmarks.differences import Pair, Results
from latent_env.worlds.store import COMPLETE

STRAIGHT = {"random": "tab:gray", "nothing": "tab:brown", "constant": "black"}
"""Policies that are drawn as a line across, and their colours."""


def draw_curves(out: Path, outcomes: Sequence[Outcome], results: Results, _: Sequence[Pair]) -> list[Path]:
    """Draw for every task what learners reach after so many steps: mean, lowest and highest of the seeds."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = []
    for place in results.places():
        figure, axes = plt.subplots(figsize=(5, 3), dpi=100)
        for method in results.methods_of(place):
            curves = [
                outcome.read(COMPLETE)["curve"]
                for outcome in outcomes
                if (outcome.case.place, outcome.case.method) == (place, method)
            ]
            if curves and curves[0]:
                _band(axes, method, curves)
            elif method in STRAIGHT:
                level = float(np.mean(results.values((place, method), "return")))
                axes.axhline(level, color=STRAIGHT[method], linestyle=":", label=method)
        axes.set(xlabel="steps", ylabel="return", title=place[0])
        axes.legend(fontsize=7)
        figure.tight_layout()
        path = out / f"{place[0]}.png"
        figure.savefig(path)
        plt.close(figure)
        drawn.append(path)
    return drawn


def _band(axes: matplotlib.axes.Axes, method: str, curves: Sequence[Sequence[tuple[int, float]]]) -> None:
    """Draw the curves of one method, cut to the points that all of them have."""
    points = min(map(len, curves))
    steps = [step for step, _ in curves[0][:points]]
    values = np.array([[value for _, value in curve[:points]] for curve in curves])
    (line,) = axes.plot(steps, values.mean(0), label=method)
    axes.fill_between(steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.2)
