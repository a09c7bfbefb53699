"""Every agent against the others and against detectors of normal images, seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.augmentation.collect import METRICS, Row
from benchmarks.augmentation.statistics import (
    OF_IMAGES,
    Estimate,
    Floats,
    metric_on_draws,
    over_seeds,
    over_seeds_and_images,
)
from benchmarks.augmentation.tables import DEFAULT, FOCUS

AGAINST = ("none", "random", "gradient")
"""What every agent is compared with, beside the rivals and, in a variant, itself without its keys.
The agent that the verdict is about is compared with all others."""

Place = tuple[str, str, str, str]
"""Setting, track, data set and variant: only runs that share all four are compared with each other, and those
that share the first three with the default."""


@dataclass(frozen=True)
class Comparison:
    """One agent minus another, or minus itself as it is by default."""

    setting: str
    track: str
    dataset: str
    variant: str
    metric: str
    agent: str
    against: str
    seeds: int
    """How many both have."""
    estimate: Estimate

    @property
    def place(self) -> Place:
        """What both share."""
        return self.setting, self.track, self.dataset, self.variant

    def flat(self) -> dict[str, Any]:
        """As plain values."""
        fields = asdict(self)
        estimate = fields.pop("estimate")
        return {**fields, **estimate}


def by_place(rows: Iterable[Row]) -> dict[Place, list[Row]]:
    """Whole rows that can be compared."""
    found: dict[Place, list[Row]] = {}
    for row in rows:
        if row.whole:
            run = row.run
            found.setdefault((run.setting, run.track, run.dataset, run.variant), []).append(row)
    return found


def compare_all(rows: Iterable[Row], bar: Callable[[], object] = lambda: None) -> list[Comparison]:
    """All comparisons that the rows allow; ``bar`` is called after every group of them."""
    found: list[Comparison] = []
    places, drawn = by_place(rows), Drawn()
    for place, group in places.items():
        found += compare_group(place, group, drawn)
        if place[3] != DEFAULT:
            found += compare_with_default(place, group, places.get((*place[:3], DEFAULT), []), drawn)
        bar()
    return found


def by_agent(rows: Iterable[Row]) -> dict[str, dict[int, Row]]:
    """Rows of one place by agent and seed."""
    found: dict[str, dict[int, Row]] = {}
    for row in rows:
        found.setdefault(row.run.agent, {})[row.run.seed] = row
    return found


def compare_group(place: Place, rows: Sequence[Row], drawn: Drawn) -> Iterator[Comparison]:
    """The comparisons of one place."""
    agents = by_agent(rows)
    for agent, own in agents.items():
        baselines = dict.fromkeys(name for row in own.values() for name in row.baselines)
        others = dict.fromkeys(name for name in (*AGAINST, *agents) if name in agents and name != agent)
        if agent != FOCUS:
            others = {name: None for name in others if name in AGAINST}
        for metric in METRICS:
            for against in (*others, *baselines):
                if against in others:
                    result = compare_pairs(metric, pairs_of(own, agents[against]), drawn)
                else:
                    result = compare_baseline(metric, against, list(own.values()))
                if result is not None:
                    yield Comparison(*place, metric, agent, against, *result)


def compare_with_default(
    place: Place, rows: Sequence[Row], as_usual: Sequence[Row], drawn: Drawn
) -> Iterator[Comparison]:
    """Every agent of a variant minus the same agent without the variant's keys."""
    usual = by_agent(as_usual)
    for agent, own in by_agent(rows).items():
        for metric in METRICS:
            result = compare_pairs(metric, pairs_of(own, usual.get(agent, {})), drawn)
            if result is not None:
                yield Comparison(*place, metric, agent, DEFAULT, *result)


def pairs_of(one: dict[int, Row], other: dict[int, Row]) -> list[tuple[Row, Row]]:
    """The runs of the same seeds."""
    return [(one[seed], other[seed]) for seed in one.keys() & other]


def compare_baseline(metric: str, baseline: str, rows: Sequence[Row]) -> tuple[int, Estimate] | None:
    """The agent minus a detector that it can't change, over seeds; None if that isn't known."""
    known = [row for row in rows if metric in row.baselines.get(baseline, {})]
    differences = np.array([row.value(metric) - row.baselines[baseline][metric] for row in known])
    differences = differences[np.isfinite(differences)]
    return (len(differences), over_seeds(differences)) if len(differences) else None


def compare_pairs(metric: str, pairs: Sequence[tuple[Row, Row]], drawn: Drawn) -> tuple[int, Estimate] | None:
    """The first of every pair minus the second; None if the metric isn't known."""
    pairs = sorted(pairs, key=lambda pair: pair[0].run.seed)
    pairs = [pair for pair in pairs if np.isfinite(pair[0].value(metric) - pair[1].value(metric))]
    if not pairs:
        return None
    differences = np.array([one.value(metric) - other.value(metric) for one, other in pairs])
    if metric not in OF_IMAGES or not same_images([row for pair in pairs for row in pair]):
        return len(pairs), over_seeds(differences)
    on_draws = np.stack([drawn(one, metric) - drawn(other, metric) for one, other in pairs])
    return len(pairs), over_seeds_and_images(differences, on_draws)


def same_images(rows: Sequence[Row]) -> bool:
    """Whether all were judged by test images of the same labels, and kept their scores."""
    scores = [row.scores for row in rows]
    first = scores[0]
    return first is not None and all(
        each is not None and np.array_equal(each.labels, first.labels) for each in scores
    )


class Drawn:
    """Metrics on draws of the test images: made once a run, whatever it is compared with."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Floats] = {}

    def __call__(self, row: Row, metric: str) -> Floats:
        """The metric ``(R,)``."""
        key = (row.run.key, metric)
        if key not in self.known:
            assert row.scores is not None
            self.known[key] = metric_on_draws(metric, row.scores.labels, row.scores.after)
        return self.known[key]
