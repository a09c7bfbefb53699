"""The tables of :mod:`benchmarks.rdna`: every detector's figures, and paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.augmentation.statistics import (
    OF_IMAGES,
    Estimate,
    metric_on_draws,
    over_seeds,
    over_seeds_and_images,
)
from benchmarks.augmentation.wording import cell, code, spread, table
from latent_common.artifacts import write_atomically, write_json

METRICS = ("image_AUROC", "pixel_AUROC", "pixel_AP", "pixel_AUPRO")

PUBLISHED = {"image_AUROC": 0.985, "pixel_AUROC": 0.976, "pixel_AP": 0.728}
"""RDNA on MVTec AD at 256 pixels: means over all fifteen categories."""

FULL_SIZE, AIMED_AT, OURS = "dataset.size=256", "bottle", "rdna"


@dataclass(frozen=True)
class Setting:
    """How large and how long detectors are trained, as keys of train_detector.py."""

    about: str
    of_all: tuple[str, ...]
    of_rdna: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What one training came to on the test split."""

    dataset: str
    arm: str
    seed: int
    metrics: Mapping[str, float]
    scores: NDArray[np.float32]
    """``(N,)``: of the test images."""
    labels: NDArray[np.int64]
    """``(N,)``"""

    def facts(self) -> dict[str, Any]:
        """Plain values of it."""
        return {"dataset": self.dataset, "arm": self.arm, "seed": self.seed, **self.metrics}


def write_report(
    folder: Path, outcomes: Sequence[Outcome], planned: int, setting: Setting, facts: Mapping[str, Any]
) -> None:
    """Write ``RESULTS.md`` and ``rdna.json`` of what is measured so far."""
    found = [
        {"dataset": name, "metric": metric, "minus": other, **vars(estimate)}
        for name, of_set in by_dataset(outcomes).items()
        for other in others(of_set)
        for metric, estimate in differences(of_set, other).items()
    ]
    rows = [outcome.facts() for outcome in outcomes]
    shared = {**facts, "setting": vars(setting), "planned": planned, "published": PUBLISHED}
    write_json(folder / "rdna.json", {**shared, "rows": rows, "differences": found})
    write_atomically(folder / "RESULTS.md", report(outcomes, planned, setting, facts).encode())


def report(outcomes: Sequence[Outcome], planned: int, setting: Setting, facts: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    keys = " ".join([*setting.of_all, *(f"{key} (rdna)" for key in setting.of_rdna), *facts.get("keys", ())])
    parts = [
        "# Reconstruct, discriminate, and discriminators",
        f"{setting.about[0].upper()}{setting.about[1:]}. `{keys}`",
        code([str(facts["command"])]),
        f"Commit {facts['commit']}." if facts.get("commit") else "",
        f"Not finished: {len(outcomes)} of {planned} trainings." if len(outcomes) < planned else "",
    ]
    for name, of_set in by_dataset(outcomes).items():
        parts += [f"## {name}", figures(of_set), *compared(of_set)]
        parts += verdict(name, of_set, setting, facts.get("keys", ()))
    parts.append(
        "Mean ± standard deviation over seeds (number of seeds). Differences are paired by seed, with 95 % "
        "intervals: of image_AUROC over seeds and test images (with one seed over images alone, so the luck "
        "of training is not in it), of pixel metrics over seeds, from three seeds on; bold where they "
        "exclude zero."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def by_dataset(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of every data set, in order."""
    names = dict.fromkeys(outcome.dataset for outcome in outcomes)
    return {name: [outcome for outcome in outcomes if outcome.dataset == name] for name in names}


def figures(of_set: Sequence[Outcome]) -> str:
    """A line a detector."""
    arms = dict.fromkeys(outcome.arm for outcome in of_set)
    lines = [[arm, *(spread(values_of(of_set, arm, metric)) for metric in METRICS)] for arm in arms]
    return table(["detector", *METRICS], lines)


def values_of(of_set: Sequence[Outcome], arm: str, metric: str) -> list[float]:
    """A metric of one detector for every seed; nothing where there are no masks."""
    return [outcome.metrics[metric] for outcome in of_set if outcome.arm == arm and metric in outcome.metrics]


def others(of_set: Sequence[Outcome]) -> list[str]:
    """What ours is compared with."""
    return [arm for arm in dict.fromkeys(outcome.arm for outcome in of_set) if arm != OURS]


def compared(of_set: Sequence[Outcome]) -> Iterator[str]:
    """A table of differences, if there is something to compare."""
    lines = []
    for other in others(of_set):
        found = differences(of_set, other)
        if found:
            lines.append([other, *(cell(found.get(metric)) for metric in METRICS)])
    if lines:
        yield table([f"{OURS} minus", *METRICS], lines)


def differences(of_set: Sequence[Outcome], other: str) -> dict[str, Estimate]:
    """By how much ours is better than another on each metric, over the seeds that have both."""
    ours, theirs = ({o.seed: o for o in of_set if o.arm == arm} for arm in (OURS, other))
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    found: dict[str, Estimate] = {}
    for metric in METRICS if pairs else ():
        if not all(metric in each.metrics for pair in pairs for each in pair):
            continue
        gains = np.array([a.metrics[metric] - b.metrics[metric] for a, b in pairs])
        if metric not in OF_IMAGES:
            found[metric] = over_seeds(gains)
            continue
        drawn = [redrawn(metric, a) - redrawn(metric, b) for a, b in pairs]
        found[metric] = over_seeds_and_images(gains, np.stack(drawn))
    return found


def redrawn(metric: str, outcome: Outcome) -> NDArray[np.float64]:
    """A metric ``(R,)`` on draws of the test images that are the same for all detectors."""
    return metric_on_draws(metric, outcome.labels, outcome.scores.astype(np.float64))


def verdict(name: str, of_set: Sequence[Outcome], setting: Setting, keys: Sequence[str]) -> Iterator[str]:
    """Whether what is published is reached, in the setting and on the data that it is meant for."""
    full = FULL_SIZE in setting.of_all and not any(key.startswith("dataset.size=") for key in keys)
    if name != AIMED_AT or not full or not any(outcome.arm == OURS for outcome in of_set):
        return
    said = []
    for metric, wanted in PUBLISHED.items():
        mean = float(np.mean(values_of(of_set, OURS, metric)))
        said.append(f"{metric} {mean:.4f}, {wanted:g} is {'reached' if mean >= wanted else 'not reached'}")
    yield f"Published, mean of fifteen categories: {'; '.join(said)}."
