"""Rates of several ways to do the same work, measured in turns: on a shared machine only ratios say much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

import torch

from latent_common.progress import progress_bar

Work = Callable[[], int]
"""Does a piece of work and returns how many items (steps, images) it was."""


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one way is as another, over the repeats."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Ratio:
        """Median and quartiles."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(median(values), low, high)

    def __str__(self) -> str:
        return f"{self.middle:.3g} ({self.low:.3g} to {self.high:.3g})"


Rates = Mapping[str, list[float]]
"""Items a second of every way, one for each repeat."""


def in_turns(ways: Mapping[str, Work], repeats: int, seconds: float, label: str) -> Rates:
    """The rates of all ways, each of which works for ``seconds`` (or one piece of work) in every repeat.

    The order is reversed in every other repeat, so that no way always follows the same one. A first round
    warms up and isn't counted.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with progress_bar(label, len(ways) * (repeats + 1)) as bar:
        for work in ways.values():
            work()
            bar.update()
        for repeat in range(repeats):
            for name in list(ways) if repeat % 2 else reversed(list(ways)):
                rates[name].append(_rate(ways[name], seconds))
                bar.update()
    return rates


def ratio(rates: Rates, way: str, against: str) -> Ratio:
    """The rate of ``way`` over that of ``against``, repeat by repeat."""
    return Ratio.of([a / b for a, b in zip(rates[way], rates[against], strict=True)])


def _rate(work: Work, seconds: float) -> float:
    wait()
    began, items = perf_counter(), 0
    while not items or perf_counter() - began < seconds:
        items += work()
    wait()
    return items / (perf_counter() - began)


def wait() -> None:
    """Wait until a GPU has finished what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
