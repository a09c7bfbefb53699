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
from stages.detector.thresholds import stored_report
from stages.training_data import TrainingData

EVALUATED = "image_AUROC"
"""A metric of every detector that was evaluated on the test split."""


@dataclass(frozen=True)
class FinishedDetector(ABC):
    """A detector that was made now or by an earlier command, and the run that it lies in."""

    name: str
    run: Run

    def evaluate(self) -> None:
        """Score the test split, unless an earlier command did, and keep figures and pictures in the run.

        Training and evaluating are apart, so that a command reads the test split once all is trained.
        """
        if EVALUATED not in self.run.metrics:
            with self.run.locked():
                if EVALUATED not in self.run.metrics:
                    self.run.finish(self.run.metrics | self._evaluate())

    @abstractmethod
    def _evaluate(self) -> dict[str, float]:
        """The metrics on the test split, by name."""

    def summary(self) -> str:
        """Its metrics on the test split as a table, its thresholds, and where its pictures are.

        It must be evaluated.
        """
        table, thresholds = metrics_table(self.name, self.run.metrics), stored_report(self.run.path)
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
