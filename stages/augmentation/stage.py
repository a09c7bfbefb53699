"""TODO: stages/augmentation/stage.py."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from agents.rollout import save_augmented
from conf.schema.detectors import TrainedConfig
from conf.schema.runs import AgentRun
from latent_common.errors import UserError
from latent_env.training.run_folder import Run
from latent_env.worlds.store import save_world
from stages.augmentation.agent_factory import check_keep, make_agent, make_dynamics
from stages.augmentation.comparison import conclude
from stages.augmentation.mixture import (
    Candidate,
    can_choose,
    check_choice,
    check_mixture,
    choose_mixture,
    learn_mixtures,
)
from stages.augmentation.reward_ensemble import check_reward_ensemble
from stages.augmentation.rounds import agent_own_settings, play, random_baseline_run, sources, tidy
from stages.context import Job, say
from stages.detector.validation_sets import check_reference_set
from stages.job_of import detector_settings, detector_stage, rehearse_detector


def agent_settings(job: Job[AgentRun]) -> dict[str, Any]:
    """All that decides what the agent makes and what becomes of the detector."""
    return {**detector_settings(job), **agent_own_settings(job)}


def agent_run(job: Job[AgentRun]) -> Run:
    """The folder of a run, whole or not."""
    return job.run("agent", job.config.agent.name, agent_settings(job))


def rehearse_agent(job: Job[AgentRun]) -> None:
    """Put everything together untrained: what can't work shows before hours are spent on it."""
    check_mixture(job)
    check_choice(job)
    check_reward_ensemble(job)
    check_keep(job.config.agent)
    if not isinstance(job.config.detector, TrainedConfig):
        raise UserError(
            f"detector={job.config.detector.name} learns from normal images alone, so no sample can change "
            "it: use it with train_detector.py, or choose detector=transformer"
        )
    dynamics = make_dynamics(job, rehearse_detector(job))
    check_reference_set(job.dataset, dynamics.reward)
    make_agent(job, dynamics, number=1)


def agent_stage(job: Job[AgentRun]) -> Run:
    """Rounds of *agent against judges*, a detector that learns from the best mixture, and the comparison."""
    config = job.config
    rehearse_agent(job)
    run = agent_run(job)
    if run.complete:
        say(f"agent: using {run.path}")
        return run
    before, detector_run, features = detector_stage(job)
    run.begin()
    pool, played = play(job, run, detector_run, before, features)
    save_augmented(run.path / "augmented.npz", pool)
    first = Candidate({}, before)
    sets = sources(job, detector_run, before, pool) if can_choose(job) else {}
    mixtures = learn_mixtures(job, run, random_baseline_run(job, detector_run), first, features, sets)
    chosen, candidates = choose_mixture(job, features, mixtures)
    save_world(
        run.path,
        chosen.world.with_reward_ensemble(played.reward_ensemble, played.held_out_detector),
    )
    conclude(job, run, detector_run, (first, chosen), features, pool, candidates)
    tidy(run, config.rounds)
    return run


def import_plugins(job: Job[AgentRun]) -> None:
    """Import the user's modules, which may register rewards and perturbations."""
    if job.config.plugins and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a script's path is its own folder, plugins lie in the user's
    for plugin in job.config.plugins:
        try:
            importlib.import_module(plugin)
        except ImportError as error:
            raise UserError(f"plugins: can't import {plugin!r} ({error})") from error
