"""All stages: train an agent to augment, retrain the detector, and compare before with after."""

from __future__ import annotations

import hashlib
import importlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from stable_baselines3.common.utils import set_random_seed

from agents.report import AFTER, BEFORE, compare, write_report
from agents.rollout import Augmented, collect, load_augmented, save_augmented
from agents.showing import show_embedding, show_samples
from conf.agents import choose_agent, make_agent, make_dynamics
from conf.job import LARGEST_SEED, Job, derived_seed, say, start_job
from conf.launch import run_script
from conf.schema import AgentRun, TransformerConfig
from detectors.errors import UserError
from detectors.images import spread_positions
from latent_env.artifacts import load_detector, save_detector
from latent_env.dynamics import Dynamics
from latent_env.evaluation import log_curves, log_evaluation
from latent_env.latents import Eyes
from latent_env.progress import progress_bar
from latent_env.runs import Run
from latent_env.worlds import World, copy_world
from train_detector import (
    detector_settings,
    detector_stage,
    evaluate_test,
    learn_to_detect,
    rehearse_detector,
    save_world,
)

SAMPLING = 1
"""Sets the random numbers of sampling apart from those of learning."""


def agent_settings(job: Job[AgentRun]) -> dict[str, Any]:
    """All that decides what the agent makes and what becomes of the detector."""
    config = job.config
    own = {
        "env": asdict(config.env),
        "reward": asdict(config.reward),
        "agent": asdict(config.agent),
        "loop": {"rounds": config.rounds, "samples": config.samples, "share": config.share},
        "plugins": {name: source_digest(name) for name in config.plugins},
    }
    return {**detector_settings(job), **own}


def source_digest(plugin: str) -> str:
    """A digest of a plugin's source: when it changes, what it made must be made again."""
    file = sys.modules[plugin].__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""


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


def retrain(job: Job[AgentRun], run: Run, world: World, eyes: Eyes, pool: Augmented, number: int) -> World:
    """The world with a detector trained from scratch, on all samples so far as well."""
    part = run.part(f"round_{number}")
    if (part.path / "detector.json").is_file():
        return world.with_detector(load_detector(part.path))
    sources = spread_positions(len(job.train_images), job.config.detector.starts)
    samples = (
        pool.latent_samples(world, sources) if world.judges_latents else pool.samples(job.device, sources)
    )
    label, share = f"detector, round {number}", job.config.share
    detector = learn_to_detect(job, part, world.autoencoder, eyes, label, samples, share)
    part.writer.close()
    save_detector(part.path, detector)
    return world.with_detector(detector)


def trained_steps(job: Job[AgentRun]) -> int:
    """How many steps each detector takes."""
    assert isinstance(job.config.detector, TransformerConfig)
    return job.config.detector.steps


def rehearse_agent(job: Job[AgentRun]) -> None:
    """Put everything together untrained: what can't work shows before hours are spent on it."""
    if not 0 <= job.config.share <= 1:
        raise UserError(f"share={job.config.share} must lie from 0 to 1")
    if not isinstance(job.config.detector, TransformerConfig):
        raise UserError(
            f"detector={job.config.detector.name} learns from normal images alone, so no sample can change "
            "it: use it with train_detector.py, or choose detector=transformer"
        )
    make_agent(job, make_dynamics(job, rehearse_detector(job)), number=1)


def agent_stage(job: Job[AgentRun]) -> Run:
    """Rounds of *agent against detector* and *detector against all samples*, then the comparison."""
    config = job.config
    rehearse_agent(job)
    run = job.run("agent", config.agent.name, agent_settings(job))
    if run.complete:
        say(f"agent: using {run.path}")
        return run
    before, detector_run, eyes = detector_stage(job)
    run.begin()
    world, pools = before, []
    for number in range(1, config.rounds + 1):
        pools.append(augment(job, run, make_dynamics(job, world), number))
        world = retrain(job, run, world, eyes, Augmented.joined(pools), number)
    pool = Augmented.joined(pools)
    save_augmented(run.path / "augmented.npz", pool)
    save_world(run.path, world)

    steps = trained_steps(job)
    evaluations = {BEFORE: evaluate_test(before, eyes), AFTER: evaluate_test(world, eyes)}
    log_evaluation(run, evaluations[AFTER], world.show, job.device, steps)
    log_curves(run, evaluations, steps)
    show_embedding(run, world, eyes, job.dataset, pool)
    rows = compare(evaluations[BEFORE], evaluations[AFTER])
    headline = (
        f"{job.dataset.summary()}\nagent {config.agent.name}, {config.rounds} rounds, seed {config.seed}; "
        f"both detectors took {steps} steps"
    )
    if not len(pool):
        headline += (
            f"\nNone of the {config.rounds * config.samples} samples was decided: all lay between normal and "
            "anomaly, so nothing was added. Try another env.max_delta or env.shell_quantile."
        )
    facts = {
        "dataset": job.dataset.name,
        "agent": config.agent.name,
        "seed": config.seed,
        "rounds": config.rounds,
        "samples": len(pool),
        "anomalous_samples": int(pool.labels.sum()),
        "detector_steps": steps,
        "detector_before": str(detector_run.path),
    }
    others = [key for key in detector_run.metrics if not key.startswith(("image_", "pixel_"))]
    opinions = {key: detector_run.metrics[key] for key in others}
    write_report(run.path, rows, headline, facts, opinions)
    gains = {f"gain_{row.metric}": row.difference for row in rows}
    run.finish({row.metric: row.after for row in rows} | gains)
    for number in range(1, config.rounds + 1):  # all of it is in the joined file
        (run.part(f"round_{number}").path / "augmented.npz").unlink(missing_ok=True)
    return run


def main(cfg: DictConfig) -> None:
    """Make what is missing and print the before/after table."""
    job = start_job(cfg, AgentRun)
    sys.path.append(str(Path.cwd()))  # a script's path is its own folder, plugins lie in the user's
    for plugin in job.config.plugins:
        try:
            importlib.import_module(plugin)
        except ImportError as error:
            raise UserError(f"plugins: can't import {plugin!r} ({error})") from error
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
