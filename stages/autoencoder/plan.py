"""From the configuration of an autoencoder to how it is made: one plan a class of configuration."""

from __future__ import annotations

from functools import singledispatch

from conf.schema.autoencoders import (
    AutoencoderConfig,
    ConvConfig,
    GenerativeConfig,
    MemoryAutoencoderConfig,
    PretrainedConfig,
)
from stages.autoencoder.base import AutoencoderPlan
from stages.autoencoder.conv import ConvPlan
from stages.autoencoder.generative import GenerativePlan
from stages.autoencoder.memory import MemoryPlan
from stages.autoencoder.pretrained import PretrainedPlan
from stages.context import Context
from stages.training_data import TrainingData


@singledispatch
def plan_autoencoder(config: AutoencoderConfig, context: Context, data: TrainingData) -> AutoencoderPlan:
    """How the autoencoder of ``config`` is made of ``data``; nothing is trained yet."""
    raise TypeError(f"{type(config).__name__} has no plan: register one in {__name__}, for {context}, {data}")


@plan_autoencoder.register
def _(config: ConvConfig, context: Context, data: TrainingData) -> AutoencoderPlan:
    return ConvPlan(config, context, data)


@plan_autoencoder.register
def _(config: MemoryAutoencoderConfig, context: Context, data: TrainingData) -> AutoencoderPlan:
    return MemoryPlan(config, context, data)


@plan_autoencoder.register
def _(config: PretrainedConfig, context: Context, data: TrainingData) -> AutoencoderPlan:
    return PretrainedPlan(config, context, data)


@plan_autoencoder.register
def _(config: GenerativeConfig, context: Context, data: TrainingData) -> AutoencoderPlan:
    return GenerativePlan(config, context, data)
