"""The judges that rewards of a command go by: trained before every round, on what agents made so far."""

from __future__ import annotations

import shutil
from copy import copy
from dataclasses import asdict, replace
from typing import Any

from agents.rollout import Augmented
from conf.schema.detectors import TrainedConfig
from conf.schema.runs import AgentRun
from detectors.base import Detector
from detectors.training.samples import Samples, SampleSource
from latent_common.digest import digest_of
from latent_common.errors import UserError
from latent_common.image_source import evenly_spaced_positions
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from latent_env.worlds.reward_ensemble import load_reward_ensemble, save_reward_ensemble, share_memory
from latent_env.worlds.world import World
from stages.augmentation.agent_factory import depends_on_detectors
from stages.context import Job
from stages.job_of import train_single_detector
from stages.seeds import LARGEST_SEED, derived_seed

REPLAYED = 0.5
"""Of the anomalies that judges of a later round learn from, so many are what agents made before."""

JUDGING = 2
"""Sets the random numbers of judges apart from those of agents and of sampling."""


def check_reward_ensemble(job: Job[AgentRun]) -> None:
    """Complain about numbers of judges, or efforts, that can't be."""
    reward_ensemble = job.config.reward_ensemble
    if reward_ensemble.count < 0:
        raise UserError(f"judges: count={reward_ensemble.count} must be at least 0")
    if not 0 < reward_ensemble.effort <= 1:
        raise UserError(f"reward_ensemble.effort={reward_ensemble.effort:g} must be above 0 and at most 1")


def reward_ensemble_digest(job: Job[AgentRun]) -> str:
    """A name for what judges of the same detector may differ by."""
    return digest_of(asdict(job.config.reward_ensemble))


def judged(
    job: Job[AgentRun], run: Run, world: World, features: FeatureCache, pool: Augmented | None, number: int
) -> World:
    """``world`` before judges that have learned what agents made in earlier rounds, ``pool``.

    Agents that don't heed what detectors say get none.
    """
    count = job.config.reward_ensemble.count
    if not count or not depends_on_detectors(job.config.agent):
        return world
    part = run.part(f"round_{number}")
    members, held_out_detector = load_reward_ensemble(part.path, world.detector)
    if not members:
        samples = None if pool is None or not len(pool) else as_samples(job, world, pool)
        trained = [
            train_member(job, part, world, features, samples, number, each) for each in range(count + 1)
        ]
        *members, held_out_detector = trained
        save_reward_ensemble(part.path, members, held_out_detector)
        for each in range(count + 1):
            shutil.rmtree(part.part(f"judge_{each + 1}").path)
    return world.with_reward_ensemble(members, held_out_detector)


def train_member(
    job: Job[AgentRun],
    part: Run,
    world: World,
    features: FeatureCache,
    samples: Samples | None,
    number: int,
    each: int,
) -> Detector:
    """One small detector, with random numbers of its own; kept by itself until all are there."""
    own = part.part(f"judge_{each + 1}")
    known, _ = load_reward_ensemble(own.path, world.detector)
    if known:
        return known[0]
    label = f"judge {each + 1}, round {number}"
    sample_sources = [] if samples is None else [SampleSource(samples, REPLAYED)]
    small = smaller(job, number, each)
    member = train_single_detector(small, own, world.autoencoder, features, label, sample_sources)
    own.writer.close()
    save_reward_ensemble(own.path, [member], None)
    share_memory(member, world.detector)
    return member


def smaller(job: Job[AgentRun], number: int, each: int) -> Job[AgentRun]:
    """The same command, with a detector as small as a judge and another seed."""
    config, detector = job.config, job.config.detector
    assert isinstance(detector, TrainedConfig)
    small = detector.smaller(config.reward_ensemble)
    seed = derived_seed(config.seed, number, JUDGING, each) % LARGEST_SEED
    return varied_job(job, detector=small, seed=seed)


def varied_job(job: Job[AgentRun], **changes: Any) -> Job[AgentRun]:
    """The same command with another configuration; what it has loaded already stays loaded."""
    other = copy(job)
    other.config = replace(job.config, **changes)
    return other


def as_samples(job: Job[AgentRun], world: World, pool: Augmented) -> Samples:
    """What agents made, as detectors train on it."""
    sources = evenly_spaced_positions(len(job.train_images), job.config.detector.num_start_images)
    return pool.latent_samples(world, sources) if world.reads_latents else pool.samples(job.device, sources)
