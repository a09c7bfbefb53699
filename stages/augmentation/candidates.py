"""Detectors that learned from different mixtures of samples, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agents.rollout import Augmented
from detectors.metrics import image_AUROC, paired_bootstrap, pixel_AUPRO
from detectors.training.loop import score
from detectors.training.samples import SampleSource
from latent_common.progress import say
from latent_env.training.run_folder import Run
from latent_env.worlds.artifacts import load_detector, save_detector
from latent_env.worlds.reward_ensemble import share_memory
from latent_env.worlds.world import World
from stages.augmentation.mixtures import AGENT, RANDOM, Mixtures, Shares
from stages.augmentation.training_samples import training_samples
from stages.detector.trainers.base import DetectorTrainer

CANDIDATE = "with_"
"""What the folder names of candidates begin with."""


@dataclass(frozen=True)
class Candidate:
    """A detector that learned from some mixture of samples."""

    shares: Shares
    world: World
    """The world with that detector."""
    image_AUROC: float = math.nan
    """On the validation images that choices are made by."""
    pixel_AUPRO: float = math.nan
    """On the validation images that choices are made by; NaN where no masks are known."""
    margin: float = 0.0
    """By how much its merit must be better than without samples."""

    @property
    def merit(self) -> float:
        """What is chosen by: image AUROC, or where masks are known its mean with pixel AUPRO.

        A dozen images are a dozen points of the former, which tell little; the latter uses all their pixels.
        """
        return self.image_AUROC if math.isnan(self.pixel_AUPRO) else (self.image_AUROC + self.pixel_AUPRO) / 2

    def facts(self) -> dict[str, Any]:
        """What the report tells of it: nothing of the test split."""
        found = {"shares": self.shares, "image_AUROC": self.image_AUROC, "margin": self.margin}
        return found if math.isnan(self.pixel_AUPRO) else {**found, "pixel_AUPRO": self.pixel_AUPRO}

    def describe(self) -> str:
        """What was measured on the validation split, for the terminal."""
        measured = f"image_AUROC {self.image_AUROC:.4f}"
        return measured if math.isnan(self.pixel_AUPRO) else f"{measured}, pixel_AUPRO {self.pixel_AUPRO:.4f}"


def train_candidates(
    trainer: DetectorTrainer,
    run: Run,
    shared: Run,
    baseline: World,
    samples: Mapping[str, Augmented],
    mixtures: Mixtures,
) -> list[Candidate]:
    """The ``baseline``, which learned from no samples, and detectors that learned from mixtures of them.

    All begin with the same weights. Detectors that learned from random samples alone are kept in the folder
    ``shared``, where runs of other agents find them.
    """
    samples = {source: made for source, made in samples.items() if int(made.labels.sum())}
    found = [Candidate({}, baseline)]
    for shares in mixtures.candidates(list(samples)):
        folder = shared if set(shares) == {RANDOM} else run
        found.append(train_candidate(trainer, folder, baseline, samples, shares))
    return found


def train_candidate(
    trainer: DetectorTrainer, run: Run, baseline: World, samples: Mapping[str, Augmented], shares: Shares
) -> Candidate:
    """A detector that learned from ``samples`` in these ``shares``, in a folder of its own inside ``run``."""
    part = run.part(CANDIDATE + "-".join(f"{source}_{share:g}" for source, share in shares.items()))
    with part.locked():
        if not (part.path / "detector.json").is_file():
            listed = " and ".join(f"{100 * share:.3g}% {source}" for source, share in shares.items())
            mixed = sample_sources(trainer, baseline, samples, shares)
            trained = trainer.train(part, f"detector, {listed}", mixed)
            part.writer.close()
            save_detector(part.path, trained)
            part.forget_checkpoint()
    detector = load_detector(part.path)
    share_memory(detector, baseline.detector)
    return Candidate(shares, baseline.with_detector(detector))


def sample_sources(
    trainer: DetectorTrainer, world: World, samples: Mapping[str, Augmented], shares: Shares
) -> list[SampleSource]:
    """What a detector learns from besides synthetic anomalies, in these ``shares``."""
    return [
        SampleSource(training_samples(trainer, world, samples[source]), share)
        for source, share in shares.items()
        if share
    ]


def choose_candidate(
    trainer: DetectorTrainer, candidates: Sequence[Candidate], mixtures: Mixtures
) -> tuple[Candidate, list[Candidate]]:
    """The best of ``candidates``, and all of them with their figures on the validation split.

    The one with the best :attr:`Candidate.merit` is taken if it beats the first, which learned from no
    samples, by ``mixture.margin`` standard errors of the difference in image AUROC: on a small validation
    split a harmful mixture may look better by luck. With a fixed share there is nothing to choose, and
    nothing is measured.
    """
    if mixtures.share is not None or len(candidates) == 1:
        return next((each for each in candidates if AGENT in each.shares), candidates[0]), []
    measured = measure(trainer, candidates, mixtures.margin)
    best = max(measured, key=lambda each: each.merit - each.margin)
    chosen = best if best.merit - best.margin > measured[0].merit else measured[0]
    listed = (
        ", ".join(f"{100 * share:.3g}% {source}" for source, share in chosen.shares.items()) or "no samples"
    )
    say(f"mixture: {listed}; on validation {chosen.describe()}; without samples {measured[0].describe()}")
    return chosen, measured


def random_alone(candidates: Sequence[Candidate]) -> Candidate | None:
    """The first that learned from samples of random actions alone, if there is one."""
    return next((each for each in candidates if set(each.shares) == {RANDOM}), None)


def measure(trainer: DetectorTrainer, candidates: Sequence[Candidate], margin: float) -> list[Candidate]:
    """The ``candidates`` with their figures on the validation images that mixtures are chosen by."""
    split, inputs = trainer.validation("mixture")
    masks = split.masks if split.masks is not None and split.masks.any() else None
    measured: list[Candidate] = []
    without = None
    for each in candidates:
        detector, size = each.world.detector, split.images.shape[-1]
        found = score(detector, each.world.inputs_from_stored, inputs, size, keep_maps=masks is not None)
        scores = found.score.numpy()
        without = scores if without is None else without
        _, low, high = paired_bootstrap(image_AUROC, split.labels, without, scores)
        measured.append(
            replace(
                each,
                image_AUROC=image_AUROC(scores, split.labels),
                pixel_AUPRO=math.nan if masks is None else pixel_AUPRO(found.map[:, 0].numpy(), masks),
                margin=margin * (high - low) / (2 * 1.96),
            )
        )
    return measured
