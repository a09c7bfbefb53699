"""Thresholds in words: what was promised, what came on the test images, and what was found there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.metrics import image_AUROC
from latent_common.tables import markdown_table
from latent_env.training.evaluation import SCORES
from latent_env.worlds.decision import has_decision, load_decision
from latent_env.worlds.thresholds import Decision, Threshold

CONFORMAL, BEST_F1 = "false_alarms", "best_f1"
HEADER = ["threshold", "score above", "false alarms, promised", "on test", "anomalies found on test"]
UNLIKELY = 0.01
"""So many false alarms on test that they are less likely than this are remarked upon."""

NONE = "No threshold: the validation split has no normal images to choose one by."


@dataclass(frozen=True)
class Confusion:
    """What a threshold gets right and wrong on test images."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @classmethod
    def of(cls, labels: NDArray[np.int64], scores: NDArray[np.float32], threshold: float) -> Confusion:
        """Of images with these ``labels (N,)`` and raw ``scores (N,)``."""
        above, anomalous = scores > threshold, labels != 0
        parts = above & anomalous, above & ~anomalous, ~above & ~anomalous, ~above & anomalous
        return cls(*(int(part.sum()) for part in parts))

    @property
    def false_alarms(self) -> str:
        """The share of normal images above the threshold, and their number."""
        return _share(self.false_positives, self.false_positives + self.true_negatives)

    @property
    def found(self) -> str:
        """The share of anomalies above the threshold, and their number."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)


@dataclass(frozen=True)
class ThresholdReport:
    """The thresholds of a detector, and what they get right and wrong on its test images."""

    decision: Decision
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    """``(N,)``, raw, of the test images."""

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """The one for false alarms, and the best F1 where there are labelled anomalies."""
        best = self.decision.best_f1()
        found = {CONFORMAL: self.decision.for_false_alarms()}
        return found if best is None else {**found, BEST_F1: best}

    def as_text(self) -> str:
        """A table of the thresholds, and what the promise is."""
        rows = []
        for threshold in self.thresholds.values():
            came = self.confusion(threshold)
            if threshold.false_alarms is not None:
                name, promised = (
                    f"{100 * threshold.false_alarms:.3g}% false alarms",
                    f"{threshold.promised:.2%}",
                )
            else:
                name, promised = f"best F1, {threshold.f1:.3f} on validation", ""
            rows.append([name, f"{threshold.score:.4f}", promised, came.false_alarms, came.found])
        return "\n\n".join([markdown_table(HEADER, rows), " ".join(self.notes())])

    def notes(self) -> list[str]:
        """Sentences: where less is promised than was asked for or more came than chance explains, and what
        a promise is.
        """
        notes = []
        for threshold in self.thresholds.values():
            came = self.confusion(threshold)
            notes += [f"{threshold.note[:1].upper()}{threshold.note[1:]}."] if threshold.note else []
            notes += [self._unlike(threshold, came)] if self.chance(threshold, came) < UNLIKELY else []
        notes += self._cross_fitted()
        of = len(self.decision.normal)
        promise = (
            f"Promised is what holds, on average, for normal images like the {of} of the validation split; "
            "of few test images another share may come by chance."
        )
        return [*notes, promise]

    def confusion(self, threshold: Threshold) -> Confusion:
        """What ``threshold`` gets right and wrong on the test images."""
        return Confusion.of(self.labels, self.scores, threshold.score)

    def chance(self, threshold: Threshold, came: Confusion) -> float:
        """How likely so many false alarms, or more, are where the promise holds; 1 where there is none.

        Among m exchangeable normal images, those above the k-th highest of n others are beta-binomial.
        """
        normal, n = came.false_positives + came.true_negatives, len(self.decision.normal)
        if threshold.promised is None or not normal:
            return 1.0
        from scipy.stats import betabinom  # slow to import

        count = round(threshold.promised * (n + 1))
        return float(betabinom.sf(came.false_positives - 1, normal, count, n + 1 - count))

    @property
    def cross_fitted_AUROC(self) -> float | None:
        """Image AUROC of labelled anomalies that detectors judged which hadn't learned from them.

        It is measured against normal validation images; None where nothing was cross-fitted.
        """
        return None if self.decision.folds is None else self.labelled_AUROC

    @property
    def labelled_AUROC(self) -> float | None:
        """Image AUROC of labelled anomalies that were kept back from a detector, or judged by one of a fold.

        It is measured against normal validation images; None where there are no such anomalies.
        """
        if not len(self.decision.anomalous):
            return None
        scores = np.concatenate([self.decision.normal, self.decision.anomalous])
        labels = np.repeat([0, 1], [len(self.decision.normal), len(self.decision.anomalous)])
        return image_AUROC(scores, labels)

    def _cross_fitted(self) -> list[str]:
        """Sentences on how labelled anomalies were judged that the detector learned from."""
        folds, area, count = self.decision.folds, self.cross_fitted_AUROC, len(self.decision.anomalous)
        if folds is None or area is None:
            return []
        return [
            f"F1 on validation is cross-fitted: each of the {count} labelled anomalies was judged by a "
            "detector that hadn't learned from it or from a copy of it "
            f"({folds.number} folds of {folds.of}). Image AUROC of labelled anomalies against normal "
            f"validation images, cross-fitted: {area:.3f}."
        ]

    def _unlike(self, threshold: Threshold, came: Confusion) -> str:
        return (
            f"{came.false_alarms} is more than chance explains (probability "
            f"{self.chance(threshold, came):.1g}): normal test images are unlike those of validation, which "
            "may be near copies of training images."
        )

    def facts(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "normal_validation_images": len(self.decision.normal),
            "labelled_validation_anomalies": len(self.decision.anomalous),
            "folds": None if self.decision.folds is None else self.decision.folds._asdict(),
            "cross_fitted_image_AUROC": self.cross_fitted_AUROC,
            **{name: self._facts(threshold) for name, threshold in self.thresholds.items()},
        }

    def _facts(self, threshold: Threshold) -> Mapping[str, Any]:
        came = self.confusion(threshold)
        normal = came.false_positives + came.true_negatives
        return {
            "score_above": threshold.score,
            "asked": threshold.false_alarms,
            "promised": threshold.promised,
            "f1_on_validation": threshold.f1,
            "false_alarms_on_test": came.false_positives / normal if normal else None,
            "chance": self.chance(threshold, came),
            "test": vars(came),
        }


def report_of(folder: Path, labels: NDArray[np.int64], scores: NDArray[np.float32]) -> ThresholdReport | None:
    """The thresholds of the detector in ``folder``, and what they make of test images; None without any."""
    return ThresholdReport(load_decision(folder), labels, scores) if has_decision(folder) else None


def stored_report(folder: Path) -> ThresholdReport | None:
    """The thresholds of the evaluated detector in ``folder``; None without normal validation images."""
    with np.load(folder / SCORES, allow_pickle=False) as stored:
        return report_of(folder, stored["labels"], stored["scores"])


def _share(count: int, of: int) -> str:
    return f"{count / of:.2%} ({count} of {of})" if of else "none there"
