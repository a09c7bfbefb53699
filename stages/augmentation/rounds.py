"""The first steps of `train_ppo.py`: rounds of agent against judges, and what comes of them."""

from __future__ import annotations

import hashlib
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import set_random_seed

from agents.baselines.none_and_random import RandomAgent
from agents.rollout import Augmented, collect, load_augmented, save_augmented
from conf.schema.agents import AgentConfig
from conf.schema.envs import AugmentEnvConfig
from conf.schema.runs import AgentRun
from latent_common.digest import digest_of
from latent_common.progress import progress_bar
from latent_env.dynamics import Dynamics
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from latent_env.worlds.world import World
from stages.augmentation.agent_factory import augment_env, choose_agent, make_dynamics
from stages.augmentation.figures import show_samples
from stages.augmentation.mixture import CANDIDATE, LEARNED, RANDOM
from stages.augmentation.reward_ensemble import judged, reward_ensemble_digest, varied_job
from stages.context import Job
from stages.seeds import LARGEST_SEED, derived_seed

SAMPLING, RANDOM_BASELINE = 1, 3

AUTO = "auto"
"""The perturbation of ``agent=random``."""
"""Set the random numbers of sampling, and of uniform actions, apart from those of learning."""


def augment(job: Job[AgentRun], run: Run, dynamics: Dynamics, number: int) -> Augmented:
    """What the agent of round ``number`` makes."""
    path = run.part(f"round_{number}").path / "augmented.npz"
    if path.is_file():
        return load_augmented(path)
    agent = choose_agent(job, run, dynamics, number)
    seed = derived_seed(job.config.seed, number, SAMPLING)
    set_random_seed(seed % LARGEST_SEED)
    keep = job.config.agent.keep_fraction
    made = math.ceil(job.config.samples / keep)
    with progress_bar(f"samples, round {number}", made) as bar:
        augmented = collect(dynamics, agent, made, seed, bar, keep)
    show_samples(run, dynamics, augmented, job.config.samples, number)
    save_augmented(path, augmented)
    return augmented


def play(
    job: Job[AgentRun], run: Run, detector_run: Run, before: World, features: FeatureCache
) -> tuple[Augmented, World]:
    """All rounds: what the agent made, and the world of the last round with its judges.

    The judges of the first round have seen nothing that agents made, so they are the same for all agents and
    kept in the folder of the detector.
    """
    first = detector_run.part(f"judges-{reward_ensemble_digest(job)}")
    made: list[Augmented] = []
    world = before
    for number in range(1, job.config.rounds + 1):
        pool = Augmented.joined(made) if made else None
        world = judged(job, run if made else first, before, features, pool, number)
        made.append(augment(job, run, make_dynamics(job, world), number))
    return Augmented.joined(made), world


def random_baseline_env(job: Job[AgentRun]) -> AugmentEnvConfig:
    """The world of uniformly random actions: whatever the agent, as ``agent=random`` acts.

    Where an agent comes with a perturbation of its own, these actions don't go through it.
    """
    env = augment_env(job)
    if env.perturbation == job.config.agent.perturbation:
        return replace(env, perturbation=AUTO)
    return env


def random_baseline_run(job: Job[AgentRun], detector_run: Run) -> Run:
    """Where random samples and what learned from them are kept: beside the detector, for all agents."""
    own = {"env": random_baseline_env(job).settings(), "samples": job.config.samples}
    own["plugins"] = {name: source_digest(name) for name in job.config.plugins}
    return detector_run.part(f"chance-{digest_of(own)}")


def random_baseline(job: Job[AgentRun], run: Run, before: World) -> Augmented:
    """What uniformly random actions make in the same world, as many samples as a round makes."""
    path = run.path / "augmented.npz"
    if path.is_file():
        return load_augmented(path)
    seed = derived_seed(job.config.seed, RANDOM_BASELINE)
    agent = AgentConfig(name=RANDOM, perturbation=AUTO, keep_fraction=1.0)
    dynamics = make_dynamics(varied_job(job, env=random_baseline_env(job), agent=agent), before)
    with progress_bar("random samples", job.config.samples) as bar:
        augmented = collect(dynamics, RandomAgent(dynamics, seed), job.config.samples, seed, bar)
    save_augmented(path, augmented)
    return augmented


def sources(job: Job[AgentRun], detector_run: Run, before: World, learned: Augmented) -> dict[str, Augmented]:
    """What the detector may learn from beside image-space synthesis, by name."""
    if job.config.agent.name == "none":
        return {}
    found = {LEARNED: learned}
    if job.config.share is None and job.config.agent.name != RANDOM:
        found[RANDOM] = random_baseline(job, random_baseline_run(job, detector_run), before)
    return found


def agent_own_settings(job: Job[AgentRun]) -> dict[str, Any]:
    """All that decides what the agent makes and how the detector learns from it."""
    config = job.config
    loop = {"rounds": config.rounds, "samples": config.samples, "share": config.share}
    return {
        "env": config.env.settings(),
        "reward": asdict(config.reward),
        "agent": asdict(config.agent),
        "loop": {
            **loop,
            "mixture": asdict(config.mixture),
            "reward_ensemble": asdict(config.reward_ensemble),
        },
        "plugins": {name: source_digest(name) for name in config.plugins},
    }


def source_digest(plugin: str) -> str:
    """A digest of a plugin's source: when it changes, what it made must be made again."""
    file = sys.modules[plugin].__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""


def tidy(run: Run, rounds: int) -> None:
    """Remove what was only kept in order to go on from: it is in the joined files, or done with."""
    for number in range(1, rounds + 1):
        (run.part(f"round_{number}").path / "augmented.npz").unlink(missing_ok=True)
    for name in ("detector", "checkpoint"):
        for path in run.path.glob(f"{CANDIDATE}*/{name}.*"):
            path.unlink()
