"""How similar samples are to labelled anomalies: in a detector's features, and by their descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from detectors.blocks.last_layer import LastLayerDetector, LastLayerInput, at_positions, patches

MIN_SCALE = 0.1
"""No feature is scaled as if it varied less than this share of the features' mean standard deviation."""

SURROUNDINGS = 2
"""So many tokens around an anomaly count as its surroundings."""

MIN_DESCRIPTORS = 4
"""Fewer anomalies don't show how much anomalies differ in their descriptors."""


class AnomalyDescriptor(NamedTuple):
    """What anomalies look like in the latent, ``(B, …)`` each."""

    inside: Tensor
    """``(B, 2 C)``: mean and standard deviation of the anomalous tokens."""
    contrast: Tensor
    """``(B, C)``: their mean less that of the tokens around them."""
    position: Tensor
    """``(B, 3)``: row and column of their centre in [-1, 1], and the logarithm of their number."""


def anomaly_descriptor(latents: Tensor, marks: Tensor) -> AnomalyDescriptor:
    """The descriptors of the tokens marked in ``marks (B, 1, h, w)``, in ``latents (B, C, h, w)``.

    Where no token is marked, all numbers are about 0.
    """
    inside = marks.to(latents)
    width = 2 * SURROUNDINGS + 1
    around = functional.max_pool2d(inside, width, stride=1, padding=SURROUNDINGS) - inside
    mean, outside = _mean(latents, inside), _mean(latents, around)
    variance = _mean((latents - mean[:, :, None, None]).square(), inside)
    rows, columns = (
        torch.linspace(-1, 1, size, device=latents.device, dtype=latents.dtype) for size in latents.shape[2:]
    )
    centre = [_mean(rows[:, None].expand_as(inside), inside), _mean(columns.expand_as(inside), inside)]
    size = inside.flatten(1).sum(1, keepdim=True).clamp_min(1).log()
    return AnomalyDescriptor(
        torch.cat([mean, variance.clamp_min(1e-6).sqrt()], 1), mean - outside, torch.cat([*centre, size], 1)
    )


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """The mean of ``values (B, C, h, w)`` under ``weights (B, 1, h, w)``, ``(B, C)``."""
    return (values * weights).sum((2, 3)) / weights.sum((2, 3)).clamp_min(1e-6)


class AnomalySimilarity:
    """Labelled anomalies as points, and how densely they lie around samples.

    A point joins what a detector's last layer reads where it is most suspicious with, where masks are known,
    the anomaly's descriptor. Detector features alone say how suspicious something is but little of what
    it is: noise and a lesion can have the same. All parts weigh the same: each feature is divided by its
    standard deviation, and each part by the median distance between labelled images.

    :param detector: a detector whose last layer is linear.
    :param reading: what its last layer reads of R labelled images.
    :param anomalous: ``(R,)`` bool, which of them are anomalies; A are.
    :param descriptors: those of the A anomalies, where their masks are known.
    """

    def __init__(
        self,
        detector: LastLayerDetector,
        layer_input: LastLayerInput,
        anomalous: Tensor,
        descriptors: AnomalyDescriptor | None = None,
    ) -> None:
        if descriptors is not None and len(descriptors.position) < MIN_DESCRIPTORS:
            descriptors = None
        weight, bias = detector.last_layer()
        self.side, self.head = weight.shape[-1], torch.cat([weight.flatten(), bias.reshape(1)])
        self._score_count = detector.score_count
        features = self._suspicious(layer_input)
        self.units = [unit_of(part) for part in (features, *(descriptors or ()))]
        """``(d,)`` of each part: what it is divided by."""
        self.anomalies = self._joined([features[anomalous], *(descriptors or ())])
        """``(A, d)``"""

    @property
    def descriptors(self) -> bool:
        """Whether points hold descriptors."""
        return len(self.units) > 1

    def embed(self, layer_input: LastLayerInput, descriptors: AnomalyDescriptor | None = None) -> Tensor:
        """N samples as points, ``(N, d)``; ``descriptors`` are needed if points hold them."""
        return self._joined(
            [self._suspicious(layer_input), *((descriptors or ()) if self.descriptors else ())]
        )

    def density(self, points: Tensor) -> Tensor:
        """How densely the anomalies lie around ``points (N, d)``, ``(N,)``: 1 where all of them coincide."""
        return closeness(points, self.anomalies).mean(1)

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part / unit for part, unit in zip(parts, self.units, strict=True)], 1)

    def _suspicious(self, layer_input: LastLayerInput) -> Tensor:
        """The mean of what the last layer reads at the places of the highest logits, ``(B, d)``."""
        rows = patches(layer_input.features, self.side)
        logits = rows @ self.head + at_positions(layer_input.offset)
        top = logits.topk(self._score_count(rows.shape[1]), dim=1, sorted=False).indices
        return rows.gather(1, top.unsqueeze(2).expand(-1, -1, rows.shape[2])).mean(1)[:, :-1]


def closeness(points: Tensor, others: Tensor) -> Tensor:
    """How close each of ``points (N, d)`` is to each of ``others (M, d)``, ``(N, M)``: 1 equal, 0 far off."""
    return torch.exp(-torch.cdist(points, others).square() / 2)


def unit_of(features: Tensor) -> Tensor:
    """What each of ``features (R, d)`` is divided by, ``(d,)``; infinite where all images are the same."""
    scale = features.std(0, correction=0)
    if float(scale.max()) < 1e-6:
        return torch.full_like(scale, torch.inf)
    scale = scale.clamp_min(float(scale.mean()) * MIN_SCALE)
    return scale * torch.pdist(features / scale).median().clamp_min(1e-6)
