"""Labelled images that a reward measures usefulness on, apart from those that report the result."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detectors.images import spread_positions

MOST = 32
"""Of more normal images, or anomalies, so many evenly spaced ones are kept: every step looks at them."""


class Trial(NamedTuple):
    """What detectors read of normal and of anomalous images that none of them was trained on."""

    inputs: Tensor
    """``(R, C, H, W)`` uint8, or latents ``(R, *latent_shape)``."""
    labels: Tensor
    """``(R,)`` int64: 0 normal, 1 anomaly; both occur."""

    @classmethod
    def of(cls, inputs: Tensor, labels: Tensor) -> Trial | None:
        """A trial of some of the images, evenly spaced; None if they aren't of both kinds."""
        kinds = [(labels == label).nonzero().flatten() for label in (0, 1)]
        if not all(len(kind) for kind in kinds):
            return None
        picks = torch.cat([kind[spread_positions(len(kind), MOST)] for kind in kinds])
        return cls(inputs[picks.to(inputs.device)], labels[picks])

    def to(self, device: torch.device) -> Trial:
        """The same on ``device``."""
        return Trial(self.inputs.to(device), self.labels.to(device))
