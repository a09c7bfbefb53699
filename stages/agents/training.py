"""Training an agent in one round, going on from the round before."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from stable_baselines3.common.base_class import BaseAlgorithm

from agents.base import Agent
from agents.learners.saving import load_policy, save_policy
from agents.learners.training import learn
from agents.sb3_vec_env import LatentVecEnv
from conf.schema.agents import AgentConfig, LearnerConfig
from latent_common.progress import progress_bar
from latent_env.training.run_folder import Run
from stages.seeds import derived_seed


def train_agent(config: AgentConfig, agent: Agent, run: Run, seed: int, number: int, rounds: int) -> None:
    """Train ``agent`` in place until its share of the steps for round ``number``, from 1, is done.

    Agents that don't learn stay as they are. The policy of a learner is saved in the folder of the round, now
    and then and on Ctrl-C.
    """
    if isinstance(config, LearnerConfig) and isinstance(agent, BaseAlgorithm):
        _train_learner(config, agent, run, seed, number, config.total_steps * number // rounds)


def _train_learner(
    config: LearnerConfig, model: BaseAlgorithm, run: Run, seed: int, number: int, goal: int
) -> None:
    vec_env = model.get_env()
    assert isinstance(vec_env, LatentVecEnv)
    folder, before = (run.part(f"round_{i}").path for i in (number, number - 1))
    for saved in (folder, before):
        if (saved / "policy.json").is_file():
            load_policy(saved, model)
            break
    done = model.num_timesteps
    if done < goal:
        vec_env.seed(derived_seed(seed, number, done))  # not the episodes of before a stop
        with progress_bar(f"agent, round {number}", goal, done) as bar:
            save = partial(save_policy, folder, model, asdict(config), goal)
            learn(model, run.path, goal, bar, save, config.min_std)
