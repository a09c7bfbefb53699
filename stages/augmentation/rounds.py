"""Rounds: the reward ensemble learns from earlier samples, then the agent learns and makes new ones."""

from __future__ import annotations

import math
from pathlib import Path

from stable_baselines3.common.utils import set_random_seed

from agents.rollout import Augmented, collect, load_augmented, save_augmented
from conf.schema.envs import AugmentEnvConfig
from conf.schema.runs import AgentRun
from latent_common.progress import progress_bar
from latent_env.dynamics import Dynamics
from latent_env.training.run_folder import Run
from latent_env.worlds.world import World
from stages.agents.factory import depends_on_detectors, make_agent
from stages.agents.training import train_agent
from stages.augmentation.dynamics import make_dynamics
from stages.augmentation.pictures.figures import show_samples
from stages.augmentation.pictures.sheets import Examples, real_anomalies
from stages.augmentation.reward_ensemble import first_ensemble_run, with_reward_ensemble
from stages.detector.trained import TrainedDetector
from stages.seeds import LARGEST_SEED, derived_seed

SAMPLING = 1
"""Keeps the random numbers of sampling apart from those of learning."""


def play_rounds(
    config: AgentRun, env: AugmentEnvConfig, baseline: TrainedDetector, run: Run
) -> tuple[Augmented, World]:
    """What the agent made in all rounds, and the world of the last round with its reward ensemble.

    The ensemble of the first round has learned nothing that agents made, so it is the same for all agents and
    kept beside the ``baseline``.
    """
    made: list[Augmented] = []
    world, trainer = baseline.world, baseline.trainer
    examples = real_anomalies(world, trainer.data.dataset.valid, trainer.labelled_split.train)
    for number in range(1, config.rounds + 1):
        if depends_on_detectors(config.agent):
            ensemble, earlier = config.reward_ensemble, Augmented.joined(made) if made else None
            folder = run if made else first_ensemble_run(baseline.run, ensemble)
            world = with_reward_ensemble(ensemble, trainer, folder, baseline.world, earlier, number)
        dynamics = make_dynamics(env, config.reward, config.agent, world)
        made.append(play_round(config, dynamics, run, examples, number))
    samples = Augmented.joined(made)
    save_augmented(run.path / "augmented.npz", samples)
    return samples, world


def play_round(
    config: AgentRun, dynamics: Dynamics, run: Run, examples: Examples | None, number: int
) -> Augmented:
    """What the agent of round ``number`` makes after it was trained; loaded if it was made before.

    ``examples`` are real anomalies that pictures show beside the samples.
    """
    path = samples_file(run, number)
    if path.is_file():
        return load_augmented(path)
    agent = make_agent(config.agent, dynamics, config.seed, number)
    train_agent(config.agent, agent, run, config.seed, number, config.rounds)
    seed = derived_seed(config.seed, number, SAMPLING)
    set_random_seed(seed % LARGEST_SEED)
    kept = config.agent.keep_fraction
    proposed = math.ceil(config.samples / kept)
    with progress_bar(f"samples, round {number}", proposed) as bar:
        made = collect(dynamics, agent, proposed, seed, bar, kept)
    show_samples(run, dynamics, made, examples, config.samples, number)
    save_augmented(path, made)
    return made


def samples_file(run: Run, number: int) -> Path:
    """Where the samples of a round are kept until the run is complete."""
    return run.part(f"round_{number}").path / "augmented.npz"
