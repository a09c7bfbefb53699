"""All figures of a study, and what the report says below each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.augmentation.collect import Row
from benchmarks.augmentation.comparisons import Comparison, Place, by_place
from benchmarks.augmentation.pictures import cases, samples
from benchmarks.augmentation.plan import Planned
from benchmarks.augmentation.plotting import MAIN_METRIC, forest, learning, over_number
from benchmarks.augmentation.tables import CURVES, DEFAULT
from latent_env.data import Split

FOREST, LEARNING, CURVE, SAMPLES, CASES = "forest", "learning", "curve", "samples", "cases"
FOLDER = "figures"
MARKED = "marked as anomalous: pixels (white) and tokens (grey), which detectors of latents learn from"

TestSplit = Callable[[Planned], Split | None]
"""The test images of a run, if they can be had."""


@dataclass(frozen=True)
class Shown:
    """A figure of the report."""

    kind: str
    path: Path
    """From the report's folder on."""
    caption: str


def draw_figures(
    out: Path, rows: Sequence[Row], comparisons: Sequence[Comparison], focus: str, test_split: TestSplit
) -> list[Shown]:
    """Draw all that the rows allow, below ``<out>/figures``."""
    shown: list[Shown] = []
    places = by_place(rows)

    def keep(kind: str, path: Path | None, caption: str) -> None:
        if path is not None and path.is_file():
            shown.append(Shown(kind, path.relative_to(out), caption))

    def file(*parts: str) -> Path:
        return out / FOLDER / f"{'-'.join(parts)}.png"

    for setting, track in dict.fromkeys(place[:2] for place in places):
        chosen = [each for each in comparisons if each.place[:2] == (setting, track)]
        chosen = [each for each in chosen if each.variant == DEFAULT]
        drawn = forest(file(FOREST, setting, track), chosen, focus)
        keep(FOREST, drawn, f"{focus} minus others by {MAIN_METRIC}: {setting}, {track}")
    for place, group in places.items():
        setting, track, dataset, variant = place
        title = f"{dataset}: {setting}, {track}"
        if variant == DEFAULT:
            keep(LEARNING, learning(file(LEARNING, setting, track, dataset), group, title), title)
            # What these are drawn from may be gone; what was drawn while it was there still stands.
            path = file(SAMPLES, setting, track, dataset)
            samples(path, group)
            keep(SAMPLES, path, f"{title}, seed {group[0].run.seed}; {MARKED}")
            path = file(CASES, setting, track, dataset)
            keep(CASES, path, worst(path, group, focus, test_split, title))
    for name in CURVES:
        for place in (place for place in places if place[3] == DEFAULT):
            group = alike(places, place)
            title = f"{place[2]}: {place[0]}, {place[1]}"
            keep(
                CURVE,
                over_number(file(CURVE, name, *place[:3]), group, name, title),
                f"{CURVES[name].axis}, {title}",
            )
    return shown


def alike(places: dict[Place, list[Row]], place: Place) -> list[Row]:
    """The rows of a place and of its variants."""
    return [row for other, rows in places.items() if other[:3] == place[:3] for row in rows]


def worst(path: Path, rows: Sequence[Row], focus: str, test_split: TestSplit, title: str) -> str:
    """Draw the most wrong scores of the first seed's run of ``focus``; returns what it shows."""
    row = next((row for row in rows if row.run.agent == focus), None)
    if row is None or row.scores is None:
        return ""
    if (split := test_split(row.run)) is not None:
        cases(path, row.scores, split)
    return (
        f"{title}, detector of {focus}, seed {row.run.seed}: anomalies with the lowest scores, "
        "normals with the highest, anomalies with the highest"
    )
