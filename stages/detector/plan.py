"""From a command to the plan of its detector: one a class of configuration."""

from __future__ import annotations

from functools import singledispatch

from conf.schema.detectors import (
    DetectorConfig,
    GaussianConfig,
    KnnConfig,
    PositionalKnnConfig,
    ReconstructionConfig,
    TokenDetectorConfig,
)
from conf.schema.runs import DetectorRun
from latent_common.errors import UserError
from stages.autoencoder.plan import plan_autoencoder
from stages.context import Context
from stages.detector.base import DetectorPlan
from stages.detector.fitted import DistancePlan, ReconstructionPlan
from stages.detector.trained import plan_trained_detector
from stages.detector.validation_sets import check_normal_validation
from stages.features import plan_backbone
from stages.training_data import TrainingData


def plan_detector(config: DetectorRun, context: Context, data: TrainingData) -> DetectorPlan:
    """Build ``config.detector`` and all that it needs once, untrained: mistakes show at once."""
    return _plan(config.detector, config, context, data)


@singledispatch
def _plan(
    detector: DetectorConfig,  # noqa: ARG001
    config: DetectorRun,
    context: Context,
    data: TrainingData,
) -> DetectorPlan:
    return plan_trained_detector(config, context, data)


@_plan.register(KnnConfig)
@_plan.register(PositionalKnnConfig)
@_plan.register(GaussianConfig)
def _(
    detector: TokenDetectorConfig, config: DetectorRun, context: Context, data: TrainingData
) -> DetectorPlan:
    _check_fitted(config, data)
    autoencoder = plan_autoencoder(config.autoencoder, context, data)
    plan = DistancePlan(detector, context, data, autoencoder, plan_backbone(detector, context, data))
    plan.untrained()
    return plan


@_plan.register
def _(
    detector: ReconstructionConfig, config: DetectorRun, context: Context, data: TrainingData
) -> DetectorPlan:
    _check_fitted(config, data)
    plan = ReconstructionPlan(detector, context, data, plan_autoencoder(config.autoencoder, context, data))
    plan.untrained()
    return plan


def _check_fitted(config: DetectorRun, data: TrainingData) -> None:
    if config.export:
        raise UserError(
            f"export={config.export}: detector={config.detector.name} makes no environment to export; leave "
            "it out, or choose detector=transformer"
        )
    check_normal_validation(data.dataset)
