"""One stream of random numbers for each world, drawn for a whole batch at once.

World ``i`` of a batch must draw what a single world with the same seed draws, on any device and whatever the
other worlds do. So there is no generator with a hidden state: a number is a hash (SplitMix64) of the world's
seed, its episode, its step and the number's position in the draw.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """The logical right shift of int64 ``x``; PyTorch has only the arithmetic one."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


_MOST = (1 << 24) - 1


def _as_uniform(bits: Tensor) -> Tensor:
    """Numbers in (0, 1) from integers of 24 bits."""
    return (bits.to(torch.float32) + 0.5) * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


class Streams:
    """The random streams of N worlds: their seeds, episodes and steps, each ``(N,)`` int64."""

    def __init__(self, num_worlds: int, device: torch.device) -> None:
        self.seeds = torch.zeros(num_worlds, dtype=torch.int64, device=device)
        self.episodes = torch.zeros_like(self.seeds)
        self.steps = torch.zeros_like(self.seeds)

    def _bits(self, count: int, purpose: int) -> Tensor:
        """``(N, count)`` random int64."""
        key = _mix(_mix(_mix(self.seeds) + self.episodes) + self.steps)
        places = torch.arange(count, device=key.device) + (purpose << 32)
        return _mix(_mix(key)[:, None] + _mix(places)[None])

    def _uniform(self, count: int, purpose: int) -> Tensor:
        """``(N, count)`` numbers in (0, 1)."""
        return _as_uniform(_shift(self._bits(count, purpose), 40))

    def integers(self, upper: int) -> Tensor:
        """One integer from 0 to ``upper - 1`` a world, ``(N,)``."""
        return (self._uniform(1, purpose=1)[:, 0] * upper).long().clamp_max(upper - 1)

    def uniform(self) -> Tensor:
        """One number in (0, 1) a world, ``(N,)``."""
        return self._uniform(1, purpose=3)[:, 0]

    def episode_uniform(self) -> Tensor:
        """One number in (0, 1) a world, ``(N,)``, drawn at the start of an episode for all of it."""
        return self._uniform(1, purpose=4)[:, 0]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers ``(N, *shape)``."""
        count = math.prod(shape)
        # Box–Muller: two uniform numbers of 24 bits make two normal ones.
        bits = self._bits(-(-count // 2), purpose=2)
        radius = (-2 * _as_uniform(_shift(bits, 40)).log()).sqrt()
        angle = 2 * math.pi * _as_uniform((bits >> 16) & _MOST)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count].reshape(-1, *shape)
