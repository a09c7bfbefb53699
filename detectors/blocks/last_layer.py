"""A detector's last layer by itself, and copies of it that each learn a little from one sample.

What a sample is worth to a detector shows in what a copy of the detector makes of it. To train whole copies
takes minutes; the last layer is linear, so thousands of its copies learn in milliseconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

PLACES_A_SCORE = 4
"""Of every image of the trial, so many times the places that make up a score are looked at: those that the
first copy finds most anomalous. Others would have to climb over all of them to count."""

FINEST = 32
"""Places a side that are looked at: of finer maps some, evenly spaced."""

MOST_ROWS = 4096
DAMPING = 0.03
"""Of the features' mean square, added to each: directions that hardly vary must not be blown up."""

STEP = 0.2
"""How far one sample moves a copy: the root mean square of the change of its logits."""


class Reading(NamedTuple):
    """What the last layer reads of a batch."""

    features: Tensor
    """``(B, D, h, w)``"""
    offset: Tensor
    """``(B, 1, h, w)``: added to what the layer says, whatever that is."""


class Headed(Protocol):
    """A detector whose map is a linear layer's, and whose score is made of the map's highest values."""

    input: str
    """What it reads, see :mod:`detectors.base`."""

    def reading(self, *seen: Tensor) -> Reading:
        """What the last layer reads of what the detector sees."""

    def head(self) -> tuple[Tensor, Tensor]:
        """The layer: weights ``(D, k, k)`` with an odd ``k``, and bias ``()``."""

    def top(self, places: int) -> int:
        """How many of a map's ``places`` make up a score: it is the mean of their logits."""


def is_headed(detector: Any) -> bool:
    """Whether copies of a detector's head can be trained."""
    return all(hasattr(detector, name) for name in ("reading", "head", "top"))


def stride(maps: Tensor) -> int:
    """How far apart the places of ``maps (B, …, h, w)`` are that are looked at."""
    return max(-(-max(maps.shape[2:]) // FINEST), 1)


def patches(features: Tensor, side: int) -> Tensor:
    """What the layer reads at P places of ``features (B, D, h, w)``: ``(B, P, D·k·k + 1)``.

    The last number is 1, for the bias.
    """
    rows = functional.unfold(features, side, padding=side // 2, stride=stride(features)).transpose(1, 2)
    return torch.cat([rows, torch.ones_like(rows[..., :1])], dim=2)


def at_places(maps: Tensor) -> Tensor:
    """Maps ``(B, 1, h, w)`` at the same places, ``(B, P)``."""
    apart = stride(maps)
    return maps[:, 0, ::apart, ::apart].flatten(1)


class LastLayerLearner:
    """A detector's head before a trial: labelled images it must tell apart, in features.

    The loss of a copy is how often, softly, a normal image scores above an anomalous one: what AUROC
    counts. A bias alone changes nothing.
    """

    def __init__(self, detector: Headed, reading: Reading, labels: Tensor) -> None:
        """Prepare the trial on ``reading`` of R images with ``labels (R,)``."""
        weight, bias = detector.head()
        self.side = weight.shape[-1]
        self.start = torch.cat([weight.flatten(), bias.reshape(1)])
        """``(d,)``: the head's own weights and bias, as one row."""
        rows = patches(reading.features, self.side)
        offset = at_places(reading.offset)
        self.top = detector.top(rows.shape[1])
        count = min(PLACES_A_SCORE * self.top, rows.shape[1])
        chosen = (rows @ self.start + offset).topk(count, dim=1).indices
        self.rows = rows.gather(1, chosen.unsqueeze(2).expand(-1, -1, rows.shape[2]))  # (R, M, d)
        self.offset = offset.gather(1, chosen)
        # As positions: flags would have to be counted anew, on the host, whenever they are used.
        self.anomalous, self.normal = ((labels == label).nonzero().flatten() for label in (1, 0))
        self.metric = self._inverse(rows.flatten(0, 1))
        self.climb = self.slope(self.start[None])[0]
        """``(d,)``: where the loss of the head as it is rises."""
        self.best = STEP * (self.climb @ self.metric @ self.climb).clamp_min(1e-12).sqrt()
        """What a step could gain at most, to first order."""

    def _inverse(self, rows: Tensor) -> Tensor:
        """The inverse of the features' mean squares: a step's length is then what it does to logits."""
        picks = torch.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS), device=rows.device).long()
        some = rows[picks].double()
        squares = some.T @ some / len(some)
        damping = DAMPING * squares.diagonal().mean()
        inverse = torch.linalg.inv(squares + damping * torch.eye(len(squares)).to(squares))
        return inverse.to(rows.dtype)

    def scores(self, copies: Tensor) -> Tensor:
        """What copies ``(N, d)`` say of the trial's images, ``(N, R)``."""
        logits = torch.einsum("rmd,nd->nrm", self.rows, copies) + self.offset
        return logits.topk(self.top, dim=2, sorted=False).values.mean(2)

    def loss(self, copies: Tensor) -> Tensor:
        """Of copies ``(N, d)``: ``(N,)``."""
        scores = self.scores(copies)
        above = scores[:, self.normal, None] - scores[:, None, self.anomalous]
        return functional.softplus(above).mean((1, 2))

    def slope(self, copies: Tensor) -> Tensor:
        """The gradient of the loss of copies ``(N, d)``, ``(N, d)``."""
        logits = torch.einsum("rmd,nd->nrm", self.rows, copies) + self.offset
        top, places = logits.topk(self.top, dim=2, sorted=False)
        scores = top.mean(2)
        doubt = (scores[:, self.normal, None] - scores[:, None, self.anomalous]).sigmoid()
        pull = torch.zeros_like(scores)
        pairs = doubt.shape[1] * doubt.shape[2]
        pull[:, self.normal] = doubt.sum(2) / pairs
        pull[:, self.anomalous] = -doubt.sum(1) / pairs
        weights = torch.zeros_like(logits).scatter_(2, places, pull[:, :, None].expand_as(places) / self.top)
        return torch.einsum("nrm,rmd->nd", weights, self.rows)

    def lessons(self, reading: Reading, masks: Tensor, copies: Tensor) -> Tensor:
        """The gradient by which each of the copies ``(N, d)`` learns its own sample, ``(N, d)``.

        ``masks (N, 1, h, w)`` bool say what is anomalous; anomalous and normal places weigh the same.
        """
        rows = patches(reading.features, self.side)
        logits = torch.einsum("npd,nd->np", rows, copies) + at_places(reading.offset)
        truth = at_places(masks).to(logits.dtype)
        errors = logits.sigmoid() - truth
        inside, outside = truth.sum(1, keepdim=True), (1 - truth).sum(1, keepdim=True)
        both = torch.where((inside > 0) & (outside > 0), 0.5, 1.0)
        weights = both * (truth / inside.clamp_min(1) + (1 - truth) / outside.clamp_min(1))
        return torch.einsum("np,npd->nd", errors * weights, rows)

    def step(self, lessons: Tensor) -> Tensor:
        """Where ``lessons (N, d)`` move copies, ``(N, d)``: equally far, whatever the sample's size."""
        moves = lessons @ self.metric
        length = (moves * lessons).sum(1, keepdim=True).clamp_min(1e-12).sqrt()
        return -STEP * moves / length
