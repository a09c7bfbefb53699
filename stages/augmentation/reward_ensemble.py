"""The reward ensemble: small detectors that rewards depend on, trained anew before every round."""

from __future__ import annotations

import shutil
from dataclasses import asdict

from agents.rollout import Augmented
from conf.schema.detectors import RewardEnsembleConfig
from detectors.base import Detector
from detectors.training.samples import Samples, SampleSource
from latent_common.digest import digest_of
from latent_env.training.run_folder import Run
from latent_env.worlds.reward_ensemble import load_reward_ensemble, save_reward_ensemble, share_memory
from latent_env.worlds.world import World
from stages.augmentation.training_samples import training_samples
from stages.detector.trainers.base import DetectorTrainer
from stages.seeds import LARGEST_SEED, derived_seed

EARLIER_SAMPLES = 0.5
"""The share of the anomalies that members of later rounds learn from which agents made before."""

MEMBERS = 2
"""Keeps the random numbers of members apart from those of agents and of sampling."""


def first_ensemble_run(detector_run: Run, config: RewardEnsembleConfig) -> Run:
    """Where the ensemble of the first round is kept: it is the same for all agents."""
    return detector_run.part(f"reward-ensemble-{digest_of(asdict(config))}")


def with_reward_ensemble(
    config: RewardEnsembleConfig,
    trainer: DetectorTrainer,
    run: Run,
    world: World,
    made: Augmented | None,
    number: int,
) -> World:
    """``world`` with the reward ensemble of round ``number``, and a detector that no reward depends on.

    All of them learn from ``made``, what agents made in earlier rounds. With ``config.count=0`` there are
    none.
    """
    if not config.count:
        return world
    part = run.part(f"round_{number}")
    members, held_out_detector = load_reward_ensemble(part.path, world.detector)
    single = [member_run(part, member).path for member in range(config.count + 1)]
    if members and not any(path.exists() for path in single):
        return world.with_reward_ensemble(members, held_out_detector)
    with part.locked():
        members, held_out_detector = load_reward_ensemble(part.path, world.detector)
        if not members:
            samples = training_samples(trainer, world, made) if made is not None and len(made) else None
            trained = [
                train_member(config, trainer, part, world, samples, (number, member))
                for member in range(config.count + 1)
            ]
            *members, held_out_detector = trained
            save_reward_ensemble(part.path, members, held_out_detector)
        for path in single:
            shutil.rmtree(path, ignore_errors=True)
    return world.with_reward_ensemble(members, held_out_detector)


def member_run(run: Run, member: int) -> Run:
    """Where a member, counted from 0, is kept until all are trained."""
    return run.part(f"member_{member + 1}")


def train_member(
    config: RewardEnsembleConfig,
    trainer: DetectorTrainer,
    run: Run,
    world: World,
    samples: Samples | None,
    place: tuple[int, int],
) -> Detector:
    """One small detector with random numbers of its own.

    :param place: the number of the round, from 1, and that of the member, from 0.
    """
    number, member = place
    own = member_run(run, member)
    known, _ = load_reward_ensemble(own.path, world.detector)
    if known:
        return known[0]
    small = member_trainer(config, trainer, number, member)
    sources = [] if samples is None else [SampleSource(samples, EARLIER_SAMPLES)]
    detector = small.train(own, f"reward ensemble {member + 1}, round {number}", sources)
    own.writer.close()
    save_reward_ensemble(own.path, [detector], None)
    own.forget_checkpoint()
    share_memory(detector, world.detector)
    return detector


def member_trainer(
    config: RewardEnsembleConfig, trainer: DetectorTrainer, number: int, member: int
) -> DetectorTrainer:
    """A trainer of small detectors, with the seed of one member."""
    seed = derived_seed(trainer.context.seed, number, MEMBERS, member) % LARGEST_SEED
    return trainer.smaller(config, seed)
