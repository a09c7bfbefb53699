"""The reward term ``target``: how close a sample is to the labelled anomaly that its episode asks for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detectors.blocks.tokens import grid_of
from detectors.training.batches import as_floats
from latent_common.errors import UserError
from latent_common.projection import random_projection
from latent_env.rewards.anomaly_similarity import AnomalyDescriptor, anomaly_descriptor, unit_of
from latent_env.rewards.base import RewardTerm, reward_terms
from latent_env.rewards.reference_term import reference_set_of
from latent_env.shell import ANOMALY
from latent_env.transition import Transition
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.world import World

MOST_SEEN = 64
"""Of a target's descriptor agents see no more numbers: longer ones are projected at random."""


LOOK, PLACE = ("inside", "contrast"), ("position",)
"""The parts of a descriptor by what they say of an anomaly."""

NO_ANOMALY = -1.0
"""What a sample is worth that is no anomaly: as little as the worst one."""


class Part(NamedTuple):
    """One part of the descriptors of A anomalies."""

    unit: Tensor
    """``(d,)``: what its numbers are divided by."""
    points: Tensor
    """``(A, d)``: those of the anomalies, so divided."""
    spread: Tensor
    """The mean squared distance of these points from their mean."""

    def closeness(self, values: Tensor, wanted: Tensor) -> Tensor:
        """How close ``values (N, d)`` are to the anomalies with numbers ``wanted (N,)``, ``(N,)``."""
        far = (values / self.unit - self.points[wanted]).square().sum(1)
        return (self.spread - far) / (self.spread + far)


class Targets(NamedTuple):
    """The A anomalies of a reference set."""

    parts: dict[str, Part]
    """Those in which anomalies differ, by the name in a descriptor."""
    seen: Tensor
    """``(A, k)``: what agents see of them, with mean 0 and deviation 1."""

    def wanted(self, draws: Tensor) -> Tensor:
        """Which anomalies episodes that drew ``draws (N,)`` ask for, ``(N,)``: all equally often."""
        count = len(self.seen)
        return (draws * count).long().clamp_max(count - 1)  # the largest draw rounds to 1


def knows_targets(world: World) -> bool:
    """Whether ``world`` has a reference set with descriptors of its anomalies."""
    reference_set = world.reference_set
    return reference_set is not None and (len(world.token_shape) == 1 or reference_set.marks is not None)


@reward_terms.register("target")
class Target(RewardTerm):
    """How close a sample is to one anomaly of the reference set, by their descriptors in the latent.

    Half is for how it looks, what is inside and its contrast, and half for its place and size; a flat latent
    has no place. Each part is worth ``(s − d²) / (s + d²)`` at the distance d, with s the mean squared
    distance of the anomalies from their mean: 1 if both are equal, 0 for what is as far off as the mean of
    all anomalies, -1 far from it. A sample that is no anomaly is worth -1.

    Every episode draws the anomaly that it asks for, and agents see its descriptor after the latent. So what
    is made covers the reference set, and a step's worth depends on nothing that isn't seen.
    """

    needs = ("label", "descriptor")

    def __init__(self) -> None:
        self._world: World | None = None
        self._targets: Targets | None = None

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [-1, 1]."""
        targets = self._targets_of(transition.world)
        wanted = targets.wanted(transition.draws)
        found = transition.descriptor._asdict()
        close = {name: part.closeness(found[name], wanted) for name, part in targets.parts.items()}
        kinds = [[close[name] for name in kind if name in close] for kind in (LOOK, PLACE)]
        means = [torch.stack(kind).mean(0) for kind in kinds if kind]
        return torch.stack(means).mean(0).where(transition.label == ANOMALY, NO_ANOMALY)

    def asked(self, transition: Transition) -> Tensor:
        """The descriptors of the anomalies that are asked for, ``(N, k)``."""
        targets = self._targets_of(transition.world)
        return targets.seen[targets.wanted(transition.draws)]

    def state(self) -> dict[str, Tensor]:
        """Nothing: no step is remembered."""
        return {}

    def _targets_of(self, world: World) -> Targets:
        if self._targets is None or self._world is not world:
            with torch.inference_mode(False), torch.no_grad():
                self._targets = targets_of(world)
            self._world = world
        return self._targets


def targets_of(world: World) -> Targets:
    """The anomalies of the world's reference set; a world without them is an error."""
    reference_set = reference_set_of(world)
    if not knows_targets(world):
        raise UserError(
            "the reward term target needs a reference set with masks, and this world's has none: choose "
            "other terms"
        )
    parts = {}
    for name, values in _descriptors(world, reference_set)._asdict().items():
        unit = unit_of(values)
        points = values / unit
        spread = (points - points.mean(0)).square().sum(1).mean()
        if spread > 0:
            parts[name] = Part(unit, points, spread)
    points = torch.cat([part.points for part in parts.values()], 1)
    varied = points[:, points.std(0, correction=0) > 1e-6]
    seen = (varied - varied.mean(0)) / varied.std(0, correction=0)
    if seen.shape[1] > MOST_SEEN:
        matrix = random_projection(seen.shape[1], MOST_SEEN, torch.Generator().manual_seed(0))
        seen = seen @ matrix.to(seen)
    return Targets(parts, seen)


def _descriptors(world: World, reference_set: ReferenceSet) -> AnomalyDescriptor:
    """Those of the reference set's anomalies whose tokens are marked; a flat latent is one marked token."""
    anomalous, marks = reference_set.labels == 1, reference_set.marks
    if marks is None:
        marks = anomalous[:, None, None, None]
    rows = anomalous & marks.flatten(1).any(1)
    inputs = as_floats(reference_set.inputs[rows])
    latents = (inputs if world.reads_tokens else world.tokens(inputs)).float()
    grid = grid_of(latents.shape[1:])
    return anomaly_descriptor(latents.view(*latents.shape[:2], *grid), marks[rows])
