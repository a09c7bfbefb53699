"""Who plays the episodes of a data set."""

from __future__ import annotations

from typing import Any

import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from agents.base import Agent
from agents.baselines.none_and_random import RandomAgent
from agents.learners.saving import POLICY
from agents.learners.sequences.demonstrations import ReversingAgent
from agents.learners.stock_ppo import stock_ppo
from agents.sb3_vec_env import LatentVecEnv
from latent_common.errors import UserError
from latent_common.progress import progress_bar
from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.dynamics import Episodes
from stages.agents.learners import saved_learner
from stages.offline.arguments import Recording
from stages.seeds import LARGEST_SEED, derived_seed

PLAYING = 1
"""Keeps the random numbers of recording apart from those of learning."""


def player_of(recording: Recording, dynamics: Episodes[Any]) -> Agent:
    """The agent that plays ``recording`` in ``dynamics``; it has learned what it has to."""
    seed = derived_seed(recording.seed, PLAYING)
    match recording.policy:
        case "random":
            return RandomAgent(dynamics, seed)
        case "forward":
            assert isinstance(dynamics, DenoiseDynamics)
            return ReversingAgent(dynamics, seed)
        case "ppo":
            agent: Agent = _trained(recording)
        case _:
            agent = _saved(recording, dynamics, seed)
    torch.manual_seed(seed % LARGEST_SEED)  # what SB3's policies draw actions from
    return agent


def algorithm_of(recording: Recording) -> str:
    """What plays, in words."""
    match recording.policy:
        case "random":
            return "uniformly random actions"
        case "forward":
            return "forward diffusion played in reverse, by who knows the image"
        case "ppo":
            version = stable_baselines3.__version__
            return (
                f"PPO of Stable-Baselines3 {version}, default hyperparameters, {recording.steps} steps, "
                "acting stochastically"
            )
        case _:
            return "a saved policy, acting stochastically"


def _trained(recording: Recording) -> Agent:
    assert recording.steps is not None
    model = stock_ppo(recording.task.id, recording.seed)
    with progress_bar(f"PPO, {recording.task.id}", recording.steps) as bar:
        model.learn(recording.steps, callback=_Shown(bar, recording.steps))
    return model


def _saved(recording: Recording, dynamics: Episodes[Any], seed: int) -> Agent:
    folder = recording.folder
    assert folder is not None
    if not (folder / f"{POLICY}.json").is_file():
        raise UserError(
            f"--policy {folder} has no {POLICY}.json: name a round_… folder of a run of train_ppo.py"
        )
    return saved_learner(folder, LatentVecEnv(dynamics), seed)


class _Shown(BaseCallback):
    """Moves a progress bar on with the ``steps`` of a training."""

    def __init__(self, bar: tqdm[Any], steps: int) -> None:
        super().__init__()
        self.bar, self.steps = bar, steps

    def _on_step(self) -> bool:
        self.bar.update(min(self.num_timesteps, self.steps) - self.bar.n)  # it ends with a whole rollout
        return True
