"""The random baseline: what uniformly random actions make, kept beside the detector for all agents."""

from __future__ import annotations

from dataclasses import replace

from agents.baselines.none_and_random import RandomAgent
from agents.rollout import Augmented, collect, load_augmented, save_augmented
from conf.schema.envs import AugmentEnvConfig
from conf.schema.runs import AgentRun
from latent_common.digest import digest_of
from latent_common.progress import progress_bar
from latent_env.settings import Settings
from latent_env.training.run_folder import Run
from latent_env.worlds.world import World
from stages.plugins import plugin_digests
from stages.seeds import derived_seed

RANDOM_BASELINE = 3
"""Keeps the random numbers of random actions apart from those of learning and sampling."""


def random_baseline_env(config: AgentRun, env: AugmentEnvConfig) -> AugmentEnvConfig:
    """The world of uniformly random actions, which is the same whatever the agent.

    Where an agent comes with a perturbation of its own, random actions don't go through it.
    """
    own = env.perturbation == config.agent.perturbation
    return replace(env, perturbation="auto") if own else env


def random_baseline_run(config: AgentRun, env: AugmentEnvConfig, detector_run: Run) -> Run:
    """The folder of random samples, and of the detector that learned from them alone."""
    settings = {
        "env": random_baseline_env(config, env).settings(),
        "samples": config.samples,
        "plugins": plugin_digests(config.plugins),
    }
    return detector_run.part(f"random-{digest_of(settings)}")


def random_samples(config: AgentRun, env: AugmentEnvConfig, run: Run, world: World) -> Augmented:
    """What random actions make in ``world``, as many samples as a round makes; kept in ``run``."""
    path = run.path / "augmented.npz"
    with run.locked():
        if path.is_file():
            return load_augmented(path)
        made = _drawn(config, env, world)
        save_augmented(path, made)
        return made


def _drawn(config: AgentRun, env: AugmentEnvConfig, world: World) -> Augmented:
    env = random_baseline_env(config, env)
    seed = derived_seed(config.seed, RANDOM_BASELINE)
    dynamics = Settings(reward=config.reward.terms, **env.arguments()).dynamics(world, env.num_envs)
    with progress_bar("random samples", config.samples) as bar:
        return collect(dynamics, RandomAgent(dynamics, seed), config.samples, seed, bar)
