"""The forward process: how an image turns into noise, level by level.

At ``time`` t from 0 (clean) to 1 (noise) a state is ``x_t = √(1 − σ²) x₀ + σ ε`` with ``ε ~ N(0, 1)``. The
*amount* of noise σ(t) is all that two schedules differ in: their trajectories pass through the same points at
another pace.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latent_common.errors import UserError

SCHEDULES = ("cosine", "linear")
SLOWEST, FASTEST = 0.1, 20.0
"""The linear schedule's noise rates at times 0 and 1: 1e-4 to 0.02 a step, of a thousand."""


class ForwardProcess:
    """A schedule of noise.

    - ``cosine``: σ = sin(½πt): equal times are equal parts of the way, a quarter of a circle.
    - ``linear``: the rate of noise grows linearly, ``σ² = 1 − exp(−(b₀ t + ½ (b₁ − b₀) t²))``, as in the
      first diffusion models: most of the way is gone by half of the time.
    """

    def __init__(self, schedule: str) -> None:
        if schedule not in SCHEDULES:
            raise UserError(f"schedule={schedule!r} is unknown: choose {' or '.join(SCHEDULES)}")
        self.schedule = schedule

    def amount(self, times: Tensor) -> Tensor:
        """σ at ``times`` of any shape, from 0 to (nearly) 1."""
        if self.schedule == "cosine":
            return torch.sin(times * (math.pi / 2))
        gone = SLOWEST * times + (FASTEST - SLOWEST) / 2 * times.square()
        return (-torch.expm1(-gone)).sqrt()

    def noisy(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """The states at ``times (N,)`` of images ``clean (N, *shape)`` on their way to ``noise``."""
        return mixed(clean, noise, self.amount(times))


def mixed(clean: Tensor, noise: Tensor, amounts: Tensor) -> Tensor:
    """``√(1 − σ²) x₀ + σ ε`` for ``amounts (N,)`` and states ``(N, *shape)``."""
    amounts = amounts.view(-1, *[1] * (clean.ndim - 1))
    return (1 - amounts.square()).clamp_min(0).sqrt() * clean + amounts * noise
