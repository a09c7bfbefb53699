"""What each mixture of samples gave by itself, whichever the validation split chose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.augmentation.collect import Row
from benchmarks.augmentation.plan import DEFAULT
from benchmarks.augmentation.statistics import Estimate, over_seeds

Shares = tuple[tuple[str, float], ...]
"""Sources and how many of a batch's anomalies come from each; empty: image-space synthesis alone."""


@dataclass(frozen=True)
class Mixture:
    """Detectors that learned from the same mixture in several runs, minus those that learned from none."""

    place: tuple[str, str, str, str]
    """Setting, track, data set and agent."""
    shares: Shares
    seeds: int
    chosen: int
    """In so many of them the validation split chose it."""
    differences: Mapping[str, Estimate]
    """By metric, on the test split."""

    @property
    def named(self) -> str:
        """The shares as text."""
        return " and ".join(f"{share:.0%} {source}" for source, share in self.shares)


def tried(row: Row) -> dict[Shares, dict[str, float]]:
    """Test metrics of every mixture that a run tried, where it noted them."""
    given: list[dict[str, Any]] = row.report.get("mixtures_tried", [])
    return {tuple(each["shares"].items()): each["test"] for each in given if "test" in each}


def is_chosen(row: Row, shares: Shares) -> bool:
    """Whether a run chose these shares."""
    given = dict(shares)
    wanted = (row.report.get("share_learned", 0), row.report.get("share_random", 0))
    return bool(np.allclose((given.get("learned", 0), given.get("random", 0)), wanted))


def mixtures_of(rows: Iterable[Row], metrics: Iterable[str]) -> Iterator[Mixture]:
    """All mixtures of agents without further keys."""
    groups: dict[tuple[tuple[str, str, str, str], Shares], list[Row]] = {}
    for row in rows:
        run = row.run
        if row.whole and run.variant == DEFAULT:
            place = (run.setting, run.track, run.dataset, run.agent)
            for shares in tried(row):
                groups.setdefault((place, shares), []).append(row)
    metrics = list(metrics)
    for (place, shares), own in groups.items():
        if shares:
            pairs = [(tried(row)[shares], tried(row)[()]) for row in own]
            found = {
                metric: over_seeds(np.array([after[metric] - before[metric] for after, before in pairs]))
                for metric in metrics
                if all(metric in before and metric in after for after, before in pairs)
            }
            yield Mixture(place, shares, len(own), sum(is_chosen(row, shares) for row in own), found)
