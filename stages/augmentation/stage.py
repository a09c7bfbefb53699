"""A run of `train_ppo.py` in LatentAug-v0: baseline, agent, retrained detectors, comparison."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.rollout import Augmented
from conf.schema.envs import AugmentEnvConfig
from conf.schema.runs import AgentRun
from detectors.training.samples import SampleSource
from latent_common.image_source import evenly_spaced_positions
from latent_common.progress import say
from latent_env.training.run_folder import Run
from latent_env.worlds.decision import has_decision, load_decision
from latent_env.worlds.store import save_world
from latent_env.worlds.thresholds import Decision
from stages.agents.factory import make_agent
from stages.augmentation.candidates import (
    CANDIDATE,
    Candidate,
    choose_candidate,
    random_alone,
    sample_sources,
    train_candidates,
)
from stages.augmentation.comparison import write_comparison
from stages.augmentation.dynamics import make_dynamics
from stages.augmentation.mixtures import AGENT, RANDOM, Mixtures, plan_mixtures
from stages.augmentation.pictures.originals import FOLDER, draw_full_size
from stages.augmentation.random_baseline import random_baseline_run, random_samples
from stages.augmentation.rounds import play_rounds, samples_file
from stages.augmentation.sources import save_sources
from stages.augmentation.training_samples import without_copies
from stages.context import Context
from stages.detector.cross_fitting import judge, remove_folds
from stages.detector.labelled_split import Positions
from stages.detector.trained import TrainedDetector, TrainedPlan, export_world, plan_trained_detector
from stages.detector.validation_sets import check_reference_set
from stages.plugins import plugin_digests
from stages.report.page import PAGE
from stages.training_data import TrainingData


@dataclass(frozen=True)
class AugmentationExperiment:
    """An agent, a detector and their comparison; all was built once, untrained, to show mistakes early."""

    config: AgentRun
    env: AugmentEnvConfig
    context: Context
    data: TrainingData
    detector: TrainedPlan
    mixtures: Mixtures

    @cached_property
    def run(self) -> Run:
        """The folder of all results, complete or not."""
        settings = {**self.detector.settings(), **self.settings()}
        return self.context.run_folder(self.data.dataset.name, "agent", self.config.agent.name, settings)

    def perform(self) -> None:
        """Train what is missing, compare the detector with and without augmentation, and write the report."""
        with self.run.claimed() as missing:
            if missing:
                self._make()
            else:
                say(f"agent: using {self.run.path}")
        self.remove_intermediate_files()
        self.draw_full_size()
        self.export()

    def _make(self) -> None:
        """Train the agent and the detectors, and write the report, which completes the run."""
        baseline = self.detector.train()
        self.run.begin()
        samples, world = play_rounds(self.config, self.env, baseline, self.run)
        sources = self.sources(baseline, samples)
        retrained = self.retrain(baseline, sources)
        chosen, candidates = choose_candidate(baseline.trainer, retrained, self.mixtures)
        improved = chosen.world.with_reward_ensemble(world.reward_ensemble, world.held_out_detector)
        save_world(self.run.path, improved, self.decide(baseline, sources, chosen))
        save_sources(self.run.path, self.data.dataset, self.starts())
        beside = random_alone(retrained) if self.mixtures.compare_random else None
        write_comparison(
            self.config, self.env, self.mixtures, baseline, self.run, samples, chosen, candidates, beside
        )

    def sources(self, baseline: TrainedDetector, samples: Augmented) -> dict[str, Augmented]:
        """The samples that detectors may learn from: the agent's, and random ones to compare them with."""
        found: dict[str, Augmented] = {}
        if self.mixtures.can_choose and self.config.agent.name != "none":
            found[AGENT] = samples
            chosen = self.mixtures.share is None
            if (chosen or self.mixtures.compare_random) and self.config.agent.name != RANDOM:
                shared = self.random_run(baseline)
                found[RANDOM] = random_samples(self.config, self.env, shared, baseline.world)
        return found

    def random_run(self, baseline: TrainedDetector) -> Run:
        """The folder of random samples, beside the ``baseline``."""
        return random_baseline_run(self.config, self.env, baseline.run)

    def retrain(self, baseline: TrainedDetector, sources: Mapping[str, Augmented]) -> list[Candidate]:
        """The baseline, and detectors that learned from mixtures of samples of these ``sources``."""
        shared = self.random_run(baseline)
        return train_candidates(baseline.trainer, self.run, shared, baseline.world, sources, self.mixtures)

    def decide(
        self, baseline: TrainedDetector, sources: Mapping[str, Augmented], chosen: Candidate
    ) -> Decision | None:
        """What thresholds of the ``chosen`` detector are chosen by."""
        trainer, world = baseline.trainer, baseline.world
        if not chosen.shares:  # it is the baseline, which was judged already
            return load_decision(baseline.run.path) if has_decision(baseline.run.path) else None

        @cache
        def mixed() -> list[SampleSource]:
            return sample_sources(trainer, world, sources, chosen.shares)

        def samples_without(held_out: Positions) -> list[SampleSource]:
            made = [sources[name] for name, share in chosen.shares.items() if share]
            found = [
                without_copies(trainer, world, each, source, held_out)
                for each, source in zip(made, mixed(), strict=True)
            ]
            return [source for source in found if int(source.samples.labels.sum())]

        return judge(trainer, self.run, chosen.world, "detector with samples", samples_without)

    def settings(self) -> dict[str, Any]:
        """All that decides what the agent makes, and how the detector learns from it."""
        config = self.config
        return {
            "env": self.env.settings(),
            "reward": asdict(config.reward),
            "agent": asdict(config.agent),
            "loop": {
                "rounds": config.rounds,
                "samples": config.samples,
                "share": config.share,
                "mixture": asdict(config.mixture),
                "reward_ensemble": asdict(config.reward_ensemble),
            },
            "plugins": plugin_digests(config.plugins),
        }

    def remove_intermediate_files(self) -> None:
        """Remove what was only kept so that a stopped run could go on."""
        found = [samples_file(self.run, number) for number in range(1, self.config.rounds + 1)]
        found += self.run.path.glob(f"{CANDIDATE}*/detector.*")
        with suppress(OSError):  # a finished run may lie on a disk that can't be written
            for path in found:
                path.unlink(missing_ok=True)
        remove_folds(self.run)

    def starts(self) -> NDArray[np.int64]:
        """The positions ``(S,)`` of the start images among the training images."""
        return evenly_spaced_positions(len(self.data.images), self.detector.config.num_start_images).numpy()

    def draw_full_size(self) -> None:
        """Draw some of the samples into the original image files."""
        draw_full_size(self.run.path, self.data.dataset, self.starts(), self.config.full_size)

    def export(self) -> None:
        """Copy the world with the new detector to where the user wants it."""
        if self.config.export:
            export_world(self.run, self.config.export)

    def summary(self) -> str:
        """The before/after table, and where everything is."""
        report = (self.run.path / "report.md").read_text(encoding="utf-8")
        return (
            f"{report.partition(chr(10) * 2)[2].partition(chr(10) * 2 + '## ')[0]}\n\n"
            f"report:      {self.run.path / PAGE}\n"
            f"pictures:    {self.run.path / 'pictures'}\n"
            f"samples:     {self.run.path / 'augmented.npz'}{self._at_full_size()}\n"
            f"environment: gym.make('LatentAug-v0', artifacts='{self.run.path}')\n"
            f"look further: tensorboard --logdir {self.config.runs}"
        )

    def _at_full_size(self) -> str:
        folder = self.run.path / FOLDER
        return f", some at full size in {folder}" if folder.is_dir() else ""


def plan_augmentation(
    config: AgentRun, env: AugmentEnvConfig, context: Context, data: TrainingData
) -> AugmentationExperiment:
    """Build everything once, untrained: what can't work together is refused before hours are spent on it."""
    detector = plan_trained_detector(config, context, data)
    mixtures = plan_mixtures(config, data.dataset, detector.labelled_split)
    dynamics = make_dynamics(env, config.reward, config.agent, detector.untrained)
    check_reference_set(data.dataset, dynamics.reward)
    make_agent(config.agent, dynamics, config.seed, number=1)
    dynamics.reset_tensor()
    with torch.inference_mode():
        none = torch.zeros(dynamics.num_worlds, dynamics.perturbation.action_size, device=context.device)
        dynamics.reward.check_own_terms(dynamics.imagine(none))
    return AugmentationExperiment(config, env, context, data, detector, mixtures)
