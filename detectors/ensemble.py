"""Several detectors of the same images, and what they say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectors.base import BOTH, LATENT, Detection, Detector, portion_for
from detectors.blocks.distance import JUDGED_AT_ONCE, zero_and_unit
from detectors.blocks.tokens import at_size
from detectors.registry import build, describe
from detectors.training.batches import as_numbers
from detectors.training.loop import InputsOf
from latent_common.image_source import ImageSource

SCORE, MAP = 0, 1
"""Columns of what is known about normal images."""


class EnsembleDetector(nn.Module):
    """The weighted sum of what its parts say, each in deviations from what normal images get.

    Scores and maps are each brought to mean 0 and deviation 1 over normal images before they are added.
    The sum is shifted so that 0 means "further out than 95 % of normal images": of their scores, and, for
    the map, of the highest value in each of their maps.

    Where some parts read images and others latents it reads both, and its map has the size of an image.

    :param parts: detectors by name.
    :param weights: one a part, none negative: how much its scores count.
    :param map_weights: the same of its maps; as much as its scores, if not given. A part that counts for
        neither is not asked.
    """

    means: Tensor
    deviations: Tensor
    location: Tensor
    scale: Tensor

    def __init__(
        self,
        parts: Mapping[str, Detector],
        weights: Sequence[float],
        map_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not parts:
            raise ValueError("an ensemble needs parts")
        shapes = {(part.input, tuple(part.input_shape)) for part in parts.values()}
        reads = {kind for kind, _ in shapes}
        if len(shapes) > len(reads):
            raise ValueError(f"the parts of an ensemble must read images, or latents, of one shape: {shapes}")
        self.input = next(iter(reads)) if len(reads) == 1 else BOTH
        self.input_shape = next(shape for kind, shape in shapes if len(reads) == 1 or kind != LATENT)
        self.parts = nn.ModuleDict(
            {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        )
        self.weights = _checked(weights, len(parts))
        self.map_weights = self.weights if map_weights is None else _checked(map_weights, len(parts))
        self.register_buffer("means", torch.zeros(len(parts), 2))
        self.register_buffer("deviations", torch.ones(len(parts), 2))
        self.register_buffer("location", torch.zeros(2))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def build(
        cls,
        parts: Sequence[Mapping[str, Any]],
        weights: Sequence[float],
        map_weights: Sequence[float] | None = None,
    ) -> EnsembleDetector:
        """An ensemble from its :meth:`hyperparameters`."""
        made = {
            part["name"]: build(**{key: value for key, value in part.items() if key != "name"})
            for part in parts
        }
        return cls(made, weights, map_weights)

    def hyperparameters(self) -> dict[str, Any]:
        """What :meth:`build` needs to make this detector again."""
        parts = [{"name": name, **describe(part)} for name, part in self.named_parts().items()]
        return {"parts": parts, "weights": list(self.weights), "map_weights": list(self.map_weights)}

    def named_parts(self) -> dict[str, Any]:
        """The detectors that it is made of, by name."""
        return dict(self.parts.items())

    @torch.no_grad()
    def calibrate(self, normal: ImageSource, inputs_of: InputsOf) -> None:
        """Learn what ``normal`` images ``(N, C, H, W)`` uint8 get, or latents ``(N, *latent_shape)``."""
        for number, part in enumerate(self.named_parts().values()):
            scores, count = [], 0
            values = squares = torch.zeros((), dtype=torch.float64, device=self.means.device)
            for batch in normal.split(JUDGED_AT_ONCE):
                score, maps = self._heard(part, inputs_of(as_numbers(batch)))
                scores.append(score)
                # All maps together may be more than fits in memory: their sums do.
                values, squares = values + maps.double().sum(), squares + maps.double().square().sum()
                count += maps.numel()
            found = torch.cat(scores)
            mean = values / count
            variance = (squares / count - mean**2).clamp_min(0)
            self.means[number] = torch.stack([found.mean(), mean.to(found)])
            self.deviations[number, SCORE] = _or_one(found.std(correction=0))
            self.deviations[number, MAP] = _or_one(variance.sqrt())
        scores, highest = [], []
        for batch in normal.split(JUDGED_AT_ONCE):
            score, maps = self._joined(inputs_of(as_numbers(batch)))
            scores.append(score)
            highest.append(maps.flatten(1).amax(1))
        self.location[SCORE], scale = zero_and_unit(torch.cat(scores))
        self.location[MAP], _ = zero_and_unit(torch.cat(highest))
        self.scale.copy_(scale)

    def forward(self, *seen: Tensor) -> Detection:
        """Judge images ``(B, C, H, W)`` and reconstructions, latents ``(B, *latent_shape)``, or all three."""
        score, maps = self._joined(seen)
        return Detection((score - self.location[SCORE]) / self.scale, maps - self.location[MAP])

    def maps_in_deviations(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Maps of all parts, on the CPU and by name, as they are before they are weighted and added."""
        means, deviations = self.means[:, MAP].cpu(), self.deviations[:, MAP].cpu()
        return {
            name: (maps[name] - means[number]) / deviations[number]
            for number, name in enumerate(self.named_parts())
        }

    def _heard(self, part: Detector, seen: tuple[Tensor, ...]) -> Detection:
        """What a part says, with a map as large as those of the others."""
        score, maps = part(*portion_for(part.input, seen))
        return Detection(score, at_size(maps, self.input_shape[-1]) if self.input == BOTH else maps)

    def _joined(self, seen: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Weighted sums of standardised scores ``(B,)`` and maps ``(B, 1, h, w)``."""
        scores, maps = [], []
        for number, part in enumerate(self.named_parts().values()):
            of_score, of_map = self.weights[number], self.map_weights[number]
            if of_score or of_map:
                heard = self._heard(part, seen)
                means, deviations = self.means[number], self.deviations[number]
                scores.append((heard.score - means[SCORE]) * (of_score / deviations[SCORE]))
                maps.append((heard.map - means[MAP]) * (of_map / deviations[MAP]))
        return torch.stack(scores).sum(0), torch.stack(maps).sum(0)


def _or_one(deviation: Tensor) -> Tensor:
    """A deviation to divide by: 1 where nothing differs."""
    return deviation if deviation > 1e-6 else torch.ones_like(deviation)


def _checked(weights: Sequence[float], parts: int) -> tuple[float, ...]:
    """One weight a part; complains about others."""
    if len(weights) != parts or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ValueError(f"an ensemble of {parts} can't have the weights {list(weights)}")
    return tuple(map(float, weights))
