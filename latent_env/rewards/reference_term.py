"""What reward terms share that compare samples with labelled images that no detector was trained on.

They need a *trial*, such images that lie beside the world (``train_detector.py`` puts them there): labelled
anomalies where there are some, synthetic ones of kinds that no detector trains on where not.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, TypeVar

import torch

from detectors.last_layer import Headed, Reading
from detectors.training.batches import as_numbers
from latent_common.errors import UserError
from latent_env.rewards.terms import RewardTerm
from latent_env.worlds.reference_set import Trial
from latent_env.worlds.world import World

K = TypeVar("K")


class Tried(RewardTerm, Generic[K]):
    """A term that keeps something of every judge and the world's trial."""

    judged = True

    def __init__(self) -> None:
        self._of: World | None = None
        self._kept: list[K] = []

    @abstractmethod
    def prepare(self, judge: Headed, reading: Reading, trial: Trial, world: World, /) -> K:
        """What to keep of one judge, which reads so much of the trial."""

    def trials(self, world: World) -> list[K]:
        """One a judge; made when they are first asked for."""
        known = self._of
        if (
            known is None
            or known.trial is not world.trial
            or (known.judges, known.detector) != (world.judges, world.detector)
        ):
            trial = trial_of(world)
            pairs = zip(world.heads, trial_readings(world), strict=True)
            self._kept = [self.prepare(judge, reading, trial, world) for judge, reading in pairs]
            self._of = world
        return self._kept


def trial_of(world: World) -> Trial:
    """The world's trial, or a complaint that there is none."""
    if world.trial is None:
        raise UserError(
            "the reward terms usefulness, alignment, resemblance and matching need labelled images beside "
            "the world: `python train_detector.py` puts them there, this folder has none (trial.json)"
        )
    return world.trial


@torch.no_grad()
def trial_readings(world: World) -> list[Reading]:
    """What the last layer of every judge reads of the world's trial."""
    inputs = as_numbers(trial_of(world).inputs)
    seen = (inputs,) if world.judges_latents else (inputs, world.autoencoder(inputs))
    return [judge.reading(*seen) for judge in world.heads]
