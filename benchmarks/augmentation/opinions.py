"""Part of RESULTS.md: detectors that were joined with a second opinion, beside what they are made of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.augmentation.collect import Row
from benchmarks.augmentation.findings import Findings
from benchmarks.augmentation.plotting import MAIN_METRIC, PIXELS
from benchmarks.augmentation.statistics import over_seeds
from benchmarks.augmentation.wording import cell, spread, table

TRAINED = "transformer"
"""The part that is trained; who gives the second opinion is chosen by every run for itself."""

UNTOUCHED = "none"
"""With other agents the ensemble's own transformer has learned more than the one that stands beside it."""


def ensemble_section(findings: Findings) -> Iterator[str]:
    """The sum and its parts, in the runs that joined them."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in findings.whole:
        # Two, so it is plain which is which: with ``--set detector.baselines=…`` others stand beside them.
        if row.run.agent == UNTOUCHED and TRAINED in row.baselines and len(row.baselines) == 2:
            run = row.run
            groups.setdefault((run.setting, run.track, run.dataset), []).append(row)
    if not groups:
        return
    yield (
        f"`detector=ensemble`, agent {UNTOUCHED}: the transformer and another detector, chosen and weighted "
        "on validation, beside what each of the two says by itself in the same run; paired by seed."
    )
    for metric in (MAIN_METRIC, PIXELS):
        lines = []
        for place, rows in groups.items():
            known = [
                row for row in rows if math.isfinite(row.value(metric)) and metric in row.baselines[TRAINED]
            ]
            if known:
                lines.append([*place, *joined(known, metric)])
        if lines:
            ends = [TRAINED, "other", f"minus {TRAINED}", "minus other"]
            yield table(["setting", "track", "data set", "joined with (runs)", metric, *ends], lines)


def joined(rows: Sequence[Row], metric: str) -> Iterator[str]:
    """Cells: with whom, the sum, its parts, and the sum minus each."""
    names = [next(name for name in row.baselines if name != TRAINED) for row in rows]
    own = np.array([row.value(metric) for row in rows])
    trained = np.array([row.baselines[TRAINED][metric] for row in rows])
    other = np.array([row.baselines[name][metric] for name, row in zip(names, rows, strict=True)])
    yield ", ".join(f"{name} ({number})" for name, number in Counter(names).most_common())
    yield from (spread(values.tolist()) for values in (own, trained, other))
    yield from (cell(over_seeds(own - part)) for part in (trained, other))
