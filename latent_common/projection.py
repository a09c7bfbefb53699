"""Random projections: long vectors in few numbers, with distances kept on average."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def random_projection(
    dimensions: int, kept: int, generator: torch.Generator, orthogonal: bool = False
) -> Tensor:
    """``(dimensions, kept)``: vectors times it keep their lengths and distances on average.

    :param orthogonal: columns at right angles, instead of independent Gaussian numbers.
    """
    drawn = torch.randn((dimensions, kept), generator=generator)
    if orthogonal:
        return torch.linalg.qr(drawn).Q * math.sqrt(dimensions / kept)
    return drawn / math.sqrt(kept)
