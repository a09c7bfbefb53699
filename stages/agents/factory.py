"""From the configuration of an agent to the agent: one function a class of configuration."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from agents.base import Agent
from agents.baselines.feature_noise import FeatureNoiseAgent
from agents.baselines.glass import GlassAgent
from agents.baselines.gradient import GradientAgent
from agents.baselines.mixup import MixupAgent
from agents.baselines.none_and_random import NoneAgent, RandomAgent
from agents.sb3_vec_env import LatentVecEnv
from conf.schema.agents import (
    AgentConfig,
    FeatureNoiseConfig,
    GlassConfig,
    GradientConfig,
    LearnerConfig,
    MixupConfig,
    UntrainedConfig,
)
from latent_common.errors import UserError
from latent_env.dynamics import Dynamics, Episodes
from stages.agents.learners import LEARNERS, make_learner, untrained_policy
from stages.seeds import derived_seed

IMAGE_AGENTS = (*LEARNERS, "untrained", "random", "none")
"""Agents that act in LatentDenoise-v0 as well."""


def depends_on_detectors(agent: AgentConfig) -> bool:
    """Whether what an agent makes depends on detectors, through a reward or a gradient."""
    return agent.keep_fraction < 1 or isinstance(agent, LearnerConfig | GradientConfig | GlassConfig)


@singledispatch
def make_agent(config: AgentConfig, dynamics: Episodes[Any], seed: int, number: int) -> Agent:
    """The agent of round ``number`` (from 1) in a run with ``seed``, before it has learned anything."""
    match config.name:
        case "none":
            return NoneAgent(dynamics)
        case "random":
            return RandomAgent(dynamics, derived_seed(seed, number))
        case "random_useful":
            return RandomAgent(_augmentation(config, dynamics), derived_seed(seed, number))
    raise UserError(f"agent.name={config.name} is no agent: agent=none and agent=random keep their names")


@make_agent.register
def _(config: LearnerConfig, dynamics: Episodes[Any], seed: int, number: int) -> Agent:
    return make_learner(config, LatentVecEnv(dynamics), derived_seed(seed, number))


@make_agent.register
def _(config: UntrainedConfig, dynamics: Episodes[Any], seed: int, number: int) -> Agent:  # noqa: ARG001
    return untrained_policy(config.hidden, LatentVecEnv(dynamics), derived_seed(seed, 1))


@make_agent.register
def _(config: MixupConfig, dynamics: Episodes[Any], seed: int, number: int) -> Agent:
    world = _augmentation(config, dynamics)
    return MixupAgent(world, derived_seed(seed, number), config.low, config.high)


@make_agent.register
def _(config: GradientConfig, dynamics: Episodes[Any], seed: int, number: int) -> Agent:
    world = _augmentation(config, dynamics)
    return GradientAgent(world, derived_seed(seed, number), config.steps, config.step_size)


@make_agent.register
def _(config: FeatureNoiseConfig, dynamics: Episodes[Any], seed: int, number: int) -> Agent:
    world = _augmentation(config, dynamics)
    return FeatureNoiseAgent(world, derived_seed(seed, number), config.strength)


@make_agent.register
def _(config: GlassConfig, dynamics: Episodes[Any], seed: int, number: int) -> Agent:
    world, ascent = _augmentation(config, dynamics), (config.steps, config.step_size, config.project_every)
    return GlassAgent(world, derived_seed(seed, number), config.strength, *ascent)


def _augmentation(config: AgentConfig, dynamics: Episodes[Any]) -> Dynamics:
    """Refuse an agent in LatentDenoise-v0 that only acts in LatentAug-v0."""
    if not isinstance(dynamics, Dynamics):
        raise UserError(f"agent={config.name} makes anomalies, no images: choose {', '.join(IMAGE_AGENTS)}")
    return dynamics
