"""The before/after table: what augmentation changed, and whether this run can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectors.metrics import image_AP, image_AUROC, paired_bootstrap
from latent_common.artifacts import write_atomically, write_json
from latent_env.training.evaluation import Evaluation

BEFORE, AFTER = "without augmentation", "with augmentation"
BOOTSTRAPPED = {"image_AUROC": image_AUROC, "image_AP": image_AP}


@dataclass(frozen=True)
class Row:
    """One metric with and without augmentation."""

    metric: str
    before: float
    after: float
    interval: tuple[float, float] | None
    """95 % interval of the difference over resampled test images, where it was computed."""

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


def compare(before: Evaluation, after: Evaluation) -> list[Row]:
    """A row a metric, from the scores of both detectors on the same images."""
    rows = []
    for name, value in before.metrics.items():
        interval = None
        if name in BOOTSTRAPPED:
            labels = before.split.labels
            _, low, high = paired_bootstrap(BOOTSTRAPPED[name], labels, before.scores, after.scores)
            interval = (low, high)
        rows.append(Row(name, value, after.metrics[name], interval))
    return rows


def table(rows: list[Row]) -> str:
    """The rows as Markdown that also reads well in a terminal."""
    header = ["metric", "without", "with", "difference", "95 % interval"]
    body = [
        [
            row.metric,
            f"{row.before:.4f}",
            f"{row.after:.4f}",
            f"{row.difference:+.4f}",
            "" if row.interval is None else f"{row.interval[0]:+.4f} to {row.interval[1]:+.4f}",
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *body]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def verdict(rows: list[Row]) -> str:
    """What the image AUROC's interval allows to say of this run."""
    row = next(row for row in rows if row.metric == "image_AUROC")
    assert row.interval is not None
    low, high = row.interval
    if math.isnan(low):
        return "The test split has one class only: nothing can be compared."
    if low > 0:
        found = "better with augmentation than without on these test images"
    elif high < 0:
        found = "worse with augmentation than without on these test images"
    else:
        found = "no different with augmentation, as far as these test images can tell"
    return (
        f"By image_AUROC the detector is {found} (95 % interval over images; one seed, so the luck of "
        "training is not in it: repeat with seed=0,1,2,3,4 -m)."
    )


def write_report(
    folder: Path,
    rows: list[Row],
    headline: str,
    facts: Mapping[str, Any],
    opinions: Mapping[str, float],
) -> None:
    """Write ``report.md`` and ``report.json``.

    ``opinions`` are metrics of other detectors on the same images, ``<detector>_<metric>``.
    """
    text = f"{headline}\n\n{table(rows)}\n\n{verdict(rows)}"
    if opinions:
        text += "\n\nOther detectors, with the same eyes: " + ", ".join(
            f"{name.removesuffix('_image_AUROC')} {value:.4f}"
            for name, value in opinions.items()
            if name.endswith("_image_AUROC")
        )
        text += " image_AUROC."
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    write_atomically(
        folder / "report.md", f"# Before and after\n\n{text}\n\n## This run\n\n{listed}\n".encode()
    )
    write_json(
        folder / "report.json",
        {
            "metrics": {
                row.metric: {
                    "without": row.before,
                    "with": row.after,
                    "difference": row.difference,
                    "interval": row.interval,
                }
                for row in rows
            },
            "verdict": verdict(rows),
            "baselines": dict(opinions),
            **facts,
        },
    )
