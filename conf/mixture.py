"""How much of what agents made a command's detector learns from: found out on the validation split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from agents.rollout import Augmented
from conf.detector_learning import learn_transformer
from conf.job import Job, say
from conf.judging import as_samples, varied_job
from conf.schema import AgentRun, TransformerConfig
from conf.validation import roles, seen
from detectors.errors import UserError
from detectors.metrics import image_AUROC, paired_bootstrap
from detectors.training import Portion, score
from latent_env.artifacts import read_json, write_json
from latent_env.latents import Eyes
from latent_env.runs import Run
from latent_env.worlds import World

LEARNED, RANDOM = "learned", "random"
"""Where samples come from: the agent, and uniform actions. The rest of a batch is image-space synthesis."""

Shares = dict[str, float]


def check_mixture(job: Job[AgentRun]) -> None:
    """Complain about shares that can't be."""
    config = job.config
    if config.share is not None and not 0 <= config.share <= 1:
        raise UserError(f"share={config.share} must lie from 0 to 1, or be null")
    if not config.mixture.shares or not all(0 <= share <= 1 for share in config.mixture.shares):
        raise UserError(f"mixture.shares={config.mixture.shares} must be shares from 0 to 1")
    most = max(config.mixture.shares, default=0) if config.share is None else config.share
    weight = config.labelled.weight if len(roles(job).known) else min(config.labelled.weight, 0.0)
    if most + weight > 1 or weight < 0:
        raise UserError(
            f"labelled.weight={config.labelled.weight:g} must be at least 0, and leave room beside the share "
            f"{most:g} of an agent's samples: together at most 1"
        )


def check_choice(job: Job[AgentRun]) -> None:
    """Complain if a mixture is to be chosen on a validation split that can't tell anything."""
    if job.config.share is None and job.dataset.valid.labels.all() and job.config.agent.name != "none":
        raise UserError(
            f"{job.dataset.name}: the valid split needs normal images, or nothing says how much of an "
            "agent's samples a detector should learn from: add some, or name a share, such as share=0.5"
        )


def candidates(shares: list[float], sources: list[str]) -> list[Shares]:
    """Nothing at all, every share of every source alone, and of all in equal parts; the least first."""
    wanted: list[Shares] = [{}]
    for share in sorted({share for share in shares if share > 0}):
        wanted += [{source: share} for source in sources]
        if len(sources) > 1:
            wanted.append({source: share / len(sources) for source in sources})
    return wanted


def portions(
    job: Job[AgentRun], world: World, sets: Mapping[str, Augmented], shares: Shares
) -> list[Portion]:
    """What a detector learns from besides image-space synthesis, in these shares."""
    return [Portion(as_samples(job, world, sets[source]), share) for source, share in shares.items() if share]


def choose_shares(
    job: Job[AgentRun], run: Run, world: World, eyes: Eyes, sets: Mapping[str, Augmented]
) -> tuple[Shares, list[dict[str, Any]]]:
    """How much of each set to learn from, and what was tried.

    Each candidate trains a detector for a part of the steps, from the same start. The one with the best
    image AUROC on the validation split is taken, if it beats no samples at all by ``mixture.margin``
    standard errors of that difference; what was learned on so few images must not do harm by luck.
    """
    config = job.config
    sets = {source: made for source, made in sets.items() if int(made.labels.sum())}
    if config.share is not None:
        return ({LEARNED: config.share} if LEARNED in sets else {}), []
    tried: list[dict[str, Any]] = []
    for number, shares in enumerate(candidates(config.mixture.shares, list(sets)) if sets else []):
        scores, labels = validation_scores(job, run, world, eyes, sets, shares, number)
        found = {"shares": shares, "image_AUROC": image_AUROC(scores, labels), "margin": 0.0}
        if number == 0:
            without = scores
        else:
            _, low, high = paired_bootstrap(image_AUROC, labels, without, scores)
            found["margin"] = config.mixture.margin * (high - low) / (2 * 1.96)
        tried.append(found)
    if not tried:
        return {}, []
    best = max(tried, key=lambda each: each["image_AUROC"] - each["margin"])
    kept = best if best["image_AUROC"] - best["margin"] > tried[0]["image_AUROC"] else tried[0]
    chosen: Shares = kept["shares"]
    listed = ", ".join(f"{share:.0%} {source}" for source, share in chosen.items()) or "no samples"
    say(
        f"mixture: {listed}; image_AUROC on validation {kept['image_AUROC']:.4f}, "
        f"without {tried[0]['image_AUROC']:.4f}"
    )
    return chosen, tried


def validation_scores(
    job: Job[AgentRun],
    run: Run,
    world: World,
    eyes: Eyes,
    sets: Mapping[str, Augmented],
    shares: Shares,
    number: int,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Scores and labels of validation images, by a detector that learned from these shares for a while."""
    part = run.part(f"mixture_{number}")
    config = job.config.detector
    assert isinstance(config, TransformerConfig)
    split, inputs = seen(job, eyes, "choice", config.input)
    if (part.path / "scores.json").is_file():
        return np.array(read_json(part.path / "scores.json"), np.float32), split.labels
    steps = max(round(job.config.mixture.effort * config.steps), 1)
    short = varied_job(job, detector=replace(config, steps=steps), curves=False)
    label = f"mixture {number + 1}"
    made = portions(job, world, sets, shares)
    detector = learn_transformer(short, part, world.autoencoder, eyes, label, made)
    judge = world.with_detector(detector)
    found = score(detector, judge.read, inputs, split.images.shape[-1], keep_maps=False).score.numpy()
    part.writer.close()
    write_json(part.path / "scores.json", [float(each) for each in found])
    return found, split.labels
