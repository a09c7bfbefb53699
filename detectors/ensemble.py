"""Several detectors that read the same, and what they say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectors.base import Detection, Detector
from detectors.distance import JUDGED_AT_ONCE, zero_and_unit
from detectors.images import ImageSource
from detectors.kinds import build, describe
from detectors.training import Look, as_numbers

SCORE, MAP = 0, 1
"""Columns of what is known about normal images."""


class EnsembleDetector(nn.Module):
    """The weighted sum of what its parts say, each in deviations from what normal images get.

    Scores and maps are each brought to mean 0 and deviation 1 over normal images before they are added.
    The sum is shifted so that 0 means "further out than 95 % of normal images": of their scores, and, for
    the map, of the highest value in each of their maps.

    :param parts: detectors by name, which read the same.
    :param weights: one a part, none negative; a part of weight 0 is not asked.
    """

    means: Tensor
    deviations: Tensor
    usual: Tensor
    spread: Tensor

    def __init__(self, parts: Mapping[str, Detector], weights: Sequence[float]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("an ensemble needs parts")
        first = next(iter(parts.values()))
        self.input, self.input_shape = first.input, tuple(first.input_shape)
        if any(
            (part.input, tuple(part.input_shape)) != (self.input, self.input_shape) for part in parts.values()
        ):
            raise ValueError("the parts of an ensemble must read the same")
        if len(weights) != len(parts) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise ValueError(f"an ensemble of {len(parts)} can't have the weights {list(weights)}")
        self.parts = nn.ModuleDict(
            {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        )
        self.weights = tuple(map(float, weights))
        self.register_buffer("means", torch.zeros(len(parts), 2))
        self.register_buffer("deviations", torch.ones(len(parts), 2))
        self.register_buffer("usual", torch.zeros(2))
        self.register_buffer("spread", torch.ones(()))

    @classmethod
    def build(cls, parts: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> EnsembleDetector:
        """An ensemble from its :meth:`hyperparameters`."""
        made = {
            part["name"]: build(**{key: value for key, value in part.items() if key != "name"})
            for part in parts
        }
        return cls(made, weights)

    def hyperparameters(self) -> dict[str, Any]:
        """What :meth:`build` needs to make this detector again."""
        parts = [{"name": name, **describe(part)} for name, part in self.named_parts().items()]
        return {"parts": parts, "weights": list(self.weights)}

    def named_parts(self) -> dict[str, Any]:
        """The detectors that it is made of, by name."""
        return dict(self.parts.items())

    @torch.no_grad()
    def calibrate(self, normal: ImageSource, look: Look) -> None:
        """Learn what ``normal`` images ``(N, C, H, W)`` uint8 get, or latents ``(N, *latent_shape)``."""
        for number, part in enumerate(self.named_parts().values()):
            scores, values, squares, count = [], 0.0, 0.0, 0
            for batch in normal.split(JUDGED_AT_ONCE):
                score, maps = part(*look(as_numbers(batch)))
                scores.append(score)
                # All maps together may be more than fits in memory: their sums do.
                values, squares = values + maps.double().sum(), squares + maps.double().square().sum()
                count += maps.numel()
            found = torch.cat(scores)
            mean = values / count
            variance = torch.as_tensor(squares / count - mean**2).clamp_min(0)
            self.means[number] = torch.stack([found.mean(), torch.as_tensor(mean).to(found)])
            self.deviations[number, SCORE] = _or_one(found.std(correction=0))
            self.deviations[number, MAP] = _or_one(variance.sqrt())
        scores, highest = [], []
        for batch in normal.split(JUDGED_AT_ONCE):
            score, maps = self._joined(*look(as_numbers(batch)))
            scores.append(score)
            highest.append(maps.flatten(1).amax(1))
        self.usual[SCORE], spread = zero_and_unit(torch.cat(scores))
        self.usual[MAP], _ = zero_and_unit(torch.cat(highest))
        self.spread.copy_(spread)

    def forward(self, *seen: Tensor) -> Detection:
        """Judge images ``(B, C, H, W)`` and their reconstructions, or latents ``(B, *latent_shape)``."""
        score, maps = self._joined(*seen)
        return Detection((score - self.usual[SCORE]) / self.spread, maps - self.usual[MAP])

    def _joined(self, *seen: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sums of standardised scores ``(B,)`` and maps ``(B, 1, h, w)``."""
        scores, maps = [], []
        for number, part in enumerate(self.named_parts().values()):
            if self.weights[number]:
                detection = part(*seen)
                share = self.weights[number] / self.deviations[number]
                scores.append((detection.score - self.means[number, SCORE]) * share[SCORE])
                maps.append((detection.map - self.means[number, MAP]) * share[MAP])
        return torch.stack(scores).sum(0), torch.stack(maps).sum(0)


def _or_one(deviation: Tensor) -> Tensor:
    """A deviation to divide by: 1 where nothing differs."""
    return deviation if deviation > 1e-6 else torch.ones_like(deviation)
