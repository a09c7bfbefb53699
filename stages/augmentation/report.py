"""The report of a run: the before/after table, what may be concluded from it, and all facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_common.artifacts import write_atomically, write_json
from latent_common.tables import markdown_table
from stages.detector.normal_only import ALL_NORMAL, LABELLED_AUROC
from stages.detector.thresholds import NONE, ThresholdReport

OF_LABELLED = (
    f"So it can't be told whether samples help. {LABELLED_AUROC} is the image AUROC of labelled anomalies "
    "against normal validation images, by detectors that hadn't learned from them. The agent may have been "
    "paid by them, though: a difference is a hint at most."
)
OF_NOTHING = (
    "So it can't be told whether samples help, nor how many anomalies are found: no labelled anomaly was "
    "kept back from the detectors, or judged by detectors that learned from the others."
)

BASELINE_METRIC = "_image_AUROC"
"""The metric of other detectors that ``report.md`` shows."""


@dataclass(frozen=True)
class Row:
    """One metric with and without augmentation."""

    metric: str
    before: float
    after: float
    interval: tuple[float, float] | None
    """95 % interval of the difference over resampled test images, where it was computed."""
    random: float | None = None
    """With samples of random actions instead, where that was compared."""

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True)
class Report:
    """All that a run found out."""

    headline: str
    """What was compared, in a few lines."""
    rows: Sequence[Row]
    thresholds: ThresholdReport | None
    """When the detector with augmentation says anomaly; None without normal validation images."""
    candidates: Sequence[Mapping[str, Any]]
    """The mixtures that detectors learned from, with their figures on the validation split."""
    baselines: Mapping[str, float]
    """Metrics of other detectors on the test images, as ``<detector>_<metric>``."""
    facts: Mapping[str, Any]


def write_report(folder: Path, report: Report) -> None:
    """Write ``report.md`` for people and ``report.json`` for programs."""
    write_atomically(folder / "report.md", as_text(report).encode())
    metrics = {
        row.metric: {
            "without": row.before,
            "with": row.after,
            "difference": row.difference,
            "interval": row.interval,
            **({} if row.random is None else {"random": row.random}),
        }
        for row in report.rows
    }
    content = {
        "metrics": metrics,
        "verdict": verdict(report.rows),
        "thresholds": None if report.thresholds is None else report.thresholds.facts(),
        "baselines": dict(report.baselines),
        "candidates": list(report.candidates),
        **report.facts,
    }
    write_json(folder / "report.json", content)


def as_text(report: Report) -> str:
    """The report as Markdown; what stands before the first section is printed at the end of a run."""
    parts = ["# Before and after", report.headline, table(report.rows), verdict(report.rows)]
    if report.baselines:
        parts.append(f"Image AUROC of other detectors on the same features: {baselines(report.baselines)}.")
    thresholds = NONE if report.thresholds is None else report.thresholds.as_text()
    parts += ["## Thresholds", "When the detector with augmentation calls an image an anomaly:", thresholds]
    if report.candidates:
        note = (
            "Detectors trained on different mixtures, on the validation split; the best was taken if it was "
        )
        parts += ["## Candidates", note + "better than none by its margin.", candidates(report.candidates)]
    parts += ["## This run", "\n".join(f"- {name}: {value}" for name, value in report.facts.items())]
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Row]) -> str:
    """The metrics without and with augmentation, and with that by random actions where it is known."""
    compared = any(row.random is not None for row in rows)
    body = [
        [
            row.metric,
            f"{row.before:.4f}",
            *(["" if row.random is None else f"{row.random:.4f}"] if compared else []),
            f"{row.after:.4f}",
            f"{row.difference:+.4f}",
            "" if row.interval is None else f"{row.interval[0]:+.4f} to {row.interval[1]:+.4f}",
        ]
        for row in rows
    ]
    random = ["random"] if compared else []
    return markdown_table(["metric", "without", *random, "with", "difference", "95 % interval"], body)


def baselines(metrics: Mapping[str, float]) -> str:
    """The image AUROC of other detectors, in a line."""
    return ", ".join(
        f"{name.removesuffix(BASELINE_METRIC)} {value:.4f}"
        for name, value in metrics.items()
        if name.endswith(BASELINE_METRIC)
    )


def candidates(found: Sequence[Mapping[str, Any]]) -> str:
    """The mixtures and their figures on the validation split."""
    figures = [name for name in ("image_AUROC", "pixel_AUPRO", "margin") if name in found[0]]
    body = [
        [
            " + ".join(f"{100 * share:.3g}% {source}" for source, share in each["shares"].items()) or "none",
            *(f"{each[name]:.4f}" for name in figures),
        ]
        for each in found
    ]
    return markdown_table(["samples", *figures], body)


def verdict(rows: Sequence[Row]) -> str:
    """What the image AUROC's interval allows to conclude from this run; without one, why nothing can be."""
    interval = next((row.interval for row in rows if row.metric == "image_AUROC"), None)
    if interval is None:
        judged = any(row.metric == LABELLED_AUROC for row in rows)
        return f"{ALL_NORMAL} {OF_LABELLED if judged else OF_NOTHING}"
    low, high = interval
    if low > 0:
        found = "better with augmentation than without on these test images"
    elif high < 0:
        found = "worse with augmentation than without on these test images"
    else:
        found = "no different with augmentation, as far as these test images can tell"
    return (
        f"By image_AUROC the detector is {found} (95 % interval over test images). Another training may come "
        "out differently: repeat with seed=0,1,2,3,4 -m."
    )
