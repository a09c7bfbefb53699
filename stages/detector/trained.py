"""Detectors that are trained on anomalies: the untrained world, which shows mistakes, and the trained one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from conf.schema.detectors import SynthesisConfig
from conf.schema.runs import DetectorRun, LabelledConfig
from detectors.base import Detector
from detectors.blocks.tokens import grid_of
from detectors.ensemble import EnsembleDetector
from latent_common.files import check_writable
from latent_common.image_source import evenly_spaced
from latent_common.lock import LOCK, locked
from latent_common.progress import say
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.training.evaluation import (
    Evaluation,
    detection_picture,
    evaluate,
    evaluate_test,
    log_curves,
    log_evaluation,
    save_scores,
)
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from latent_env.worlds.artifacts import load_detector
from latent_env.worlds.labelled_anomalies import LabelledAnomalies, load_labelled_anomalies
from latent_env.worlds.reference_set import load_reference_set
from latent_env.worlds.store import copy_world, save_world
from latent_env.worlds.world import World
from stages.autoencoder.plan import plan_autoencoder
from stages.context import Context
from stages.detector.base import DetectorPlan, FinishedDetector
from stages.detector.baselines import check_baselines, evaluate_baselines
from stages.detector.cross_fitting import check_folds, judge, remove_folds
from stages.detector.labelled_anomalies import labelled_anomalies
from stages.detector.labelled_split import LabelledSplit, split_labelled
from stages.detector.trainers.base import DetectorTrainer, Parts
from stages.detector.trainers.factory import new_trainer
from stages.detector.validation_sets import reference_set
from stages.features import FeaturePlan, plan_backbone
from stages.training_data import TrainingData

FEW = 4
"""So many images are enough to build everything once."""


@dataclass(frozen=True)
class TrainedDetector(FinishedDetector):
    """A detector in its world, and the trainer that can train others like it."""

    world: World
    trainer: DetectorTrainer

    @property
    def features(self) -> FeatureCache:
        """What detectors of tokens read of the data set: latents, or features of a backbone."""
        return self.trainer.features

    def _evaluate(self) -> dict[str, float]:
        return evaluate_beside_baselines(self.trainer, self.run, self.world)

    def summary(self) -> str:
        """Its metrics on the test split, where its pictures are, and how to make the environment."""
        return f"{super().summary()}\nenvironment: gym.make('LatentAug-v0', artifacts='{self.run.path}')"


@dataclass(frozen=True)
class TrainedPlan(DetectorPlan):
    """A detector that is trained, in a world that agents can act in."""

    synthesis: SynthesisConfig
    labelled: LabelledConfig
    backbone: FeaturePlan | None = None
    """The backbone of a detector that reads features."""

    def settings(self) -> dict[str, Any]:
        """All that decides what the detector becomes."""
        own: dict[str, Any] = {"detector": self.config.settings(), "synthesis": asdict(self.synthesis)}
        if self.backbone is not None:
            own["backbone"] = self.backbone.encoder_settings()["features"]
        if self.data.dataset.valid.labels.any():
            own["labelled"] = {
                key: value for key, value in asdict(self.labelled).items() if key not in ("count", "seed")
            }
        if self.data.textures_digest is not None:
            own["textures"] = self.data.textures_digest
        return {**self.autoencoder.settings(), **own}

    @cached_property
    def labelled_split(self) -> LabelledSplit:
        """What each labelled anomaly of the validation split is used for."""
        return split_labelled(self.data.dataset.valid, self.labelled)

    @cached_property
    def untrained(self) -> World:
        """A world of untrained networks and a few images; what can't work together is refused."""
        images, context = self.data.images[:FEW], self.context
        frozen = FrozenAutoencoder(self.autoencoder.untrained()).calibrate(images)
        where = self.data.dataset, context.runs, context.device, context.memory
        encoder = None if self.backbone is None else self.backbone.untrained_encoder()
        trainer = self._trainer(frozen, FeatureCache(frozen, *where), FeatureCache(encoder or frozen, *where))
        check_baselines(trainer.config.baselines)
        detector = trainer.untrained().eval()
        world = World.build(frozen, detector, images, context.device, backbone=encoder)
        if len(self.labelled_split.train) and frozen.is_spatial:
            # Any latents will do: they say which actions there are.
            marks = torch.zeros(1, len(images), 1, *grid_of(frozen.latent_shape), dtype=torch.bool)
            shown = (
                () if world.reads_latents else (world.images, torch.zeros_like(world.images[:, :1]).bool())
            )
            stand_ins = LabelledAnomalies.of(world.latents[None], marks, world.latents, *shown)
            world = world.with_labelled_anomalies(stand_ins)
        return world

    def train(self) -> TrainedDetector:
        """The detector in its world: loaded if an earlier command made it, else trained now."""
        run = self.run_folder()
        autoencoder, latents = self.autoencoder.train().model, self.autoencoder.features()
        features = latents if self.backbone is None else self.backbone.features()
        trainer = self._trainer(autoencoder, latents, features)
        with run.claimed() as missing:
            world = self._make(run, trainer) if missing else None
            remove_folds(run)
        if world is None:
            say(f"detector: using {run.path}")
            world = world_around(trainer, load_detector(run.path))
            world = world.with_reference_set(load_reference_set(run.path))
            world = world.with_labelled_anomalies(load_labelled_anomalies(run.path))
        return TrainedDetector(self.config.name, run, world, trainer)

    def _make(self, run: Run, trainer: DetectorTrainer) -> World:
        """Train the detector, and keep it with its world in ``run``."""
        run.begin()
        world = train_world(trainer, run)
        save_world(run.path, world, judge(trainer, run, world))
        run.finish(member_weights(world.detector))
        return world

    def _trainer(
        self, autoencoder: FrozenAutoencoder, latents: FeatureCache, features: FeatureCache
    ) -> DetectorTrainer:
        chosen = self.synthesis, self.labelled, self.context, self.data
        parts = Parts(*chosen, autoencoder, latents, features, self.labelled_split)
        return new_trainer(self.config, parts)


def plan_trained_detector(config: DetectorRun, context: Context, data: TrainingData) -> TrainedPlan:
    """Build ``config.detector`` and all that it needs once, untrained: mistakes show at once."""
    if config.export:
        check_writable(config.export, "export")
    check_folds(config.labelled)
    autoencoder = plan_autoencoder(config.autoencoder, context, data)
    backbone = plan_backbone(config.detector, context, data)
    settings = config.synthesis, config.labelled
    plan = TrainedPlan(config.detector, context, data, autoencoder, *settings, backbone)
    _ = plan.untrained
    return plan


def export_world(run: Run, folder: str) -> None:
    """Copy the environment of a finished run to where the user wants it."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with locked(target / LOCK):
        copy_world(run.path, target)
    say(f"exported to {folder}")


def world_around(trainer: DetectorTrainer, detector: Detector) -> World:
    """A world with ``detector`` and the normal images that episodes start from."""
    most, autoencoder, images = trainer.config.num_start_images, trainer.autoencoder, trainer.data.images
    known = evenly_spaced(trainer.latents.latents("train"), most) if autoencoder.whitens_itself else None
    starts, device = evenly_spaced(images, most), trainer.context.device
    return World.build(autoencoder, detector, starts, device, known, trainer.backbone)


def train_world(trainer: DetectorTrainer, run: Run) -> World:
    """The world with a detector that is trained now, with the labelled anomalies of the validation split."""
    if (run.path / "detector.json").is_file():  # trained by a command that was stopped after that
        detector = load_detector(run.path)
    else:
        detector = trainer.train(run, "detector")
    world, labelled, reads = world_around(trainer, detector), trainer.labelled_split, trainer.config.input
    world = world.with_reference_set(reference_set(trainer.features, labelled, reads))
    return world.with_labelled_anomalies(
        labelled_anomalies(trainer.latents, labelled.train, reads, world.latents)
    )


def evaluate_beside_baselines(trainer: DetectorTrainer, run: Run, world: World) -> dict[str, float]:
    """The metrics on the test split: the detector's, and ``<name>_<metric>`` of members and baselines.

    Scores, curves and pictures are kept in ``run``.
    """
    config, features = trainer.config, trainer.features
    evaluation = evaluate_test(world, features)
    others: dict[str, Evaluation] = {}
    if evaluation.split.measurable:
        others = evaluate_others(trainer, world)
    else:
        show_labelled(trainer, run, world)
    log_evaluation(run, evaluation, world.detect_and_reconstruct, trainer.context.device, trainer.steps)
    beside_it = {f"scores_{name}": each.scores for name, each in others.items()}
    save_scores(run.path, evaluation.split.labels, scores=evaluation.scores, **beside_it)
    log_curves(run, {config.name: evaluation, **others}, trainer.steps)
    beside = {f"{name}_{key}": value for name, e in others.items() for key, value in e.metrics.items()}
    return evaluation.metrics | beside


def evaluate_others(trainer: DetectorTrainer, world: World) -> dict[str, Evaluation]:
    """How well the members of the detector of ``world`` do on the test split, and its baselines, by name."""
    features = trainer.features
    members = evaluate_members(world, features)
    names = [name for name in trainer.config.baselines if name not in members]
    if names and features.dataset.valid.labels.all():
        say(f"without {', '.join(names)}: the valid split has no normal images to calibrate on")
        names = []
    return members | evaluate_baselines(names, world, features, trainer.context.seed)


def show_labelled(trainer: DetectorTrainer, run: Run, world: World) -> None:
    """A picture of labelled anomalies that the detector learned from, if there are any."""
    learned = trainer.labelled_split.train
    if len(learned):
        evaluation = evaluate(world, trainer.features.dataset.valid.subset(learned))
        names = "normal", "learned from"
        picture = detection_picture(evaluation, world.detect_and_reconstruct, trainer.context.device, names)
        run.picture("valid/labelled", picture, trainer.steps)


def evaluate_members(world: World, features: FeatureCache) -> dict[str, Evaluation]:
    """How well each member of an ensemble does by itself; of another detector, none."""
    if not isinstance(world.detector, EnsembleDetector):
        return {}
    members = world.detector.named_members()
    return {name: evaluate_test(world.with_detector(member), features) for name, member in members.items()}


def member_weights(detector: Detector) -> dict[str, float]:
    """``weight_<member>`` and ``weight_of_map_<member>`` of an ensemble; of another detector, none."""
    if not isinstance(detector, EnsembleDetector):
        return {}
    given = {"weight": detector.weights, "weight_of_map": detector.map_weights}
    return {
        f"{what}_{name}": weight
        for what, weights in given.items()
        for name, weight in zip(detector.named_members(), weights, strict=True)
    }
