"""What every detector of a command has in common: what it depends on, and the run that comes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from conf.schema.detectors import DetectorConfig
from latent_env.training.evaluation import metrics_table
from latent_env.training.run_folder import Run
from stages.autoencoder.base import AutoencoderPlan
from stages.context import Context
from stages.detector.normal_only import NORMAL_IMAGES, in_words, stored_figures
from stages.detector.thresholds import NONE, stored_report
from stages.training_data import TrainingData

MEASURED = "image_AUROC"
"""A metric of every detector that was evaluated on a test split with anomalies."""


@dataclass(frozen=True)
class FinishedDetector(ABC):
    """A detector that was made now or by an earlier command, and the run that it lies in."""

    name: str
    run: Run

    def evaluate(self) -> None:
        """Score the test split, unless an earlier command did, and keep figures and pictures in the run.

        Training and evaluating are apart, so that a command reads the test split once all is trained.
        """
        if not self.evaluated:
            with self.run.locked():
                if not self.evaluated:
                    measured = self._evaluate() or stored_figures(self.run.path)
                    self.run.finish(self.run.metrics | measured)

    @property
    def evaluated(self) -> bool:
        """Whether the test split was scored."""
        return not self.run.metrics.keys().isdisjoint((MEASURED, NORMAL_IMAGES))

    @abstractmethod
    def _evaluate(self) -> dict[str, float]:
        """The metrics on the test split, by name; none where all of it is normal. Scores stay in the run."""

    def summary(self) -> str:
        """Its metrics on the test split as a table, its thresholds, and where its pictures are.

        It must be evaluated.
        """
        metrics, report = self.run.metrics, stored_report(self.run.path)
        table = metrics_table(self.name, metrics) if MEASURED in metrics else in_words(report)
        older = f"{NONE} A run of an older version has none either: delete its folder, and train again."
        thresholds = older if report is None else report.as_text()
        return (
            f"{table}\n\n{thresholds}\n\npictures:    {self.run.path / 'pictures'}\n"
            f"detector:    latent_env.load_detector('{self.run.path}')"
        )


@dataclass(frozen=True)
class DetectorPlan(ABC):
    """A command's detector, of which all was built once untrained: what can't work was refused by then."""

    config: DetectorConfig
    context: Context
    data: TrainingData
    autoencoder: AutoencoderPlan

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that decides what the detector becomes."""

    @abstractmethod
    def train(self) -> FinishedDetector:
        """The detector: found if an earlier command made it, else made now."""

    def run_folder(self) -> Run:
        """The folder of its run, complete or not."""
        return self.context.run_folder(self.data.dataset.name, "detector", self.config.name, self.settings())
