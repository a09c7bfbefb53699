"""The steps of `train_ppo.py`: rounds of agent against judges, then a detector that learns from them."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import set_random_seed

from agents.rollout import Augmented, collect, load_augmented, save_augmented
from agents.scripted import RandomAgent
from agents.showing import show_samples
from conf.agents import choose_agent, make_dynamics
from conf.detector_learning import learn_to_detect
from conf.job import LARGEST_SEED, Job, derived_seed
from conf.judging import judged, varied_job
from conf.mixture import LEARNED, RANDOM, Shares, portions
from conf.schema import AgentConfig, AgentRun
from latent_env.artifacts import load_detector, save_detector
from latent_env.dynamics import Dynamics
from latent_env.latents import Eyes
from latent_env.progress import progress_bar
from latent_env.runs import Run
from latent_env.worlds import World

SAMPLING, CHANCE = 1, 3
"""Set the random numbers of sampling, and of uniform actions, apart from those of learning."""

FINAL = "retrained"
"""The part of a run in which the detector is trained that learns from samples."""


def augment(job: Job[AgentRun], run: Run, dynamics: Dynamics, number: int) -> Augmented:
    """What the agent of round ``number`` makes."""
    path = run.part(f"round_{number}").path / "augmented.npz"
    if path.is_file():
        return load_augmented(path)
    agent = choose_agent(job, run, dynamics, number)
    seed = derived_seed(job.config.seed, number, SAMPLING)
    set_random_seed(seed % LARGEST_SEED)
    with progress_bar(f"samples, round {number}", job.config.samples) as bar:
        augmented = collect(dynamics, agent, job.config.samples, seed, bar)
    show_samples(run, dynamics, augmented, job.config.samples, number)
    save_augmented(path, augmented)
    return augmented


def play(job: Job[AgentRun], run: Run, before: World, eyes: Eyes) -> tuple[Augmented, World]:
    """All rounds: what the agent made, and the world of the last round with its judges."""
    made: list[Augmented] = []
    world = before
    for number in range(1, job.config.rounds + 1):
        pool = Augmented.joined(made) if made else None
        world = judged(job, run, before, eyes, pool, number)
        made.append(augment(job, run, make_dynamics(job, world), number))
    return Augmented.joined(made), world


def chance(job: Job[AgentRun], run: Run, before: World) -> Augmented:
    """What uniformly random actions make in the same world, as many samples as a round makes.

    Whatever the agent, as ``agent=random`` acts: where an agent comes with a perturbation of its own, these
    actions don't go through it.
    """
    path = run.part("chance").path / "augmented.npz"
    if path.is_file():
        return load_augmented(path)
    seed = derived_seed(job.config.seed, CHANCE)
    env, agent = job.config.env, AgentConfig(name=RANDOM)
    if env.perturbation == job.config.agent.perturbation:
        env = replace(env, perturbation=agent.perturbation)
    dynamics = make_dynamics(varied_job(job, env=env, agent=agent), before)
    with progress_bar("random samples", job.config.samples) as bar:
        augmented = collect(dynamics, RandomAgent(dynamics, seed), job.config.samples, seed, bar)
    save_augmented(path, augmented)
    return augmented


def sources(job: Job[AgentRun], run: Run, before: World, learned: Augmented) -> dict[str, Augmented]:
    """What the detector may learn from beside image-space synthesis, by name."""
    if job.config.agent.name == "none":
        return {}
    found = {LEARNED: learned}
    if job.config.share is None and job.config.agent.name != RANDOM:
        found[RANDOM] = chance(job, run, before)
    return found


def retrain(
    job: Job[AgentRun], run: Run, before: World, eyes: Eyes, sets: dict[str, Augmented], shares: Shares
) -> World:
    """The world with a detector that learned from these shares of ``sets`` as well.

    From the same weights in the same number of steps: without any samples it is the one from before.
    """
    if not any(shares.values()):
        return before
    part = run.part(FINAL)
    if (part.path / "detector.json").is_file():
        return before.with_detector(load_detector(part.path))
    made = portions(job, before, sets, shares)
    detector = learn_to_detect(job, part, before.autoencoder, eyes, "detector, retrained", made)
    part.writer.close()
    save_detector(part.path, detector)
    return before.with_detector(detector)


def agent_own_settings(job: Job[AgentRun]) -> dict[str, Any]:
    """All that decides what the agent makes and how the detector learns from it."""
    config = job.config
    loop = {"rounds": config.rounds, "samples": config.samples, "share": config.share}
    return {
        "env": asdict(config.env),
        "reward": asdict(config.reward),
        "agent": asdict(config.agent),
        "loop": {**loop, "mixture": asdict(config.mixture), "judges": asdict(config.judges)},
        "plugins": {name: source_digest(name) for name in config.plugins},
    }


def source_digest(plugin: str) -> str:
    """A digest of a plugin's source: when it changes, what it made must be made again."""
    file = sys.modules[plugin].__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""


def tidy(run: Run, rounds: int) -> None:
    """Remove what was only kept in order to go on from: all of it is in the joined file, or done with."""
    for name in (*(f"round_{number}" for number in range(1, rounds + 1)), "chance"):
        (run.part(name).path / "augmented.npz").unlink(missing_ok=True)
