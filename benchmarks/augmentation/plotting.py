"""Figures that are drawn: differences with intervals, learning curves, and curves over a number of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.augmentation.collect import WITH, WITHOUT, Row
from benchmarks.augmentation.comparisons import AGAINST, Comparison
from benchmarks.augmentation.tables import AGENTS, CURVES, DEFAULT, Curve
from latent_env.rendering import Picture, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAIN_METRIC = "image_AUROC"
PIXELS = "pixel_AUPRO"
MOST_INSIDE = 5
"""More lines than these have their legend beside the figure, where it hides none of them."""


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
    """The same colour for an agent in every figure."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if agent not in AGENTS:
        return "grey"
    again, number = divmod(list(AGENTS).index(agent), 10)
    return to_hex(colormaps["tab20"](2 * number + again % 2))  # ten strong colours, and then their light ones


def forest(path: Path, comparisons: Iterable[Comparison], agent: str) -> Path | None:
    """Differences of ``agent`` to others as points with intervals, one line a data set and opponent."""
    chosen = [
        each
        for each in comparisons
        if (each.agent, each.metric) == (agent, MAIN_METRIC) and each.against in AGAINST
    ]
    if not chosen:
        return None
    figure = new_figure(8, 1.4 + 0.28 * len(chosen))
    axes = figure.subplots()
    for line, each in enumerate(chosen):
        estimate, own = each.estimate, colour(each.against)
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [line, line], color=own, linewidth=1.5)
        filled = own if estimate.excludes_zero else "white"
        axes.plot(estimate.mean, line, "o", color=own, markerfacecolor=filled)
    axes.axvline(0, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(chosen)), [f"{each.dataset}, {agent} − {each.against}" for each in chosen])
    axes.margins(y=0.15)
    axes.invert_yaxis()
    axes.set(xlabel=f"difference of {MAIN_METRIC} with 95 % interval; filled: it excludes 0")
    axes.grid(alpha=0.3, axis="x")
    return save_figure(path, figure)


def curve_of(row: Row) -> tuple[list[int], list[float]]:
    """Steps and test metric of the retrained detector; an agent that adds nothing has the first one's."""
    points = row.curves.get(WITH) or row.curves.get(WITHOUT) or []
    return [point["step"] for point in points], [point["metrics"][MAIN_METRIC] for point in points]


def learning(path: Path, rows: Iterable[Row], title: str) -> Path | None:
    """The metric over a detector's steps, an agent a line: mean and range over seeds."""
    by_agent: dict[str, list[tuple[list[int], list[float]]]] = {}
    for row in rows:
        if (curve := curve_of(row))[0]:
            by_agent.setdefault(row.run.agent, []).append(curve)
    if not by_agent:
        return None
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    for agent, curves in by_agent.items():
        steps = curves[0][0]
        values = np.array([values for own, values in curves if own == steps])  # (S, T)
        draw_line(axes, steps, values, agent)
    axes.set(xlabel="steps of the detector", ylabel=f"{MAIN_METRIC}, test", title=title)
    return finish(path, figure, axes)


def over_number(path: Path, rows: Sequence[Row], name: str, title: str) -> Path | None:
    """The metric over the number that a curve's variants name, an agent a line; of pixels, too, if known."""
    curve, numbers = CURVES[name], numbers_of(rows, name)
    if not numbers:
        return None
    points = [f"{name}={number}" for number in numbers]
    points = [DEFAULT, *points] if curve.default_first else [*points, DEFAULT]
    rows = [row for row in rows if row.run.variant in points]
    tried = {row.run.agent for row in rows if row.run.variant != DEFAULT}
    shown = [row for row in rows if row.run.agent in tried]
    metrics = [name for name in (MAIN_METRIC, PIXELS) if any(np.isfinite(row.value(name)) for row in shown)]
    if not metrics:
        return None
    figure = new_figure(5.5 * len(metrics), 4.2)
    figure.suptitle(title)
    for metric, axes in zip(metrics, figure.subplots(1, len(metrics), squeeze=False)[0], strict=True):
        draw_points(axes, shown, points, metric)
        axes.set_xticks(range(len(points)), [label(point, curve) for point in points])
        axes.set(xlabel=curve.axis, ylabel=f"{metric}, test")
        legend(axes)
    return save_figure(path, figure)


def draw_points(axes: Axes, rows: Sequence[Row], points: Sequence[str], metric: str) -> None:
    """Mean and range over seeds at every point, an agent a line."""
    agents = {row.run.agent for row in rows}
    for agent in (agent for agent in AGENTS if agent in agents):
        found: dict[str, list[float]] = {point: [] for point in points}
        for row in rows:
            if row.run.agent == agent and np.isfinite(row.value(metric)):
                found[row.run.variant].append(row.value(metric))
        known = [point for point in points if found[point]]
        middle = [float(np.mean(found[point])) for point in known]
        lowest, highest = ([float(pick(found[point])) for point in known] for pick in (np.min, np.max))
        places = [points.index(point) for point in known]
        axes.plot(places, middle, "o-", color=colour(agent), label=agent)
        axes.fill_between(places, lowest, highest, color=colour(agent), alpha=0.15, linewidth=0)


def numbers_of(rows: Iterable[Row], name: str) -> list[int]:
    """The numbers of a curve's variants, in order."""
    parts = {row.run.variant.partition("=")[::2] for row in rows}
    return sorted(int(number) for curve, number in parts if curve == name and number.isdigit())


def label(point: str, curve: Curve) -> str:
    """What stands below a point of a curve."""
    return curve.default if point == DEFAULT else point.partition("=")[2]


def draw_line(axes: Axes, steps: Sequence[int], values: Any, agent: str) -> None:
    """Mean and range of ``values (S, T)`` over ``steps (T,)``."""
    axes.plot(steps, values.mean(0), color=colour(agent), label=agent)
    axes.fill_between(steps, values.min(0), values.max(0), color=colour(agent), alpha=0.15, linewidth=0)


def finish(path: Path, figure: Figure, axes: Axes) -> Path:
    """Grid and legend, and the file."""
    legend(axes)
    return save_figure(path, figure)


def legend(axes: Axes) -> None:
    """What lines and bands are, and a grid to read them by."""
    axes.grid(alpha=0.3)
    many = len(axes.get_lines()) > MOST_INSIDE
    beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if many else {}
    axes.legend(title="line: mean of seeds,\nband: lowest to highest", fontsize=8, title_fontsize=8, **beside)
