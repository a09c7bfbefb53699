"""How much samples are like labelled anomalies: as a detector sees them, and as they look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from detectors.blocks.last_layer import Headed, Reading, at_places, patches

LEAST_SPREAD = 0.1
"""Of the features' mean deviation: what hardly varies among known images counts no more than that."""

AROUND = 2
"""Tokens around an anomaly that its surroundings reach."""

LEAST_DESCRIPTORS = 4
"""Fewer anomalies don't say how much anomalies differ in how they look."""


class Descriptor(NamedTuple):
    """What anomalies look like in latents, ``(B, …)`` each."""

    inside: Tensor
    """``(B, 2 C)``: the mean of their tokens, and the deviation."""
    contrast: Tensor
    """``(B, C)``: how the mean differs from that of the tokens around."""
    place: Tensor
    """``(B, 3)``: the middle's row and column in [-1, 1], and the logarithm of the number of tokens."""


def describe(latents: Tensor, marks: Tensor) -> Descriptor:
    """What the tokens marked in ``marks (B, 1, h, w)`` look like in ``latents (B, C, h, w)``.

    Where none is, all numbers are about 0.
    """
    inside = marks.to(latents)
    around = functional.max_pool2d(inside, 2 * AROUND + 1, stride=1, padding=AROUND) - inside
    mean, outside = _mean(latents, inside), _mean(latents, around)
    variance = _mean((latents - mean[:, :, None, None]).square(), inside)
    rows, columns = (
        torch.linspace(-1, 1, size, device=latents.device, dtype=latents.dtype) for size in latents.shape[2:]
    )
    middle = [_mean(rows[:, None].expand_as(inside), inside), _mean(columns.expand_as(inside), inside)]
    size = inside.flatten(1).sum(1, keepdim=True).clamp_min(1).log()
    return Descriptor(
        torch.cat([mean, variance.clamp_min(1e-6).sqrt()], 1), mean - outside, torch.cat([*middle, size], 1)
    )


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """The mean of ``values (B, C, h, w)``, ``(B, C)``, under ``weights (B, 1, h, w)``."""
    return (values * weights).sum((2, 3)) / weights.sum((2, 3)).clamp_min(1e-6)


class AnomalySimilarity:
    """Known anomalies as points, and samples beside them.

    An image is what a detector's last layer reads where it is most suspicious and, where masks are known,
    what the anomaly looks like in latents, and where it is. A detector's features say how suspicious
    something is, and little of what it is: noise and a lesion can be the same to them. All parts weigh the
    same: each is in units of its features' deviations, and of the usual distance between known images.
    """

    def __init__(
        self, detector: Headed, reading: Reading, anomalous: Tensor, descriptors: Descriptor | None = None
    ) -> None:
        """What ``detector`` reads of R known images, which A of them are anomalies, ``(R,)`` bool, and how
        these look, if that is known.
        """
        if descriptors is not None and len(descriptors.place) < LEAST_DESCRIPTORS:
            descriptors = None
        weight, bias = detector.head()
        self.side, self.head = weight.shape[-1], torch.cat([weight.flatten(), bias.reshape(1)])
        self._top = detector.top
        found = self._suspicious(reading)
        self.units = [_unit(part) for part in (found, *(descriptors or ()))]
        """``(d,)`` of each part."""
        self.anomalies = self._joined([found[anomalous], *(descriptors or ())])
        """``(A, d)``"""

    @property
    def descriptors(self) -> bool:
        """Whether it is known what anomalies look like."""
        return len(self.units) > 1

    def place(self, reading: Reading, descriptors: Descriptor | None = None) -> Tensor:
        """Where each of N samples lies, ``(N, d)``; ``descriptors`` are needed where they are known."""
        return self._joined([self._suspicious(reading), *((descriptors or ()) if self.descriptors else ())])

    def density(self, places: Tensor) -> Tensor:
        """How densely known anomalies lie around ``places (N, d)``, ``(N,)``: 1 is where all of them lie."""
        return closeness(places, self.anomalies).mean(1)

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part / unit for part, unit in zip(parts, self.units, strict=True)], 1)

    def _suspicious(self, reading: Reading) -> Tensor:
        """The mean of what the last layer reads at the places whose logits are highest, ``(B, d)``."""
        rows = patches(reading.features, self.side)
        logits = rows @ self.head + at_places(reading.offset)
        top = logits.topk(self._top(rows.shape[1]), dim=1, sorted=False).indices
        return rows.gather(1, top.unsqueeze(2).expand(-1, -1, rows.shape[2])).mean(1)[:, :-1]


def closeness(places: Tensor, others: Tensor) -> Tensor:
    """How close each of ``places (N, d)`` lies to each of ``others (M, d)``, ``(N, M)``.

    1 is where it lies, 0 is far off.
    """
    return torch.exp(-torch.cdist(places, others).square() / 2)


def _unit(found: Tensor) -> Tensor:
    """What counts as 1 in each feature of ``found (R, d)``, ``(d,)``: nothing, where all are the same."""
    spread = found.std(0, correction=0)
    if float(spread.max()) < 1e-6:
        return torch.full_like(spread, torch.inf)
    spread = spread.clamp_min(float(spread.mean()) * LEAST_SPREAD)
    return spread * torch.pdist(found / spread).median().clamp_min(1e-6)
