"""Commands put together without running them: configuration, data, and what their stages make."""

from __future__ import annotations

from pathlib import Path

import torch

from conf.schema.runs import AgentRun
from stages.cli.compose import compose
from stages.context import Job, start_job

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
    "detector.heads=2",
    "detector.steps=8",
    "detector.batch_size=8",
    "detector.baselines=[]",
    "env.num_envs=4",
    "samples=32",
]


def make_job(folder: Path, *overrides: str) -> Job[AgentRun]:
    """What ``train_ppo.py`` makes of these arguments in ``folder``."""
    places = [f"runs={folder / 'runs'}", f"prepared={folder / 'prepared'}", f"data_root={folder / 'data'}"]
    job = start_job(compose("train_ppo", [*overrides, *places]), AgentRun)
    torch.set_num_threads(1)
    return job
