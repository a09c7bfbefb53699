"""From the configuration to the agent that it names, and to the worlds that the agent acts in."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.base import Agent
from agents.baselines.feature_noise import FeatureNoiseAgent
from agents.baselines.glass import GlassAgent
from agents.baselines.gradient import GradientAgent
from agents.baselines.mixup import MixupAgent, largest_difference
from agents.baselines.none_and_random import NoneAgent, RandomAgent
from agents.learners.factory import make_learner
from agents.learners.saving import load_policy, save_policy
from agents.learners.training import learn
from agents.ppo import make_ppo
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
from conf.schema.envs import AugmentEnvConfig
from conf.schema.runs import AgentRun
from latent_common.errors import UserError
from latent_common.progress import progress_bar
from latent_env.dynamics import Dynamics, Episodes
from latent_env.settings import Settings
from latent_env.shell import Shell
from latent_env.training.run_folder import Run
from latent_env.worlds.world import World
from stages.context import Job
from stages.seeds import derived_seed

LEAST_REACH = 1e-3
"""Images that are all alike still need a ``max_delta`` above 0."""


def make_dynamics(job: Job[AgentRun], world: World) -> Dynamics:
    """The batch of worlds that the configuration describes."""
    env = job.config.env.arguments()
    if env["max_delta"] is None:
        env["max_delta"] = reach(job, world)
    return Settings(reward=job.config.reward.terms, **env).dynamics(world, job.config.env.num_envs)


def augment_env(job: Job[AgentRun]) -> AugmentEnvConfig:
    """The arguments of LatentAug-v0."""
    assert isinstance(job.config.env, AugmentEnvConfig)
    return job.config.env


def reach(job: Job[AgentRun], world: World) -> float | None:
    """``max_delta`` for agents that decide on lengths themselves, so that no number of theirs is cut off.

    None, the perturbation's own, for all others.
    """
    env = augment_env(job)
    match job.config.agent:
        case FeatureNoiseConfig(strength=strength):
            around = (env.shell_quantile, env.shell_ratio, env.shell_band)
            return 2 * strength * Shell.around_normals(world.autoencoder, *around).inner
        case MixupConfig():
            return max(largest_difference(world.latents), LEAST_REACH)
        case _:
            return None


def depends_on_detectors(agent: AgentConfig) -> bool:
    """Whether what an agent does depends on what detectors say, through a reward or a gradient."""
    return agent.keep_fraction < 1 or isinstance(agent, LearnerConfig | GradientConfig | GlassConfig)


def check_keep(agent: AgentConfig) -> None:
    """Complain about a share of proposals that can't be kept."""
    if not 0 < agent.keep_fraction <= 1:
        raise UserError(f"agent.keep_fraction={agent.keep_fraction:g} must be above 0 and at most 1")


def choose_agent(job: Job[AgentRun], run: Run, dynamics: Dynamics, number: int) -> Agent:
    """The agent of round ``number`` (from 1), trained if it is one that learns."""
    agent = make_agent(job, dynamics, number)
    match job.config.agent, agent:
        case LearnerConfig() as config, BaseAlgorithm() as model:
            learn_policy(job, config, run, model, number)
    return agent


def make_agent(job: Job[AgentRun], dynamics: Dynamics, number: int) -> Agent:
    """The agent of round ``number`` as it begins, before it has learned anything."""
    seed = derived_seed(job.config.seed, number)
    match job.config.agent:
        case LearnerConfig() as config:
            return make_learner(LatentVecEnv(dynamics), asdict(config), seed)
        case UntrainedConfig() as config:
            return untrained_policy(job, config.hidden, dynamics)
        case MixupConfig(low=low, high=high):
            return MixupAgent(dynamics, seed, low, high)
        case GradientConfig(steps=steps, step_size=step_size):
            return GradientAgent(dynamics, seed, steps, step_size)
        case GlassConfig() as config:  # before the noise that it also is
            ascent = (config.steps, config.step_size, config.project_every)
            return GlassAgent(dynamics, seed, config.strength, *ascent)
        case FeatureNoiseConfig(strength=strength):
            return FeatureNoiseAgent(dynamics, seed, strength)
        case AgentConfig(name="random" | "random_useful"):
            return RandomAgent(dynamics, seed)
        case AgentConfig(name="none"):
            return NoneAgent(dynamics)
        case AgentConfig(name=name):
            raise UserError(f"agent.name={name} is no agent: agent=none and agent=random keep their names")


def untrained_policy(job: Job[AgentRun], hidden: list[int], dynamics: Episodes[Any]) -> PPO:
    """The policy that PPO begins its first round with, in every round."""
    policy = {"hidden": hidden, "init_std": 1.0}
    # How PPO would learn doesn't matter to one that never does, but must fit any number of worlds.
    unused = {"n_steps": 2, "batch_size": 2 * dynamics.num_worlds, "n_epochs": 1, "learning_rate": 1e-3}
    settings = {**policy, **unused, "gamma": 0.9, "ent_coef": 0.0}
    return make_ppo(LatentVecEnv(dynamics), settings, derived_seed(job.config.seed, 1))


def learn_policy(
    job: Job[AgentRun], config: LearnerConfig, run: Run, model: BaseAlgorithm, number: int
) -> None:
    """A learner's share of the steps for this round, going on from the round before; kept also on Ctrl-C."""
    vec_env, settings = model.get_env(), asdict(config)
    assert isinstance(vec_env, LatentVecEnv)
    folder, before = (run.part(f"round_{i}").path for i in (number, number - 1))
    for saved in (folder, before):
        if (saved / "policy.json").is_file():
            load_policy(saved, model)
            break
    done, goal = model.num_timesteps, config.total_steps * number // job.config.rounds
    if done < goal:
        vec_env.seed(derived_seed(job.config.seed, number, done))  # not the episodes of before a stop
        with progress_bar(f"agent, round {number}", goal, done) as bar:
            keep = partial(save_policy, folder, model, settings, goal)
            learn(model, run.path, goal, bar, keep, config.min_std)
