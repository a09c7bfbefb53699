"""The figures of the study, six at most: differences, curves over a number of images, and samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.augmentation.choices import AGENTS, CURVES, DEFAULT, REFERENCE
from benchmarks.augmentation.samples import draw_samples
from benchmarks.cases import Outcome
from benchmarks.differences import Method, Pair, Results
from latent_env.rendering import Picture, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "figures"
MAIN_METRIC = "image_AUROC"
CURVE_METRICS = (MAIN_METRIC, "pixel_AUPRO")
MOST_SAMPLES = 3
AGAINST = (REFERENCE, "random", "gradient")


def draw_figures(
    out: Path, outcomes: Sequence[Outcome], results: Results, pairs: Sequence[Pair]
) -> list[Path]:
    """Draw all that the results allow, below ``<out>/figures``; returns where they are."""
    folder = out / FOLDER
    drawn = [draw_differences(folder / "differences.png", results, pairs)]
    drawn += [draw_curve(folder / f"{name}.png", results, name) for name in CURVES]
    by_dataset: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.case.place[3] == DEFAULT:
            by_dataset.setdefault(outcome.case.place[2], []).append(outcome)
    for dataset, runs in list(by_dataset.items())[:MOST_SAMPLES]:
        first = [run for run in runs if run.case.place == runs[0].case.place and run.case.seed == 0]
        drawn.append(draw_samples(folder / f"samples-{dataset}.png", first))
    return [path for path in drawn if path is not None]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(path: Path, figure: Figure) -> Path:
    """Write a figure as PNG."""
    canvas: Any = figure.canvas
    canvas.draw()
    picture: Picture = np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(path, picture)
    return path


def colour(agent: str) -> str:
    """The colour of an agent, the same in every figure."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    again, number = divmod(list(AGENTS).index(agent), 10)
    return to_hex(colormaps["tab20"](2 * number + again % 2))  # ten strong colours, and then their light ones


def draw_differences(path: Path, results: Results, pairs: Sequence[Pair]) -> Path | None:
    """Differences between agents as points with intervals, a line a place and opponent."""
    chosen = [
        (one, other, estimate)
        for one, other in pairs
        if one[0] == other[0] and one[0][3] == DEFAULT and other[1] in AGAINST
        if (estimate := results.difference((one, other), MAIN_METRIC)) is not None
    ]
    if not chosen:
        return None
    figure = new_figure(8, 1.4 + 0.28 * len(chosen))
    axes = figure.subplots()
    for line, (_, (_, against), estimate) in enumerate(chosen):
        own = colour(against)
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [line, line], color=own, linewidth=1.5)
        axes.plot(
            estimate.mean, line, "o", color=own, markerfacecolor=own if estimate.excludes_zero else "white"
        )
    axes.axvline(0, color="grey", linewidth=0.8, linestyle=":")
    labels = [f"{', '.join(place[:3])}: {agent} - {other[1]}" for (place, agent), other, _ in chosen]
    axes.set_yticks(range(len(chosen)), labels)
    axes.margins(y=0.15)
    axes.invert_yaxis()
    axes.set(xlabel=f"difference of {MAIN_METRIC} with 95 % interval; filled: it excludes 0")
    axes.grid(alpha=0.3, axis="x")
    return save_figure(path, figure)


def draw_curve(path: Path, results: Results, name: str) -> Path | None:
    """Metrics over the number that a curve's variants name: a row of panels a place, a line an agent."""
    found = {place[:3] for place in results.places() if place[3].startswith(f"{name}=")}
    places = [place for place in dict.fromkeys(place[:3] for place in results.places()) if place in found]
    if not places:
        return None
    figure = new_figure(5.5 * len(CURVE_METRICS), 3.8 * len(places))
    rows = figure.subplots(len(places), len(CURVE_METRICS), squeeze=False)
    for place, panels in zip(places, rows, strict=True):
        for metric, axes in zip(CURVE_METRICS, panels, strict=True):
            draw_points(axes, results, place, name, metric)
            axes.set(title=", ".join(place), xlabel=CURVES[name][0], ylabel=f"{metric}, test")
    return save_figure(path, figure)


def draw_points(axes: Axes, results: Results, place: tuple[str, ...], name: str, metric: str) -> None:
    """Mean and range over seeds at every point of a curve."""
    numbers = sorted(
        int(other[3].partition("=")[2])
        for other in results.places()
        if other[:3] == place and other[3].startswith(f"{name}=")
    )
    points = [*(f"{name}={number}" for number in numbers), DEFAULT]
    agents = [agent for agent in results.methods_of((*place, f"{name}={numbers[0]}")) if agent in AGENTS]
    for agent in agents:
        methods: list[Method] = [((*place, point), agent) for point in points]
        values = [results.values(each, metric) if each in results.methods else [] for each in methods]
        known = [number for number, found in enumerate(values) if found]
        middle = [float(np.mean(values[number])) for number in known]
        lowest, highest = ([float(pick(values[number])) for number in known] for pick in (np.min, np.max))
        axes.plot(known, middle, "o-", color=colour(agent), label=agent)
        axes.fill_between(known, lowest, highest, color=colour(agent), alpha=0.15, linewidth=0)
    axes.set_xticks(range(len(points)), [*map(str, numbers), CURVES[name][1]])
    axes.grid(alpha=0.3)
    axes.legend(title="line: mean of seeds,\nband: lowest to highest", fontsize=8, title_fontsize=8)
