"""What is told of a detector where all test images are normal: its figures, and why there are no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latent_env.training.evaluation import SCORES
from stages.detector.thresholds import CONFORMAL, ThresholdReport, stored_report

NORMAL_IMAGES = "normal_test_images"
FALSE_ALARMS = "false_alarms"
LABELLED_AUROC = "labelled_AUROC"

ALL_NORMAL = (
    "All test images are normal, so there is no AUROC on them, nor any other figure that needs anomalies."
)


def figures(normal: int, report: ThresholdReport | None) -> dict[str, float]:
    """What is measured, by name.

    ``normal_test_images`` says how many test images there are, and ``false_alarms`` which share of them lies
    above the threshold. ``labelled_AUROC`` is the image AUROC of labelled anomalies against normal validation
    images, where detectors judged them that hadn't learned from them.

    :param normal: so many test images.
    :param report: None without normal validation images.
    """
    found = {NORMAL_IMAGES: float(normal)}
    if report is not None:
        wrong = report.confusion(report.thresholds[CONFORMAL]).false_positives
        found[FALSE_ALARMS] = wrong / normal
        if report.labelled_AUROC is not None:
            found[LABELLED_AUROC] = report.labelled_AUROC
    return found


def stored_figures(folder: Path) -> dict[str, float]:
    """The figures of the detector in the run ``folder``, from what the run keeps."""
    with np.load(folder / SCORES, allow_pickle=False) as stored:
        normal = len(stored["labels"])
    return figures(normal, stored_report(folder))


def in_words(report: ThresholdReport | None) -> str:
    """Sentences: why there are no other figures, and what tells something of anomalies instead."""
    best = None if report is None else report.decision.best_f1()
    if report is None or best is None:
        return (
            f"{ALL_NORMAL} No labelled anomaly tells how many are found either: there is none, or the "
            "detector learned from all of them. Two or more can be judged by detectors that learned from the "
            "others (labelled.folds)."
        )
    count = len(report.decision.anomalous)
    which = (
        f"{count} labelled ones, each judged by a detector that hadn't learned from it"
        if report.decision.folds is not None
        else f"{count} labelled ones that the detector didn't learn from, though choices may hang on them"
    )
    return (
        f"{ALL_NORMAL} What can be said of anomalies is said of {which}: image AUROC "
        f"{report.labelled_AUROC:.3f} against normal validation images (each anomaly is 1/{count} of it), "
        f"best F1 {best.f1:.3f}."
    )
