"""From the configuration of a detector to its trainer: one a class of configuration."""

from __future__ import annotations

from functools import singledispatch

from conf.schema.detectors import (
    DetectorConfig,
    EnsembleConfig,
    PanelConfig,
    ProbeConfig,
    RdnaConfig,
    SegmenterConfig,
    SuperSimpleConfig,
    TransformerConfig,
)
from detectors.base import FEATURES, IMAGE, LATENT
from latent_common.errors import UserError
from stages.detector.trainers.base import DetectorTrainer, Parts, SingleTrainer
from stages.detector.trainers.ensemble import EnsembleTrainer
from stages.detector.trainers.image_transformer import ImageTransformerTrainer
from stages.detector.trainers.latent_transformer import LatentTransformerTrainer
from stages.detector.trainers.panel import PanelTrainer
from stages.detector.trainers.probe import ProbeTrainer
from stages.detector.trainers.rdna import RdnaTrainer
from stages.detector.trainers.segmenter import SegmenterTrainer
from stages.detector.trainers.supersimple import SuperSimpleTrainer

TRANSFORMERS: dict[str, type[SingleTrainer]] = {
    IMAGE: ImageTransformerTrainer,
    LATENT: LatentTransformerTrainer,
    FEATURES: LatentTransformerTrainer,
}


@singledispatch
def new_trainer(config: DetectorConfig, parts: Parts) -> DetectorTrainer:  # noqa: ARG001
    """The trainer of such detectors; parts that don't go together are refused."""
    raise UserError(
        f"detector={config.name} learns from normal images alone, so no sample can change it: use it with "
        "train_detector.py, or choose detector=transformer"
    )


@new_trainer.register
def _(config: TransformerConfig, parts: Parts) -> DetectorTrainer:
    return _transformer(config, parts)


@new_trainer.register
def _(config: RdnaConfig, parts: Parts) -> DetectorTrainer:
    return RdnaTrainer(config, *parts)


@new_trainer.register
def _(config: SuperSimpleConfig, parts: Parts) -> DetectorTrainer:
    return SuperSimpleTrainer(config, *parts)


@new_trainer.register
def _(config: ProbeConfig, parts: Parts) -> DetectorTrainer:
    return ProbeTrainer(config, *parts)


@new_trainer.register
def _(config: SegmenterConfig, parts: Parts) -> DetectorTrainer:
    return SegmenterTrainer(config, *parts)


@new_trainer.register
def _(config: PanelConfig, parts: Parts) -> DetectorTrainer:
    return PanelTrainer(config, *parts)


@new_trainer.register
def _(config: EnsembleConfig, parts: Parts) -> DetectorTrainer:
    return EnsembleTrainer(config, *parts, transformer=_transformer(config.transformer(), parts))


def _transformer(config: TransformerConfig, parts: Parts) -> SingleTrainer:
    if config.input not in TRANSFORMERS:
        raise UserError(f"detector.input={config.input} is unknown: choose one of {', '.join(TRANSFORMERS)}")
    return TRANSFORMERS[config.input](config, *parts)
