"""Commands put together without running them: configuration, machine and data."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig

from conf.schema.envs import AugmentEnvConfig
from conf.schema.runs import AgentRun
from stages.cli.compose import compose
from stages.context import Context, start
from stages.training_data import TrainingData, load_training_data

SMALL_PHANTOM = [
    "dataset=phantom",
    "dataset.size=32",
    "dataset.train=24",
    "dataset.valid=24",
    "dataset.test=8",
    "device=cpu",
    "threads=1",
    "autoencoder.steps=20",
    "autoencoder.width=8",
    "detector.width=16",
    "detector.steps=8",
    "detector.batch_size=8",
    "detector.baselines=[]",
    "env.num_envs=4",
    "samples=32",
]


class Composed(NamedTuple):
    """What ``train_ppo.py`` begins with."""

    config: AgentRun
    context: Context
    data: TrainingData

    @property
    def env(self) -> AugmentEnvConfig:
        assert isinstance(self.config.env, AugmentEnvConfig)
        return self.config.env


def compose_run(folder: Path, *overrides: str) -> Composed:
    """What ``train_ppo.py`` makes of these arguments in ``folder``, before it trains anything."""
    config, context = start(_composed(folder, overrides), AgentRun)
    torch.set_num_threads(1)
    return Composed(config, context, load_training_data(config, context))


def _composed(folder: Path, overrides: tuple[str, ...]) -> DictConfig:
    places = [f"runs={folder / 'runs'}", f"prepared={folder / 'prepared'}", f"data_root={folder / 'data'}"]
    return compose("train_ppo", [*overrides, *places])
