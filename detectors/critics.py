"""Discriminators, and how they are kept from winning or giving up.

Left alone, a discriminator soon tells everything apart and has nothing more to teach, or never finds out
what to look for. So here it learns only as long as it isn't far ahead, and is heeded only as far as it knows
something.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

CHANCE, HEEDED, AHEAD, TOO_FAR = 0.5, 0.65, 0.7, 0.85
"""Accuracies: from the first to the second a discriminator is heeded more and more, from the third to the
fourth it learns less and less."""

MEMORY = 0.9
"""How much of the known accuracy stays at every step: the last ten steps or so decide."""


class Critic(nn.Module):
    """Says of every patch of 22 × 22 pixels whether it is real, above 0, or made by a network.

    Its layers have spectral norm 1: a verdict can't change faster than what it is about.
    """

    accuracy: Tensor
    """``()``: the share of right verdicts of late."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for wide in (width, 2 * width, 4 * width):
            layers += [spectral_norm(nn.Conv2d(before, wide, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
            before = wide
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(before, 1, 1)))
        self.register_buffer("accuracy", torch.tensor(CHANCE))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, seen: Tensor) -> Tensor:
        """Verdicts ``(B, 1, H / 8, W / 8)`` on ``(B, C, H, W)``."""
        verdicts: Tensor = self.layers(seen)
        return verdicts

    def loss(self, real: Tensor, made: Tensor) -> Tensor:
        """What to minimise to tell ``real (B, C, H, W)`` from ``made``; remembers how well that went."""
        of_real, of_made = self(torch.cat([real, made])).split([len(real), len(made)])
        with torch.no_grad():
            right = ((of_real > 0).float().mean() + (of_made < 0).float().mean()) / 2
            self.accuracy.lerp_(right, 1 - MEMORY)
        return functional.softplus(-of_real).mean() + functional.softplus(of_made).mean()

    @property
    def heeded(self) -> Tensor:
        """``()`` in [0, 1]: how much of its word a network should listen to."""
        return ((self.accuracy - CHANCE) / (HEEDED - CHANCE)).clamp(0, 1)

    @property
    def eager(self) -> Tensor:
        """``()`` in [0, 1]: how fast it may go on learning."""
        return ((TOO_FAR - self.accuracy) / (TOO_FAR - AHEAD)).clamp(0, 1)


def urge(output: Tensor, loss: Tensor, verdict: Callable[[Tensor], Tensor], strength: Tensor) -> Tensor:
    """What to add to ``loss`` so that ``output`` moves to where ``verdict`` rises as well.

    Whatever the scales of both: by a gradient that is ``strength ()`` times as long as that of ``loss``. The
    value of what is returned says nothing.
    """
    (wanted,) = torch.autograd.grad(loss, output, retain_graph=True)
    tried = output.detach().requires_grad_()
    (rising,) = torch.autograd.grad(verdict(tried).mean(), tried)
    scale = strength * wanted.norm() / rising.norm().clamp_min(1e-12)
    return -(output * (scale * rising)).sum()
