"""Before and after: every metric in words and numbers, curves, and what stands beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectors.metrics import image_AUROC
from latent_env.training.evaluation import Evaluation
from stages.augmentation.report import Report, Row, verdict
from stages.report.charts import chart, roc
from stages.report.markup import Markup, element, joined, paragraph, table
from stages.report.page import Part
from stages.report.words import METRICS, change, conclusion, figure, interval, metric_name, signed

MAIN = ("image_AUROC", "pixel_AUPRO", "labelled_AUROC")
"""The metrics that stand at the beginning of the page."""

HEADER = ["metric", "without", "with", "difference", "95 % interval", "what it says"]
RANDOM_HEADER = [*HEADER[:2], "with random samples", *HEADER[2:]]
OVER_IMAGES = (
    "An interval is over resampled test images: another training may come out differently, which several "
    "seeds show."
)
SOURCES = {"agent": "the agent", "random": "random actions"}


def comparison_part(report: Report, before: Evaluation, after: Evaluation) -> Part:
    """The section that compares both detectors."""
    steps, longer = (report.facts[key] for key in ("detector_steps", "detector_steps_with_samples"))
    how = "for as many steps" if steps == longer else f"for {longer} steps where the first took {steps}"
    intro = (
        "Without and with are the same detector on the same test images; only the second learned from "
        f"samples, {how}."
    )
    about, caption, drawn = OVER_IMAGES, "Metrics on the test images", [curves]
    if not after.split.measurable:
        about, caption, drawn = verdict(report.rows), "What is measured instead", []
    content = [
        paragraph(f"{intro} {about}"),
        table(caption, header(report.rows), [metric_row(row) for row in report.rows]),
        *(draw(before, after) for draw in drawn),
        *others(report.baselines),
        *candidates(report.candidates),
    ]
    return Part("comparison", "Before and after", content)


def header(rows: Sequence[Row]) -> list[str]:
    """The columns of the table of metrics."""
    return HEADER if all(row.random is None for row in rows) else RANDOM_HEADER


def metric_row(row: Row) -> list[str]:
    """A row of the table: one metric."""
    name = metric_name(row.metric)
    if row.metric in METRICS:
        name = joined([name, element("small", METRICS[row.metric][1])])
    between = ("", "") if row.interval is None else (interval(*row.interval), conclusion(*row.interval))
    random = [] if row.random is None else [figure(row.random)]
    return [name, figure(row.before), *random, figure(row.after), signed(row.difference), *between]


def changes(rows: Sequence[Row]) -> list[Markup]:
    """The main metrics in sentences: the first paragraphs of the page."""
    wanted = [row for row in rows if row.metric in MAIN]
    return [
        paragraph(change(row.metric, row.before, row.after, row.interval), class_="lead") for row in wanted
    ]


def curves(before: Evaluation, after: Evaluation) -> Markup:
    """ROC curves of both detectors."""
    labels = before.split.labels
    areas = [image_AUROC(each.scores, labels) for each in (before, after)]
    names = {
        kind: f"{kind}, area {figure(area)}" for kind, area in zip(("without", "with"), areas, strict=True)
    }
    drawing = roc(labels, before.scores, after.scores, names)
    caption = "ROC: the share of anomalies that is found, for every share of false alarms."
    return element("div", chart(drawing, caption), class_="charts")


def others(baselines: Mapping[str, float]) -> list[Markup]:
    """Other detectors on the same features of the same images."""
    found: dict[str, dict[str, float]] = {}
    for key, value in baselines.items():
        metric = next((metric for metric in METRICS if key.endswith(f"_{metric}")), None)
        if metric is not None:
            found.setdefault(key.removesuffix(f"_{metric}"), {})[metric] = value
    if not found:
        return []
    shown = [metric for metric in METRICS if any(metric in figures for figures in found.values())]
    rows = [
        [name.replace("_", " "), *(figure(figures[metric]) if metric in figures else "" for metric in shown)]
        for name, figures in found.items()
    ]
    caption = "Other detectors on the same test images and features, none of which learned from samples"
    return [table(caption, ["detector", *map(metric_name, shown)], rows)]


def candidates(found: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """The mixtures that detectors learned from, on the validation images that chose among them."""
    if not found:
        return []
    shown = [metric for metric in ("image_AUROC", "pixel_AUPRO") if metric in found[0]]
    rows = []
    for each in found:
        shares = [
            f"{100 * share:.3g} % by {SOURCES.get(source, source)}"
            for source, share in each["shares"].items()
        ]
        rows.append(
            [", ".join(shares) or "none", *(figure(each[metric]) for metric in shown), figure(each["margin"])]
        )
    caption = (
        "Mixtures of samples, measured on validation images: the best was taken if it beat no samples by its "
        "margin"
    )
    return [table(caption, ["samples learned from", *map(metric_name, shown), "margin"], rows)]
