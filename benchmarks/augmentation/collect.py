"""From run folders to rows: everything that the report says comes from here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.augmentation.plan import Planned
from benchmarks.augmentation.records import FAILED, MISSING, NEEDED, WHOLE, Outcome, Records
from latent_common.artifacts import read_json

METRICS = ("image_AUROC", "image_AP", "image_F1Max", "pixel_AUROC", "pixel_AP", "pixel_AUPRO")
NO_FACTS = {"metrics", "baselines", "verdict", "seed"}
WITHOUT, WITH = "without", "with"

Curves = Mapping[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Scores:
    """Raw test scores of the detectors before and after."""

    labels: NDArray[np.int64]
    """``(N,)``"""
    before: NDArray[np.float64]
    """``(N,)``"""
    after: NDArray[np.float64]
    """``(N,)``"""


@dataclass(frozen=True)
class Row:
    """A run and what it found."""

    run: Planned
    outcome: Outcome
    report: Mapping[str, Any] = field(default_factory=dict)
    kept: Path = Path()
    """Where its scores and curves lie."""

    @property
    def whole(self) -> bool:
        """Whether it has anything to say."""
        return self.outcome.state == WHOLE

    @property
    def folder(self) -> Path:
        """Where it was made; may be gone."""
        assert self.outcome.folder is not None
        return Path(self.outcome.folder)

    def value(self, metric: str, which: str = WITH) -> float:
        """A metric of the retrained detector, or of the first; NaN where there is none."""
        found = self.report.get("metrics", {}).get(metric, {}).get(which)
        return math.nan if found is None else float(found)

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """The metrics that it has, of both detectors."""
        known = [metric for metric in METRICS if metric in self.report.get("metrics", {})]
        return {metric: {which: self.value(metric, which) for which in (WITHOUT, WITH)} for metric in known}

    @cached_property
    def baselines(self) -> dict[str, dict[str, float]]:
        """Metrics of other detectors on the same images, by their names."""
        found: dict[str, dict[str, float]] = {}
        for key, value in self.report.get("baselines", {}).items():
            for metric in METRICS:
                if key.endswith(f"_{metric}") and value is not None:
                    found.setdefault(key.removesuffix(f"_{metric}"), {})[metric] = float(value)
        return found

    @property
    def facts(self) -> dict[str, Any]:
        """Numbers that the run reports beside its metrics: nothing that names a folder."""
        given = {key: value for key, value in self.report.items() if key not in NO_FACTS}
        return {key: value for key, value in given.items() if only_numbers(value)}

    @cached_property
    def scores(self) -> Scores | None:
        """The raw test scores, where the run kept them."""
        path = self.kept / "scores.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as held:
            floats = (held[name].astype(np.float64) for name in (WITHOUT, WITH))
            return Scores(held["labels"].astype(np.int64), *floats)

    @cached_property
    def curves(self) -> Curves:
        """Metrics of both detectors over their steps, where the run kept them."""
        path = self.kept / "curves.json"
        found: Any = read_json(path) if path.is_file() else {}
        return {WITH: found} if isinstance(found, list) else found


def only_numbers(value: Any) -> bool:
    """Whether a fact is a number, or made of numbers by name."""
    if isinstance(value, Mapping):
        return all(only_numbers(part) for part in value.values())
    return isinstance(value, int | float)


def collect(runs: Iterable[Planned], records: Records) -> list[Row]:
    """A row for every planned run, whole or not."""
    rows = []
    for run in runs:
        outcome = records.outcome(run) or Outcome(MISSING)
        report: Any = {}
        kept = records.kept(run)
        if outcome.state == WHOLE:
            if not (kept / NEEDED[0]).is_file():
                records.keep(run, outcome)
            if (kept / NEEDED[0]).is_file():
                report = read_json(kept / NEEDED[0])
            else:
                outcome = Outcome(FAILED, outcome.folder, error=f"its folder has no {NEEDED[0]}")
        rows.append(Row(run, outcome, report, kept))
    return rows
