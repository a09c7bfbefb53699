"""A detector's last layer, and copies of it that each learn from one sample.

How useful a sample is to a detector shows in what the detector learns from it. To train whole copies takes
minutes; the last layer is linear, so thousands of its copies learn in milliseconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

CANDIDATE_FACTOR = 4
"""Of every reference image, so many times the positions that its score averages are kept: those with the
highest logits at first. Lower ones would have to rise above all of them to count."""

MAX_SIDE = 32
"""Positions a side that are used: of finer maps, evenly spaced ones."""

MAX_ROWS = 4096
DAMPING = 0.03
"""This share of the features' mean square is added to each, so that features that hardly vary are not
amplified."""

STEP = 0.2
"""The root mean square by which one sample changes the logits of a copy."""


class LastLayerInput(NamedTuple):
    """What the last layer reads of a batch."""

    features: Tensor
    """``(B, D, h, w)``"""
    offset: Tensor
    """``(B, 1, h, w)``: added to the layer's output, whatever its weights are."""


class LastLayerDetector(Protocol):
    """A detector whose map is a linear layer's, and whose score is the mean of the map's highest logits."""

    input: str
    """What it reads, see :mod:`detectors.base`."""

    def last_layer_input(self, *inputs: Tensor) -> LastLayerInput:
        """What the last layer reads of the detector's inputs."""

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """The layer's weights ``(D, k, k)`` with an odd ``k``, and its bias ``()``."""

    def score_count(self, positions: int) -> int:
        """How many of a map's ``positions`` are averaged to a score."""


def has_last_layer(detector: Any) -> bool:
    """Whether copies of a detector's last layer can be trained."""
    return all(hasattr(detector, name) for name in ("last_layer_input", "last_layer", "score_count"))


def stride(maps: Tensor) -> int:
    """How far apart the positions of ``maps (B, …, h, w)`` are that are used."""
    return max(-(-max(maps.shape[2:]) // MAX_SIDE), 1)


def patches(features: Tensor, side: int) -> Tensor:
    """What the layer reads at P positions of ``features (B, D, h, w)``: ``(B, P, D·k·k + 1)``.

    The last number is 1, for the bias.
    """
    rows = functional.unfold(features, side, padding=side // 2, stride=stride(features)).transpose(1, 2)
    return torch.cat([rows, torch.ones_like(rows[..., :1])], dim=2)


def at_positions(maps: Tensor) -> Tensor:
    """Maps ``(B, 1, h, w)`` at the positions of :func:`patches`, ``(B, P)``."""
    apart = stride(maps)
    return maps[:, 0, ::apart, ::apart].flatten(1)


class LastLayerLearner:
    """Learning of a detector's last layer, measured on R labelled reference images.

    A copy of the layer is one row ``(d,)`` of weights and bias. Its loss is a soft count of how often a
    normal image scores above an anomalous one, which is what AUROC counts. A bias alone changes nothing.
    """

    def __init__(self, detector: LastLayerDetector, layer_input: LastLayerInput, labels: Tensor) -> None:
        """Take what the last layer reads of the reference images, and their ``labels (R,)``."""
        weight, bias = detector.last_layer()
        self.side = weight.shape[-1]
        self.start = torch.cat([weight.flatten(), bias.reshape(1)])
        """``(d,)``: the detector's own last layer."""
        rows = patches(layer_input.features, self.side)
        offset = at_positions(layer_input.offset)
        self.score_count = detector.score_count(rows.shape[1])
        count = min(CANDIDATE_FACTOR * self.score_count, rows.shape[1])
        chosen = (rows @ self.start + offset).topk(count, dim=1).indices
        self.rows = rows.gather(1, chosen.unsqueeze(2).expand(-1, -1, rows.shape[2]))  # (R, M, d)
        self.offset = offset.gather(1, chosen)
        # As positions: flags would have to be counted anew, on the host, whenever they are used.
        self.anomalous, self.normal = ((labels == label).nonzero().flatten() for label in (1, 0))
        self.metric = self._inverse(rows.flatten(0, 1))
        """``(d, d)``: the inverse of the features' mean squares, by which steps are measured."""
        self.start_gradient = self.loss_gradient(self.start[None])[0]
        """``(d,)``: of the loss, at the detector's own last layer."""
        self.max_gain = (
            STEP * (self.start_gradient @ self.metric @ self.start_gradient).clamp_min(1e-12).sqrt()
        )
        """``()``: by how much a step can lower the loss at most, to first order."""

    def _inverse(self, rows: Tensor) -> Tensor:
        """The inverse of the mean squares of ``rows (n, d)``, damped, ``(d, d)``."""
        picks = torch.linspace(0, len(rows) - 1, min(len(rows), MAX_ROWS), device=rows.device).long()
        some = rows[picks].double()
        squares = some.T @ some / len(some)
        damping = DAMPING * squares.diagonal().mean()
        inverse = torch.linalg.inv(squares + damping * torch.eye(len(squares)).to(squares))
        return inverse.to(rows.dtype)

    def scores(self, copies: Tensor) -> Tensor:
        """Scores of the reference images by copies ``(N, d)``, ``(N, R)``."""
        logits = torch.einsum("rmd,nd->nrm", self.rows, copies) + self.offset
        return logits.topk(self.score_count, dim=2, sorted=False).values.mean(2)

    def loss(self, copies: Tensor) -> Tensor:
        """The loss of copies ``(N, d)`` on the reference images, ``(N,)``."""
        scores = self.scores(copies)
        above = scores[:, self.normal, None] - scores[:, None, self.anomalous]
        return functional.softplus(above).mean((1, 2))

    def loss_gradient(self, copies: Tensor) -> Tensor:
        """The gradient of the loss of copies ``(N, d)``, ``(N, d)``."""
        logits = torch.einsum("rmd,nd->nrm", self.rows, copies) + self.offset
        top, positions = logits.topk(self.score_count, dim=2, sorted=False)
        scores = top.mean(2)
        of_pairs = (scores[:, self.normal, None] - scores[:, None, self.anomalous]).sigmoid()
        of_scores = torch.zeros_like(scores)
        pairs = of_pairs.shape[1] * of_pairs.shape[2]
        of_scores[:, self.normal] = of_pairs.sum(2) / pairs
        of_scores[:, self.anomalous] = -of_pairs.sum(1) / pairs
        of_logits = torch.zeros_like(logits).scatter_(
            2, positions, of_scores[:, :, None].expand_as(positions) / self.score_count
        )
        return torch.einsum("nrm,rmd->nd", of_logits, self.rows)

    def sample_gradients(self, layer_input: LastLayerInput, masks: Tensor, copies: Tensor) -> Tensor:
        """The gradients of copies ``(N, d)``, each of the cross entropy of its own sample, ``(N, d)``.

        ``masks (N, 1, h, w)`` bool mark what is anomalous; anomalous and normal positions weigh the same.
        """
        rows = patches(layer_input.features, self.side)
        logits = torch.einsum("npd,nd->np", rows, copies) + at_positions(layer_input.offset)
        truth = at_positions(masks).to(logits.dtype)
        errors = logits.sigmoid() - truth
        inside, outside = truth.sum(1, keepdim=True), (1 - truth).sum(1, keepdim=True)
        both = torch.where((inside > 0) & (outside > 0), 0.5, 1.0)
        weights = both * (truth / inside.clamp_min(1) + (1 - truth) / outside.clamp_min(1))
        return torch.einsum("np,npd->nd", errors * weights, rows)

    def step(self, sample_gradients: Tensor) -> Tensor:
        """What to add to copies, ``(N, d)``, against their ``sample_gradients (N, d)``.

        All steps change logits by :data:`STEP`, whatever the gradient's length.
        """
        moves = sample_gradients @ self.metric
        length = (moves * sample_gradients).sum(1, keepdim=True).clamp_min(1e-12).sqrt()
        return -STEP * moves / length
