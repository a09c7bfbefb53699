"""When an image is an anomaly: thresholds, what they promised, and what came on the test images."""

from __future__ import annotations

from latent_env.training.evaluation import Evaluation
from latent_env.worlds.thresholds import Threshold
from stages.detector.thresholds import NONE, Confusion, ThresholdReport
from stages.report.charts import chart, score_bars
from stages.report.markup import Markup, element, paragraph, table
from stages.report.page import Part
from stages.report.words import NARROW, figure, percent

HEADER = ["threshold", "score above", "false alarms, promised", "false alarms, came", "anomalies found"]


def decision_part(thresholds: ThresholdReport | None, after: Evaluation) -> Part:
    """The section about thresholds."""
    if thresholds is None:
        content: list[Markup] = [paragraph(NONE), bars(after, None)]
        return Part("threshold", "The threshold", content)
    found = list(thresholds.thresholds.values())
    caption = (
        "Thresholds of the detector with augmentation: what was promised, and what came on the test images"
    )
    content = [
        table(caption, HEADER, [threshold_row(each, thresholds.confusion(each)) for each in found]),
        *(paragraph(note, class_="note" if "than chance" in note else None) for note in thresholds.notes()),
        bars(after, found[0].score),
        element("div", *(confusion(each, thresholds.confusion(each)) for each in found), class_="pair"),
    ]
    return Part("threshold", "The threshold", content)


def threshold_name(threshold: Threshold) -> str:
    """What the threshold was chosen for."""
    if threshold.false_alarms is not None:
        return f"for {percent(threshold.false_alarms)} false alarms"
    assert threshold.f1 is not None
    return f"best F1, {figure(threshold.f1)} on validation"


def threshold_row(threshold: Threshold, came: Confusion) -> list[str]:
    """A row of the table: one threshold."""
    promised = "" if threshold.promised is None else f"{percent(threshold.promised)} at most"
    score = f"{threshold.score:.4g}".replace("-", "\N{MINUS SIGN}")
    normal = came.false_positives + came.true_negatives
    anomalous = came.true_positives + came.false_negatives
    return [
        threshold_name(threshold),
        score,
        promised,
        share(came.false_positives, normal),
        share(came.true_positives, anomalous),
    ]


def share(count: int, of: int) -> str:
    """A share, and the numbers behind it."""
    return f"{percent(count / of)} ({count} of {of})" if of else "none there"


def bars(after: Evaluation, threshold: float | None) -> Markup:
    """The scores of the test images, and the threshold."""
    drawing = score_bars(after.split.labels, after.scores, threshold)
    caption = (
        "Scores of test images with augmentation: normal ones upwards, anomalous ones downwards, each as a "
        "share of its fullest bar."
        if after.split.measurable
        else "Scores of normal test images with augmentation, as a share of the fullest bar."
    )
    if threshold is not None:
        caption += " What lies right of the threshold is called an anomaly."
    return element("div", chart(drawing, caption), class_="charts")


def confusion(threshold: Threshold, came: Confusion) -> Markup:
    """What a threshold gets right and wrong, as a table."""
    rows = [
        ["normal", f"{came.true_negatives:,}", f"{came.false_positives:,}"],
        ["anomalous", f"{came.false_negatives:,}", f"{came.true_positives:,}"],
    ]
    rows = rows if came.true_positives + came.false_negatives else rows[:1]
    caption = f"Test images, threshold {threshold_name(threshold)}".replace(" %", f"{NARROW}%")
    return table(caption, ["really", "called normal", "called anomalous"], rows)
