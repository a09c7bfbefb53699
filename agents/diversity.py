"""Statistics of a generated set: its coverage, its duplicates, and in how many directions it varies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from agents.rollout import Augmented
from detectors.blocks.tokens import as_tokens
from latent_common.image_source import evenly_spaced
from latent_common.projection import random_projection
from latent_env.shell import ANOMALY

MOST_SAMPLES = 4096
"""Of larger sets, so many evenly spaced samples are measured."""

MOST_DIMENSIONS = 64
"""Changes Δz with more dimensions are projected to so many, always by the same random directions."""

MOST_TOKEN_DIMENSIONS = 8
"""Changes of a token are projected to so many: in more dimensions no two directions are near each other."""

PROBES = 512
SHORTEST, LONGEST = 1.0, 3.0
"""How far a probe moves its token, in inner radii: from the least anomalous change on."""

DUPLICATE = 0.1
"""Changes nearer to each other than this, in inner radii, are duplicates."""

BATCH = 256


def describe_set(augmented: Augmented, inner: float) -> dict[str, float]:
    """``coverage``, ``duplicates`` and ``effective_rank`` of a set's anomalies.

    ``inner`` is the shell's inner radius. All three depend on the number of samples, so compare sets of equal
    size. A set without anomalies has 0 everywhere.
    """
    anomalies = torch.nonzero(augmented.labels == ANOMALY).flatten()
    delta = augmented.delta[evenly_spaced(anomalies, MOST_SAMPLES)].float()
    if not len(delta):
        return {"coverage": 0.0, "duplicates": 0.0, "effective_rank": 0.0}
    rows = delta.flatten(1)
    projected = project(rows, MOST_DIMENSIONS)
    return {
        "coverage": coverage(delta, inner),
        "duplicates": duplicates(rows, projected, inner),
        "effective_rank": effective_rank(projected),
    }


def coverage(delta: Tensor, inner: float) -> float:
    """How near the changes ``delta (n, *latent_shape)`` come to any local anomaly, from 0 to 1.

    A probe is a fixed local anomaly: one random token moved in a random direction by 1 to 3 inner radii. An
    unchanged token is as far from the probe as the probe is long. Coverage is the share of that distance by
    which the nearest sample is nearer, on average over the probes. So a set that changes nothing has 0, one
    that holds every probe has 1, and more samples never lower it. Only the probe's token of a sample counts.
    """
    tokens = project(as_tokens(delta), MOST_TOKEN_DIMENSIONS)  # (n, T, c)
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(tokens.shape[1], (PROBES,), generator=generator)
    directions = torch.randn(PROBES, tokens.shape[2], generator=generator)
    lengths = inner * (SHORTEST + (LONGEST - SHORTEST) * torch.rand(PROBES, generator=generator))
    probes = lengths[:, None] * directions / directions.norm(dim=1, keepdim=True)
    nearest = torch.stack(
        [(tokens[:, place] - probe).norm(dim=1).amin() for place, probe in zip(places, probes, strict=True)]
    )
    return float((1 - nearest / lengths).clamp_min(0).mean())


def duplicates(rows: Tensor, projected: Tensor, inner: float) -> float:
    """The share of ``rows (n, d)`` with another one nearer than 0.1 inner radii.

    The nearest one is found by the ``projected (n, s)`` rows, but the distance to it is exact: no sample is
    falsely called a duplicate.
    """
    if len(rows) < 2:
        return 0.0
    found = 0
    for start in range(0, len(rows), BATCH):
        apart = torch.cdist(projected[start : start + BATCH].double(), projected.double())
        own = torch.arange(len(apart))
        apart[own, start + own] = math.inf
        nearest = (rows[start : start + BATCH] - rows[apart.argmin(1)]).norm(dim=1)
        found += int((nearest < DUPLICATE * inner).sum())
    return found / len(rows)


def effective_rank(rows: Tensor) -> float:
    """In how many directions ``rows (n, s)`` vary: e to the entropy of the shares of their variance."""
    centred = rows.double() - rows.double().mean(0)
    variances = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    if float(variances.sum()) <= 1e-12 * float(rows.double().square().sum()):
        return 0.0  # nothing varies but rounding errors
    shares = variances / variances.sum()
    return float(torch.special.entr(shares).sum().exp())


def project(vectors: Tensor, most: int) -> Tensor:
    """``vectors (n, …, d)`` in at most ``most`` dimensions, with distances kept on average."""
    if vectors.shape[-1] <= most:
        return vectors
    generator = torch.Generator().manual_seed(0)
    directions = random_projection(vectors.shape[-1], most, generator, orthogonal=True)
    return torch.cat([part @ directions for part in vectors.split(BATCH)])
