"""The weighted sum of several detectors of the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectors.base import BOTH, IMAGE, LATENT, Detection, Detector, inputs_for
from detectors.blocks.tokens import at_size
from detectors.distances.base import BATCH_SIZE, location_and_scale
from detectors.registry import build, describe
from detectors.training.batches import as_floats
from detectors.training.loop import InputsOf
from latent_common.image_source import ImageSource

SCORE, MAP = 0, 1
"""Columns of the statistics over normal images."""


class EnsembleDetector(nn.Module):
    """The weighted sum of its members' scores and maps, each standardised over normal images.

    The sum is shifted so that 0 means "further out than 95 % of normal images": of their scores, and, for
    the map, of the highest value in each of their maps.

    Where some members read images and others latents it reads both, and its map has the size of an image.
    Otherwise its map has the grid of the member with the finest one.

    :param members: detectors by name.
    :param weights: of the scores, one a member, none negative.
    :param map_weights: of the maps, one a member; those of the scores if not given. A member whose weights
        are both 0 isn't run.
    """

    means: Tensor
    stds: Tensor
    location: Tensor
    scale: Tensor

    def __init__(
        self,
        members: Mapping[str, Detector],
        weights: Sequence[float],
        map_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs members")
        shapes = {(member.input, tuple(member.input_shape)) for member in members.values()}
        reads = {kind for kind, _ in shapes}
        if len(shapes) > len(reads) or not (len(reads) == 1 or reads == {IMAGE, LATENT}):
            raise ValueError(
                f"the members of an ensemble must read images, latents or features of one shape, or images "
                f"and their latents: {shapes}"
            )
        self.input = next(iter(reads)) if len(reads) == 1 else BOTH
        self.input_shape = next(shape for kind, shape in shapes if len(reads) == 1 or kind != LATENT)
        self.members = nn.ModuleDict(
            {name: member for name, member in members.items() if isinstance(member, nn.Module)}
        )
        self.weights = _checked(weights, len(members))
        self.map_weights = self.weights if map_weights is None else _checked(map_weights, len(members))
        self.register_buffer("means", torch.zeros(len(members), 2))
        self.register_buffer("stds", torch.ones(len(members), 2))
        self.register_buffer("location", torch.zeros(2))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def build(
        cls,
        members: Sequence[Mapping[str, Any]],
        weights: Sequence[float],
        map_weights: Sequence[float] | None = None,
    ) -> EnsembleDetector:
        """An ensemble from its :meth:`hyperparameters`."""
        made = {
            member["name"]: build(**{key: value for key, value in member.items() if key != "name"})
            for member in members
        }
        return cls(made, weights, map_weights)

    def hyperparameters(self) -> dict[str, Any]:
        """What :meth:`build` needs to make this detector again."""
        members = [{"name": name, **describe(member)} for name, member in self.named_members().items()]
        return {"members": members, "weights": list(self.weights), "map_weights": list(self.map_weights)}

    def named_members(self) -> dict[str, Any]:
        """The detectors that it adds up, by name."""
        return dict(self.members.items())

    @torch.no_grad()
    def calibrate(self, normal: ImageSource, inputs_of: InputsOf) -> None:
        """Standardise on ``normal`` images ``(N, C, H, W)`` uint8, or latents ``(N, *latent_shape)``.

        :param inputs_of: what the ensemble reads of a batch of them.
        """
        for number, member in enumerate(self.named_members().values()):
            scores, count = [], 0
            values = squares = torch.zeros((), dtype=torch.float64, device=self.means.device)
            for batch in normal.split(BATCH_SIZE):
                score, maps = self._predict(member, inputs_of(as_floats(batch)))
                scores.append(score)
                # All maps together may be more than fits in memory, unlike their sums.
                values, squares = values + maps.double().sum(), squares + maps.double().square().sum()
                count += maps.numel()
            all_scores = torch.cat(scores)
            mean = values / count
            variance = (squares / count - mean**2).clamp_min(0)
            self.means[number] = torch.stack([all_scores.mean(), mean.to(all_scores)])
            self.stds[number, SCORE] = _one_if_zero(all_scores.std(correction=0))
            self.stds[number, MAP] = _one_if_zero(variance.sqrt())
        scores, highest = [], []
        for batch in normal.split(BATCH_SIZE):
            score, maps = self._weighted_sum(inputs_of(as_floats(batch)))
            scores.append(score)
            highest.append(maps.flatten(1).amax(1))
        self.location[SCORE], scale = location_and_scale(torch.cat(scores))
        self.location[MAP], _ = location_and_scale(torch.cat(highest))
        self.scale.copy_(scale)

    def forward(self, *inputs: Tensor) -> Detection:
        """Score images ``(B, C, H, W)`` and reconstructions, latents ``(B, *latent_shape)``, or all three."""
        score, maps = self._weighted_sum(inputs)
        return Detection((score - self.location[SCORE]) / self.scale, maps - self.location[MAP])

    def standardised(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Maps of all members, on the CPU and by name, as they are before they are weighted and added."""
        means, stds = self.means[:, MAP].cpu(), self.stds[:, MAP].cpu()
        return {
            name: (maps[name] - means[number]) / stds[number]
            for number, name in enumerate(self.named_members())
        }

    def _predict(self, member: Detector, inputs: tuple[Tensor, ...]) -> Detection:
        """A member's prediction, with a map as large as those of the others."""
        score, maps = member(*inputs_for(member.input, inputs))
        return Detection(score, at_size(maps, self.input_shape[-1]) if self.input == BOTH else maps)

    def _weighted_sum(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Weighted sums of standardised scores ``(B,)`` and maps ``(B, 1, h, w)``."""
        scores, maps = [], []
        for number, member in enumerate(self.named_members().values()):
            weight, map_weight = self.weights[number], self.map_weights[number]
            if weight or map_weight:
                predicted = self._predict(member, inputs)
                means, stds = self.means[number], self.stds[number]
                scores.append((predicted.score - means[SCORE]) * (weight / stds[SCORE]))
                maps.append((predicted.map - means[MAP]) * (map_weight / stds[MAP]))
        finest = max(each.shape[-1] for each in maps)
        alike = [each if each.shape[-1] == finest else at_size(each, finest) for each in maps]
        return torch.stack(scores).sum(0), torch.stack(alike).sum(0)


def _one_if_zero(std: Tensor) -> Tensor:
    """A standard deviation to divide by: 1 if all values are equal."""
    return std if std > 1e-6 else torch.ones_like(std)


def _checked(weights: Sequence[float], members: int) -> tuple[float, ...]:
    """The weights, if there is one for each member and their sum is positive."""
    if len(weights) != members or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ValueError(
            f"an ensemble of {members} can't have the weights {list(weights)}: give one for each member, "
            "none negative and at least one positive"
        )
    return tuple(map(float, weights))
