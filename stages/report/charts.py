"""Charts as inline SVG, in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.metrics import roc_points
from stages.report.markup import Markup, element, joined

WIDTH = 360
"""Charts are so many units wide, so that their text stays readable on a telephone."""

LEFT, RIGHT, TOP, BOTTOM = 52, 18, 12, 36
BINS = 36
TICK, EDGE = 4, 12

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axes:
    """A rectangle of ``height`` units, and the ranges of what is drawn in it."""

    height: int
    across: tuple[float, float]
    up: tuple[float, float]

    def x(self, value: float) -> float:
        """Where a value lies from the left."""
        low, high = self.across
        return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Where a value lies from the top."""
        low, high = self.up
        return round(self.height - BOTTOM - (value - low) / (high - low) * (self.height - BOTTOM - TOP), 1)

    def line(self, points: Points, kind: str) -> Markup:
        """A line through ``points``; those that fall on one place are drawn once."""
        places = list(dict.fromkeys((self.x(x), self.y(y)) for x, y in points))
        return element("polyline", points=" ".join(f"{x:g},{y:g}" for x, y in places), class_=kind)

    def frame(self, ticks: Sequence[float], heights: Sequence[float], across: str, up: str) -> Markup:
        """Both axes with their ticks and what they show."""
        left, low, right = LEFT, self.height - BOTTOM, WIDTH - RIGHT
        parts = [element("path", d=f"M{left},{TOP}V{low}H{right}", class_="axis")]
        places = [(number(tick), self.x(tick), low + 15.0, "middle") for tick in ticks]
        places += [(number(tick), float(left - TICK), self.y(tick) + 4, "end") for tick in heights]
        parts += [element("text", text, x=x, y=y, text_anchor=anchor) for text, x, y, anchor in places]
        middle = (left + right) / 2
        parts.append(element("text", across, x=middle, y=self.height - 4, text_anchor="middle"))
        return joined([*parts, upright(up, (TOP + low) / 2)])

    def drawing(self, title: str, *content: str) -> Markup:
        """The whole chart; ``title`` says what it shows to those who can't see it."""
        return element(
            "svg", element("title", title), *content, viewBox=f"0 0 {WIDTH} {self.height}", role="img"
        )


def upright(text: str, y: float) -> Markup:
    """A text beside the axis that goes up, around the height ``y``."""
    turned = f"rotate(-90 {EDGE} {y})"
    return element("text", text, x=EDGE, y=y, text_anchor="middle", transform=turned)


def number(value: float) -> str:
    """A number at an axis."""
    return f"{value:,.6g}".replace("-", "\N{MINUS SIGN}")


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def roc(
    labels: NDArray[np.int64],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    names: Mapping[str, str],
) -> Markup:
    """ROC curves of a detector without and with augmentation on the same test images.

    :param names: the legends of ``without`` and ``with``.
    """
    axes = Axes(300, (0, 1), (0, 1))
    content = [axes.frame([0, 0.5, 1], [0, 0.5, 1], "false alarms among normal images", "anomalies found")]
    content.append(axes.line([(0, 0), (1, 1)], "chance"))
    for at, (kind, scores) in enumerate((("without", before), ("with", after))):
        false, true = roc_points(scores, labels)
        content.append(axes.line(list(zip(false.tolist(), true.tolist(), strict=True)), f"line {kind}"))
        y = axes.height - BOTTOM - 28 + 17 * at
        content.append(element("path", d=f"M{WIDTH - 190},{y - 4}h24", class_=f"line {kind}"))
        content.append(element("text", names[kind], x=WIDTH - 160, y=y, class_=f"{kind}-text"))
    return axes.drawing(
        "ROC curves: anomalies found against false alarms, without and with augmentation", *content
    )


def score_bars(labels: NDArray[np.int64], scores: NDArray[np.float32], threshold: float | None) -> Markup:
    """How many normal and anomalous images have which score: bars up and down from a line.

    :param scores: ``(N,)``, raw, which ``threshold`` is too.
    """
    marked = [] if threshold is None else [threshold]
    low, high = (float(end([*scores.tolist(), *marked])) for end in (min, max))
    reach = max(high - low, 1e-6 * max(abs(low), 1))
    edges = np.linspace(low - 0.02 * reach, high + 0.02 * reach, BINS + 1)
    counts = [np.histogram(scores[labels == label], edges)[0] for label in (0, 1)]
    shares = [count / max(count.max(), 1) for count in counts]
    axes = Axes(240, (float(edges[0]), float(edges[-1])), (-1.15, 1.15))
    content = [axes.frame(nice_ticks(*axes.across), [], "score of the image", "")]
    middle = axes.y(0)
    for share, kind, up in ((shares[0], "normal", True), (shares[1], "anomaly", False)):
        for left, right, height in zip(edges[:-1], edges[1:], share, strict=True):
            if height:
                end = axes.y(height if up else -height)
                x, width = axes.x(left), axes.x(right) - axes.x(left) - 0.8
                top, tall = min(middle, end), abs(middle - end)
                content.append(
                    element(
                        "rect", x=x, y=f"{top:.1f}", width=f"{width:.1f}", height=f"{tall:.1f}", class_=kind
                    )
                )
    content.append(element("path", d=f"M{LEFT},{middle}H{WIDTH - RIGHT}", class_="axis"))
    content += [upright("normal", axes.y(0.6)), upright("anomalous", axes.y(-0.6))]
    if threshold is not None:
        content.append(_marked(axes, threshold))
    return axes.drawing("Scores of normal and anomalous test images, and the threshold", *content)


def _marked(axes: Axes, threshold: float) -> Markup:
    """An upright line at the threshold, with its name."""
    x = axes.x(threshold)
    line = element("path", d=f"M{x},{TOP}V{axes.height - BOTTOM}", class_="threshold")
    after = x < WIDTH * 0.7
    name = element(
        "text",
        "threshold",
        x=x + 4 if after else x - 4,
        y=TOP + 10,
        text_anchor="start" if after else "end",
        class_="threshold-text",
    )
    return joined([line, name])


def curve(points: Points, across: str, up: str, title: str) -> Markup:
    """A line through ``points``, from left to right."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    reach = max(max(ys) - min(ys), 1e-6 * max(abs(max(ys)), 1))
    axes = Axes(240, (min(0.0, *xs), max(xs)), (min(ys) - 0.1 * reach, max(ys) + 0.2 * reach))
    content = [axes.frame(nice_ticks(*axes.across), nice_ticks(*axes.up), across, up)]
    content.append(axes.line(points, "line with"))
    content += (
        [element("circle", cx=axes.x(x), cy=axes.y(y), r=2.5, class_="dot") for x, y in points]
        if len(points) < 30
        else []
    )
    return axes.drawing(title, *content)


def chart(drawing: Markup, caption: str) -> Markup:
    """A chart with its caption."""
    return element("figure", drawing, element("figcaption", caption))
