"""A detector as one network: from pixels to score, p-value and map."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from latent_env.prediction.detector import AnomalyDetector

LARGEST = 60.0
"""Distances from the threshold are cut here, as those of predictions are."""


class Verdicts(NamedTuple):
    """What the network answers for a batch of images."""

    score: Tensor
    """``(N,)``, from 0 to 1: above .5 is an anomaly."""
    p_value: Tensor
    """``(N,)``: how often normal images score as high."""
    map: Tensor
    """``(N, H, W)``, from 0 to 1: above .5 belongs to a finding."""
    raw_score: Tensor
    """``(N,)``: the detector's own score, a logit."""


class DetectorGraph(nn.Module):
    """Images ``(N, C, H, W)`` uint8 to :class:`Verdicts`, with all that a detector needs inside."""

    normal: Tensor
    offsets: Tensor
    units: Tensor

    def __init__(self, detector: AnomalyDetector) -> None:
        super().__init__()
        self.network, decision, threshold = detector.network, detector.decision, detector.threshold
        assert isinstance(self.network.detector, nn.Module)
        # The network is no module itself: its parts are named here, so that they are exported by their names.
        self.detector, self.encoder = self.network.detector, self.network.encoder
        self.register_buffer("normal", torch.from_numpy(decision.normal))
        self.register_buffer("offsets", torch.tensor([threshold.score, threshold.map]))
        self.register_buffer("units", torch.tensor([decision.unit, decision.map_unit]))

    def forward(self, images: Tensor) -> Verdicts:
        """Score images ``(N, C, H, W)`` uint8."""
        raw, maps = self.network.detection(images)
        as_high = (self.normal >= raw[:, None]).sum(1)
        p_value = (1 + as_high).float() / (len(self.normal) + 1)
        return Verdicts(self._scaled(raw, 0), p_value, self._scaled(maps[:, 0], 1), raw)

    def _scaled(self, values: Tensor, which: int) -> Tensor:
        """Raw scores or maps as numbers in [0, 1], of which .5 is the threshold."""
        distances = (values - self.offsets[which]) / self.units[which]
        return distances.clamp(-LARGEST, LARGEST).sigmoid()
