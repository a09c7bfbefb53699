"""Training an agent in one round, going on from the round before."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from agents.base import Agent
from agents.learners.checkpoints import CHECKPOINT, load_checkpoint, save_checkpoint
from agents.learners.saving import POLICY, load_policy, save_policy
from agents.learners.training import learn
from agents.sb3_vec_env import LatentVecEnv
from conf.schema.agents import AgentConfig, LearnerConfig
from latent_common.progress import progress_bar, say
from latent_env.training.run_folder import Run
from stages.seeds import derived_seed


def train_agent(config: AgentConfig, agent: Agent, run: Run, seed: int, number: int, rounds: int) -> None:
    """Train ``agent`` in place until its share of the steps for round ``number``, from 1, is done.

    Agents that don't learn stay as they are. In the folder of the round a checkpoint is kept, now and then
    and on Ctrl-C, and at last the policy.
    """
    if isinstance(config, LearnerConfig) and isinstance(agent, BaseAlgorithm):
        _train_learner(config, agent, run, seed, number, config.total_steps * number // rounds)


def _train_learner(
    config: LearnerConfig, model: BaseAlgorithm, run: Run, seed: int, number: int, goal: int
) -> None:
    part, before = (run.part(f"round_{i}") for i in (number, number - 1))
    _go_on(model, part.path, before.path, seed, number)
    done = model.num_timesteps
    if done < goal:
        with progress_bar(f"agent, round {number}", goal, done) as bar:
            save = partial(_keep, part.path, model, asdict(config), goal)
            run.log_from(done)
            learn(model, run.writer, goal, bar, save, config.min_std)
    part.forget_checkpoint()


def _go_on(model: BaseAlgorithm, folder: Path, before: Path, seed: int, number: int) -> None:
    """Put ``model`` to where it is in round ``number``, in ``folder``, or to the end of ``before``."""
    if (folder / f"{POLICY}.json").is_file():
        load_policy(folder, model)
    elif (folder / f"{CHECKPOINT}.json").is_file():
        load_checkpoint(folder, model)
        say(f"agent: going on from step {model.num_timesteps}")
    else:
        if (before / f"{POLICY}.json").is_file():
            load_policy(before, model)
        vec_env = model.get_env()
        assert isinstance(vec_env, LatentVecEnv)
        vec_env.seed(derived_seed(seed, number, model.num_timesteps))


def _keep(folder: Path, model: BaseAlgorithm, settings: dict[str, Any], goal: int) -> None:
    """Store ``model``: a checkpoint as long as it learns, then its policy."""
    if model.num_timesteps < goal:
        save_checkpoint(folder, model)
    else:
        save_policy(folder, model, settings)
