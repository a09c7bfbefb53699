"""Statistics of a generated set: what it covers, what it says twice, and in how many ways it varies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from agents.rollout import Augmented
from detectors.blocks.tokens import as_tokens
from latent_common.image_source import spread_positions
from latent_env.shell import ANOMALY

MOST_SAMPLES = 4096
"""Of larger sets so many evenly spaced samples are looked at."""

MOST_DIMENSIONS = 64
"""Larger changes Δz are looked at through a fixed random projection to so many dimensions."""

MOST_DIRECTIONS = 8
"""The same for the change of a token: in more dimensions no two directions are near each other."""

PROBES = 512
SHORTEST, LONGEST = 1.0, 3.0
"""How far a probe moves its token, in inner radii: from barely an anomaly on."""

DUPLICATE = 0.1
"""Changes nearer than this, in inner radii, are the same."""

AT_ONCE = 256


def describe_set(augmented: Augmented, inner: float) -> dict[str, float]:
    """``coverage``, ``duplicates`` and ``effective_rank`` of a set's anomalies.

    ``inner`` is the shell's inner radius. All three depend on how many samples there are, so compare
    sets of the same size. A set without anomalies has 0 everywhere.
    """
    anomalies = torch.nonzero(augmented.labels == ANOMALY).flatten()
    delta = augmented.delta[anomalies[spread_positions(len(anomalies), MOST_SAMPLES)]].float()
    if not len(delta):
        return {"coverage": 0.0, "duplicates": 0.0, "effective_rank": 0.0}
    rows = delta.flatten(1)
    sketch = in_parts(rows, projection(rows.shape[1], MOST_DIMENSIONS))
    return {
        "coverage": coverage(delta, inner),
        "duplicates": duplicates(rows, sketch, inner),
        "effective_rank": effective_rank(sketch),
    }


def coverage(delta: Tensor, inner: float) -> float:
    """How near the changes ``delta (n, *latent_shape)`` come to any local anomaly, from 0 to 1.

    A probe moves one random token in a random direction by 1 to 3 inner radii. Leaving that token as it
    is misses the probe by its length; counted is the share of this by which the nearest sample misses
    it less, on average over a fixed set of probes. So a set that changes nothing has 0, one that holds
    every probe has 1, more samples never lower it, and a place that no sample touches adds nothing. What
    else a sample changes is not looked at.
    """
    tokens = as_tokens(delta)
    tokens = in_parts(tokens, projection(tokens.shape[2], MOST_DIRECTIONS))  # (n, T, c)
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(tokens.shape[1], (PROBES,), generator=generator)
    directions = torch.randn(PROBES, tokens.shape[2], generator=generator)
    lengths = inner * (SHORTEST + (LONGEST - SHORTEST) * torch.rand(PROBES, generator=generator))
    probes = lengths[:, None] * directions / directions.norm(dim=1, keepdim=True)
    nearest = torch.stack(
        [(tokens[:, place] - probe).norm(dim=1).amin() for place, probe in zip(places, probes, strict=True)]
    )
    return float((1 - nearest / lengths).clamp_min(0).mean())


def duplicates(rows: Tensor, sketch: Tensor, inner: float) -> float:
    """The share of ``rows (n, d)`` with another one nearer than 0.1 inner radii.

    Which one is nearest is looked up in ``sketch (n, s)``, the distance to it is exact: no sample is
    called a duplicate that is none.
    """
    if len(rows) < 2:
        return 0.0
    found = 0
    for start in range(0, len(rows), AT_ONCE):
        apart = torch.cdist(sketch[start : start + AT_ONCE].double(), sketch.double())
        own = torch.arange(len(apart))
        apart[own, start + own] = math.inf
        nearest = (rows[start : start + AT_ONCE] - rows[apart.argmin(1)]).norm(dim=1)
        found += int((nearest < DUPLICATE * inner).sum())
    return found / len(rows)


def effective_rank(sketch: Tensor) -> float:
    """In how many directions rows ``(n, s)`` vary: e to the entropy of the shares of their variance."""
    centred = sketch.double() - sketch.double().mean(0)
    variances = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    if float(variances.sum()) <= 1e-12 * float(sketch.double().square().sum()):
        return 0.0  # nothing varies but rounding errors
    shares = variances / variances.sum()
    return float(torch.special.entr(shares).sum().exp())


def projection(dimensions: int, most: int) -> Tensor | None:
    """``(d, most)``: random orthogonal directions, scaled to keep lengths on average; None if few already."""
    if dimensions <= most:
        return None
    drawn = torch.randn((dimensions, most), generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(drawn).Q * math.sqrt(dimensions / most)


def in_parts(vectors: Tensor, directions: Tensor | None) -> Tensor:
    """``vectors (n, …, d)`` times ``directions (d, s)``, a part at a time; as they are without any."""
    if directions is None:
        return vectors
    return torch.cat([part @ directions for part in vectors.split(AT_ONCE)])
