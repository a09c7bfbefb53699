"""All stages: train an agent to augment, retrain the detector, and compare before with after.

With env=latent_denoise instead: train a critic, an agent that makes images of noise, and judge them.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from agents.rollout import save_augmented
from conf.agents import check_keep, make_agent, make_dynamics
from conf.conclusion import conclude
from conf.curves import curve_of
from conf.denoise import denoise_main
from conf.detector_types import TrainedConfig
from conf.env_types import DenoiseEnvConfig
from conf.job import Job, say, start_job
from conf.judging import check_judges
from conf.launch import run_script
from conf.mixture import Tried, can_choose, check_choice, check_mixture, choose_mixture, learn_mixtures
from conf.rounds import agent_own_settings, chance_run, play, sources, tidy
from conf.schema import AgentRun
from conf.validation import check_trial
from detectors.errors import UserError
from latent_env.runs import Run
from latent_env.worlds import copy_world
from train_ae import autoencoder_stage
from train_detector import detector_settings, detector_stage, rehearse_detector, save_world


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
    check_judges(job)
    check_keep(job.config.agent)
    if not isinstance(job.config.detector, TrainedConfig):
        raise UserError(
            f"detector={job.config.detector.name} learns from normal images alone, so no sample can change "
            "it: use it with train_detector.py, or choose detector=transformer"
        )
    dynamics = make_dynamics(job, rehearse_detector(job))
    check_trial(job, dynamics.reward)
    make_agent(job, dynamics, number=1)


def agent_stage(job: Job[AgentRun]) -> Run:
    """Rounds of *agent against judges*, a detector that learns from the best mixture, and the comparison."""
    config = job.config
    rehearse_agent(job)
    run = agent_run(job)
    if run.complete:
        say(f"agent: using {run.path}")
        return run
    before, detector_run, eyes = detector_stage(job)
    run.begin()
    pool, played = play(job, run, detector_run, before, eyes)
    save_augmented(run.path / "augmented.npz", pool)
    first = Tried({}, before, curve_of(detector_run))
    sets = sources(job, detector_run, before, pool) if can_choose(job) else {}
    mixtures = learn_mixtures(job, run, chance_run(job, detector_run), first, eyes, sets)
    chosen, tried = choose_mixture(job, eyes, mixtures)
    save_world(run.path, chosen.world.with_judges(played.judges, played.unseen))
    conclude(job, run, detector_run, (first, chosen), eyes, pool, tried)
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


def main(cfg: DictConfig) -> None:
    """Make what is missing and print the before/after table."""
    job = start_job(cfg, AgentRun)
    import_plugins(job)
    if isinstance(job.config.env, DenoiseEnvConfig):
        denoise_main(job, autoencoder_stage)
        return
    run = agent_stage(job)
    if job.config.export:
        copy_world(run.path, Path(job.config.export))
        say(f"exported to {job.config.export}")
    report = (run.path / "report.md").read_text(encoding="utf-8")
    print(report.partition("\n\n")[2].partition("\n\n## ")[0])
    print(
        f"\npictures:    {run.path / 'pictures'}\n"
        f"samples:     {run.path / 'augmented.npz'}\n"
        f"environment: gym.make('LatentAug-v0', artifacts='{run.path}')\n"
        f"look further: tensorboard --logdir {cfg.runs}"
    )


if __name__ == "__main__":
    run_script(main, "train_ppo", __doc__)
