"""Random latents, with a place for every token or flat, and what tests draw them by."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

SPATIAL, FLAT = (6, 5, 5), (6,)

SHAPES = st.one_of(
    st.tuples(st.integers(1, 6)), st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
)
SEEDS = st.integers(0, 2**31)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, shape: tuple[int, ...] = SPATIAL, seed: int = 9) -> Tensor:
    return torch.randn(count, *shape, generator=seeded(seed))
