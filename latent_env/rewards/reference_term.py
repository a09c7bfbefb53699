"""What reward terms share that compare samples with labelled images that no detector was trained on.

They need a *trial*, such images that lie beside the world (``train_detector.py`` puts them there): labelled
anomalies where there are some, synthetic ones of kinds that no detector trains on where not.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, TypeVar

import torch

from detectors.blocks.last_layer import Headed, Reading
from detectors.training.batches import as_numbers
from latent_common.errors import UserError
from latent_env.rewards.base import RewardTerm
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.world import World

K = TypeVar("K")


class ReferenceTerm(RewardTerm, Generic[K]):
    """A term that keeps something of every judge and the world's trial."""

    judged = True

    def __init__(self) -> None:
        self._of: World | None = None
        self._kept: list[K] = []

    @abstractmethod
    def prepare(self, member: Headed, reading: Reading, reference_set: ReferenceSet, world: World, /) -> K:
        """What to keep of one judge, which reads so much of the trial."""

    def prepared(self, world: World) -> list[K]:
        """One a judge; made when they are first asked for."""
        known = self._of
        if (
            known is None
            or known.reference_set is not world.reference_set
            or (known.reward_ensemble, known.detector) != (world.reward_ensemble, world.detector)
        ):
            reference_set = reference_set_of(world)
            pairs = zip(world.heads, reference_readings(world), strict=True)
            self._kept = [self.prepare(member, reading, reference_set, world) for member, reading in pairs]
            self._of = world
        return self._kept


def reference_set_of(world: World) -> ReferenceSet:
    """The world's trial, or a complaint that there is none."""
    if world.reference_set is None:
        raise UserError(
            "the reward terms usefulness, similarity and matching need labelled images beside "
            "the world: `python train_detector.py` puts them there, this folder has none (reference_set.json)"
        )
    return world.reference_set


@torch.no_grad()
def reference_readings(world: World) -> list[Reading]:
    """What the last layer of every judge reads of the world's trial."""
    inputs = as_numbers(reference_set_of(world).inputs)
    seen = (inputs,) if world.reads_latents else (inputs, world.autoencoder(inputs))
    return [member.reading(*seen) for member in world.heads]
