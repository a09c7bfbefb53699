"""What reward terms share that are measured on a reference set: labelled images no detector was trained on.

``train_detector.py`` stores such a set in the world's folder: labelled anomalies where there are some, else
synthetic ones of kinds that no detector trains on.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, TypeVar

import torch

from detectors.blocks.last_layer import LastLayerDetector, LastLayerInput
from detectors.training.batches import as_floats
from latent_common.errors import UserError
from latent_env.rewards.base import RewardTerm
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.world import World

K = TypeVar("K")


class ReferenceTerm(RewardTerm, Generic[K]):
    """A term that prepares something of each detector of the reward ensemble and the reference set."""

    uses_detectors = True

    def __init__(self) -> None:
        self._prepared_for: World | None = None
        self._prepared: list[K] = []

    @abstractmethod
    def prepare(
        self,
        detector: LastLayerDetector,
        layer_input: LastLayerInput,
        reference_set: ReferenceSet,
        world: World,
        /,
    ) -> K:
        """What to keep of one detector, whose last layer reads ``layer_input`` of the reference set."""

    def prepared(self, world: World) -> list[K]:
        """What was prepared, one for each detector; made when it is first asked for."""
        known = self._prepared_for
        if (
            known is None
            or known.reference_set is not world.reference_set
            or (known.reward_ensemble, known.detector) != (world.reward_ensemble, world.detector)
        ):
            reference_set = reference_set_of(world)
            pairs = zip(world.last_layer_detectors, reference_inputs(world), strict=True)
            self._prepared = [self.prepare(*pair, reference_set, world) for pair in pairs]
            self._prepared_for = world
        return self._prepared


def reference_set_of(world: World) -> ReferenceSet:
    """The world's reference set; a world without one is an error."""
    if world.reference_set is None:
        raise UserError(
            "the reward terms target, usefulness, similarity and matching need a reference set of labelled "
            "images, and this world has none: `python train_detector.py` stores one in the world's folder "
            "(reference_set.json); or choose other terms"
        )
    return world.reference_set


@torch.no_grad()
def reference_inputs(world: World) -> list[LastLayerInput]:
    """What the last layer of each detector of the reward ensemble reads of the reference set."""
    inputs = as_floats(reference_set_of(world).inputs)
    complete = (inputs,) if world.reads_tokens else (inputs, world.autoencoder(inputs))
    return [detector.last_layer_input(*complete) for detector in world.last_layer_detectors]
