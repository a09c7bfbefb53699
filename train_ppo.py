"""All stages: train an agent to augment, retrain the detector, and compare before with after."""

from __future__ import annotations

import hashlib
import importlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from stable_baselines3 import PPO
from stable_baselines3.common.utils import set_random_seed

from agents.base import Agent
from agents.ppo import learn, load_policy, make_ppo, save_policy
from agents.report import AFTER, BEFORE, compare, write_report
from agents.rollout import Augmented, collect, load_augmented, save_augmented
from agents.sb3_vec_env import LatentVecEnv
from agents.scripted import FeatureNoiseAgent, GlassAgent, GradientAgent, NoneAgent, RandomAgent
from agents.showing import show_embedding, show_samples
from conf.job import LARGEST_SEED, Job, derived_seed, say, start_job
from conf.launch import run_script
from conf.schema import (
    AgentRun,
    FeatureNoiseConfig,
    GlassConfig,
    GradientConfig,
    PPOConfig,
    TransformerConfig,
)
from detectors.errors import UserError
from detectors.images import spread_positions
from latent_env.artifacts import load_detector, save_detector
from latent_env.dynamics import Dynamics
from latent_env.evaluation import log_curves, log_evaluation
from latent_env.latents import Eyes
from latent_env.progress import progress_bar
from latent_env.runs import Run
from latent_env.settings import Settings
from latent_env.shell import Shell
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


def make_dynamics(job: Job[AgentRun], world: World) -> Dynamics:
    """The batch of worlds that the configuration describes."""
    env, agent = asdict(job.config.env), job.config.agent
    num_envs = env.pop("num_envs")
    if isinstance(agent, FeatureNoiseConfig) and env["max_delta"] is None:
        # Such an agent decides on lengths itself: no number of its change may be cut off.
        around = (env["shell_quantile"], env["shell_ratio"], env["shell_band"])
        env["max_delta"] = 2 * agent.strength * Shell.around_normals(world.autoencoder, *around).inner
    return Settings(reward=job.config.reward.terms, **env).dynamics(world, num_envs)


def choose_agent(job: Job[AgentRun], run: Run, dynamics: Dynamics, number: int) -> Agent:
    """The agent of round ``number`` (from 1), trained if it is one that learns."""
    config, seed = job.config.agent, derived_seed(job.config.seed, number)
    if isinstance(config, PPOConfig):
        return learned_agent(job, config, run, dynamics, number)
    if isinstance(config, GradientConfig):
        return GradientAgent(dynamics, seed, config.steps, config.step_size)
    if isinstance(config, GlassConfig):
        ascent = (config.steps, config.step_size, config.project_every)
        return GlassAgent(dynamics, seed, config.strength, *ascent)
    if isinstance(config, FeatureNoiseConfig):
        return FeatureNoiseAgent(dynamics, seed, config.strength)
    if config.name == "random":
        return RandomAgent(dynamics, seed)
    return NoneAgent(dynamics)


def learned_agent(job: Job[AgentRun], config: PPOConfig, run: Run, dynamics: Dynamics, number: int) -> PPO:
    """PPO after its share of the steps, going on from the round before; kept also on Ctrl-C."""
    vec_env, settings = LatentVecEnv(dynamics), asdict(config)
    model = make_ppo(vec_env, settings, derived_seed(job.config.seed, number))
    folder, before = (run.part(f"round_{i}").path for i in (number, number - 1))
    for saved in (folder, before):
        if (saved / "policy.json").is_file():
            load_policy(saved, model)
            break
    done, goal = model.num_timesteps, config.total_steps * number // job.config.rounds
    if done < goal:
        vec_env.seed(derived_seed(job.config.seed, number, done))  # not the episodes of before a stop
        with progress_bar(f"agent, round {number}", goal, done) as bar:
            learn(model, run.path, goal, bar, lambda: save_policy(folder, model, settings))
    return model


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
    dynamics = make_dynamics(job, rehearse_detector(job))
    if isinstance(job.config.agent, PPOConfig):
        make_ppo(LatentVecEnv(dynamics), asdict(job.config.agent), job.config.seed)
    elif isinstance(job.config.agent, FeatureNoiseConfig):
        FeatureNoiseAgent(dynamics, job.config.seed, job.config.agent.strength)


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
