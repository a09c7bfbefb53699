"""How much of what agents made a command's detector learns from: found out on the validation split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agents.rollout import Augmented
from conf.schema.runs import AgentRun
from detectors.metrics import image_AUROC, paired_bootstrap, pixel_AUPRO
from detectors.training.loop import score
from detectors.training.samples import SampleSource
from latent_common.errors import UserError
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from latent_env.worlds.artifacts import load_detector, save_detector
from latent_env.worlds.reward_ensemble import share_memory
from latent_env.worlds.world import World
from stages.augmentation.reward_ensemble import as_samples
from stages.context import Job, say
from stages.job_of import labelled_split, seen, train_one_detector

LEARNED, RANDOM = "learned", "random"
"""Where samples come from: the agent, and uniform actions. The rest of a batch is image-space synthesis."""

CANDIDATE = "with_"
"""What the folders of detectors begin with that learned from samples."""

Shares = dict[str, float]

UNTOLD = (
    "no labelled anomaly says how much would help, and synthetic ones can't where anomalies show another "
    "thing altogether. share=0.25 takes a quarter of a batch's anomalies from the agent, "
    "mixture.by_synthetic=true lets synthetic ones choose."
)
"""Why nothing is added where :func:`can_choose` says no."""


def check_mixture(job: Job[AgentRun]) -> None:
    """Complain about shares that can't be."""
    config = job.config
    if config.share is not None and not 0 <= config.share <= 1:
        raise UserError(f"share={config.share} must lie from 0 to 1, or be null")
    if not config.mixture.shares or not all(0 <= share <= 1 for share in config.mixture.shares):
        raise UserError(f"mixture.shares={config.mixture.shares} must be shares from 0 to 1")
    least = min(config.mixture.shares) if config.share is None else config.share
    if config.labelled.weight < 0 or not fits(job, least):
        raise UserError(
            f"labelled.weight={config.labelled.weight:g} must be at least 0, and leave room beside the share "
            f"{least:g} of an agent's samples: together at most 1"
        )


def fits(job: Job[AgentRun], share: float) -> bool:
    """Whether labelled anomalies leave room for it in a batch."""
    weight = job.config.labelled.weight if len(labelled_split(job).train) else 0.0
    return share + weight <= 1 + 1e-9


def shares_to_try(job: Job[AgentRun]) -> list[float]:
    """Those of ``mixture.shares`` that there is room for."""
    return [share for share in job.config.mixture.shares if fits(job, share)]


def check_choice(job: Job[AgentRun]) -> None:
    """Complain if a mixture is to be chosen on a validation split that can't tell anything, or say so."""
    if job.config.share is None and job.dataset.valid.labels.all() and job.config.agent.name != "none":
        raise UserError(
            f"{job.dataset.name}: the valid split needs normal images, or nothing says how much of an "
            "agent's samples a detector should learn from: add some, or name a share, such as share=0.5"
        )
    if job.config.agent.name == "none" or job.config.share is not None:
        return
    if not can_choose(job):
        say(f"detectors won't learn from what the agent makes: {UNTOLD}")
        return
    large = [f"{share:g}" for share in job.config.mixture.shares if not fits(job, share)]
    if large:
        weight = f"labelled.weight={job.config.labelled.weight:g}"
        say(f"mixture.shares: {', '.join(large)} isn't tried, as {weight} leaves no room for it")


def can_choose(job: Job[AgentRun]) -> bool:
    """Whether the share is fixed, or the validation split has anomalies that say which mixture is best.

    Where real ones show another thing altogether, synthetic ones mislead: with a digit of MNIST random
    samples improved all six held-out kinds of them, and on other digits cost .03 image AUROC and more.
    """
    config = job.config
    return config.share is not None or config.mixture.by_synthetic or len(labelled_split(job).choice) > 0


def mixtures_to_try(shares: list[float], sources: list[str]) -> list[Shares]:
    """Every share of every source alone, and of all in equal parts; the least first."""
    wanted: list[Shares] = []
    for share in sorted({share for share in shares if share > 0}):
        wanted += [{source: share} for source in sources]
        if len(sources) > 1:
            wanted.append({source: share / len(sources) for source in sources})
    return wanted


def sample_sources(
    job: Job[AgentRun], world: World, sets: Mapping[str, Augmented], shares: Shares
) -> list[SampleSource]:
    """What a detector learns from besides image-space synthesis, in these shares."""
    return [
        SampleSource(as_samples(job, world, sets[source]), share) for source, share in shares.items() if share
    ]


@dataclass(frozen=True)
class Candidate:
    """A detector that learned from some mixture of samples."""

    shares: Shares
    world: World
    """The world with that detector."""
    image_AUROC: float = math.nan
    """On the validation images that choices are made by."""
    pixel_AUPRO: float = math.nan
    """On the same; not a number where nobody knows masks."""
    margin: float = 0.0
    """By how much its merit must be better than without samples."""

    @property
    def merit(self) -> float:
        """What is chosen by: image AUROC, and where masks are known the mean of both figures.

        An image is one point of the first, so a dozen of them tell little; to the second all their pixels do.
        """
        return self.image_AUROC if math.isnan(self.pixel_AUPRO) else (self.image_AUROC + self.pixel_AUPRO) / 2

    def facts(self) -> dict[str, Any]:
        """What a report tells of it; nothing of the test split, which chooses nothing."""
        found = {"shares": self.shares, "image_AUROC": self.image_AUROC, "margin": self.margin}
        if not math.isnan(self.pixel_AUPRO):
            found["pixel_AUPRO"] = self.pixel_AUPRO
        return found


def learn_mixtures(
    job: Job[AgentRun],
    run: Run,
    shared: Run,
    before: Candidate,
    features: FeatureCache,
    sets: Mapping[str, Augmented],
) -> list[Candidate]:
    """Detectors that learned from several mixtures of ``sets``, after the one ``before``, which needed none.

    All begin with the same weights and take the same number of steps. Those of random samples alone are kept
    in ``shared``, where other agents find them.
    """
    config = job.config
    sets = {source: made for source, made in sets.items() if int(made.labels.sum())}
    if config.share is not None:
        wanted = [{LEARNED: config.share}] if LEARNED in sets and config.share else []
    else:
        wanted = mixtures_to_try(shares_to_try(job), list(sets)) if sets else []
    places = (shared if set(shares) == {RANDOM} else run for shares in wanted)
    candidates = (
        learn_mixture(job, place, before.world, features, sets, shares)
        for place, shares in zip(places, wanted, strict=True)
    )
    return [before, *candidates]


def learn_mixture(
    job: Job[AgentRun],
    run: Run,
    before: World,
    features: FeatureCache,
    sets: Mapping[str, Augmented],
    shares: Shares,
) -> Candidate:
    """One of them; kept in a folder of its own."""
    part = run.part(CANDIDATE + "-".join(f"{source}_{share:g}" for source, share in shares.items()))
    if not (part.path / "detector.json").is_file():
        listed = " and ".join(f"{share:.0%} {source}" for source, share in shares.items())
        made = sample_sources(job, before, sets, shares)
        learned = train_one_detector(job, part, before.autoencoder, features, f"detector, {listed}", made)
        part.writer.close()
        save_detector(part.path, learned)
    detector = load_detector(part.path)
    share_memory(detector, before.detector)
    return Candidate(shares, before.with_detector(detector))


def choose_mixture(
    job: Job[AgentRun], features: FeatureCache, candidates: Sequence[Candidate]
) -> tuple[Candidate, list[Candidate]]:
    """The best of them, and all with what they were judged by.

    The one with the best :attr:`Candidate.merit` on the validation split is taken, if it beats the first, which
    learned from no samples at all, by ``mixture.margin`` standard errors of the difference in image AUROC;
    what was chosen by so few images must not do harm by luck. If the share is fixed, there is nothing to
    choose.
    """
    if job.config.share is not None or len(candidates) == 1:
        return candidates[-1], []
    judged: list[Candidate] = []
    split, inputs = seen(job, features, "mixture", candidates[0].world.detector.input)
    masks = split.masks if split.masks is not None and split.masks.any() else None
    without = None
    for each in candidates:
        detector, size = each.world.detector, split.images.shape[-1]
        found = score(detector, each.world.inputs_from_stored, inputs, size, keep_maps=masks is not None)
        scores = found.score.numpy()
        without = scores if without is None else without
        _, low, high = paired_bootstrap(image_AUROC, split.labels, without, scores)
        judged.append(
            replace(
                each,
                image_AUROC=image_AUROC(scores, split.labels),
                pixel_AUPRO=math.nan if masks is None else pixel_AUPRO(found.map[:, 0].numpy(), masks),
                margin=job.config.mixture.margin * (high - low) / (2 * 1.96),
            )
        )
    best = max(judged, key=lambda each: each.merit - each.margin)
    kept = best if best.merit - best.margin > judged[0].merit else judged[0]
    listed = ", ".join(f"{share:.0%} {source}" for source, share in kept.shares.items()) or "no samples"
    say(f"mixture: {listed}; on validation {figures(kept)}; without samples {figures(judged[0])}")
    return kept, judged


def figures(candidates: Candidate) -> str:
    """What a detector was judged by, as a line says it."""
    found = f"image_AUROC {candidates.image_AUROC:.4f}"
    return (
        found if math.isnan(candidates.pixel_AUPRO) else f"{found}, pixel_AUPRO {candidates.pixel_AUPRO:.4f}"
    )
