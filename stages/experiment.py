"""What `train_ppo.py` does with each kind of environment: one function a class of configuration."""

from __future__ import annotations

from functools import singledispatch
from typing import Protocol

from conf.schema.envs import AugmentEnvConfig, DenoiseEnvConfig, EnvConfig
from conf.schema.runs import AgentRun
from latent_env.training.run_folder import Run
from stages.augmentation.stage import plan_augmentation
from stages.context import Context
from stages.denoise.stage import plan_denoising
from stages.training_data import TrainingData


class Experiment(Protocol):
    """A whole run of `train_ppo.py`, built once untrained."""

    @property
    def run(self) -> Run:
        """The folder of all results, complete or not."""

    def perform(self) -> None:
        """Train what is missing, and write the report."""

    def summary(self) -> str:
        """The report's table, and where everything is."""


@singledispatch
def plan_experiment(env: EnvConfig, config: AgentRun, context: Context, data: TrainingData) -> Experiment:
    """Build everything that ``config`` names once, untrained: what can't work together is refused."""
    raise TypeError(
        f"{type(env).__name__} has no experiment: register one in {__name__}, for {config}, {context}, {data}"
    )


@plan_experiment.register
def _(env: AugmentEnvConfig, config: AgentRun, context: Context, data: TrainingData) -> Experiment:
    return plan_augmentation(config, env, context, data)


@plan_experiment.register
def _(env: DenoiseEnvConfig, config: AgentRun, context: Context, data: TrainingData) -> Experiment:
    return plan_denoising(config, env, context, data)
