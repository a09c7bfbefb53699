"""What each mixture of samples gave by itself, whichever the validation split chose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.augmentation.collect import Row
from benchmarks.augmentation.statistics import Estimate, over_seeds
from benchmarks.augmentation.tables import DEFAULT

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
    to_random: Mapping[str, Estimate]
    """The same, minus detectors that learned from as many random samples; where the runs tried those."""

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
            same = (("random", round(sum(share for _, share in shares), 6)),)
            yield Mixture(
                place,
                shares,
                len(own),
                sum(is_chosen(row, shares) for row in own),
                differences(own, shares, (), metrics),
                {} if shares == same else differences(own, shares, same, metrics),
            )


def differences(
    rows: Iterable[Row], shares: Shares, others: Shares, metrics: Iterable[str]
) -> dict[str, Estimate]:
    """By metric, one mixture minus another, over the runs that tried both."""
    known = [found for row in rows if others in (found := tried(row))]
    pairs = [(found[shares], found[others]) for found in known]
    return {
        metric: over_seeds(np.array([one[metric] - other[metric] for one, other in pairs]))
        for metric in metrics
        if pairs and all(metric in one and metric in other for one, other in pairs)
    }
