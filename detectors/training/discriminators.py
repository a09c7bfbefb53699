"""Discriminators, and how they are kept from winning or giving up.

Left alone, a discriminator soon tells everything apart and has nothing more to teach, or never finds out
what to look for. So here it sees through a fog, which gets thicker as long as it is too often right and
thinner as long as it is too often wrong; and it is heeded only as far as it knows something.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

RANDOM_BASELINE, HEEDED, WANTED = 0.5, 0.65, 0.75
"""Accuracies: from the first to the second a discriminator is heeded more and more, the third is what the fog
is for."""

THINNEST, FIRST, THICKEST = 0.02, 0.1, 5.0
"""Deviations of the noise that is the fog, for images and maps in [0, 1]. Some there always is: masks are
exactly 0 or 1 and drawn maps never are, which should not be all there is to learn."""

THICKENING = 0.3
"""How fast the fog changes: by a factor of so many times the accuracy above what is wanted, at every step."""

MEMORY = 0.9
"""How much of the known accuracy stays at every step: the last ten steps or so decide."""


class Critic(nn.Module):
    """Says of every patch of 22 × 22 pixels whether it is real, above 0, or made by a network.

    Its layers have spectral norm 1: a verdict can't change faster than what it is about.
    """

    accuracy: Tensor
    """``()``: the share of right verdicts of late."""
    instance_noise: Tensor
    """``()``: the deviation of the noise that it sees everything through."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for wide in (width, 2 * width, 4 * width):
            layers += [spectral_norm(nn.Conv2d(before, wide, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
            before = wide
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(before, 1, 1)))
        self.register_buffer("accuracy", torch.tensor(RANDOM_BASELINE))
        self.register_buffer("instance_noise", torch.tensor(FIRST))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, seen: Tensor) -> Tensor:
        """Verdicts ``(B, 1, H / 8, W / 8)`` on ``(B, C, H, W)``."""
        verdicts: Tensor = self.layers(seen)
        return verdicts

    def loss(self, real: Tensor, made: Tensor) -> Tensor:
        """What to minimise to tell ``real (B, C, H, W)`` from ``made``; remembers how well that went.

        Both are as they look through the fog.
        """
        of_real, of_made = self(torch.cat([real, made])).split([len(real), len(made)])
        with torch.no_grad():
            right = ((of_real > 0).float().mean() + (of_made < 0).float().mean()) / 2
            self.accuracy.lerp_(right, 1 - MEMORY)
            self.instance_noise.mul_((THICKENING * (self.accuracy - WANTED)).exp()).clamp_(THINNEST, THICKEST)
        return functional.softplus(-of_real).mean() + functional.softplus(of_made).mean()

    @property
    def heeded(self) -> Tensor:
        """``()`` in [0, 1]: how much of its word a network should listen to."""
        return ((self.accuracy - RANDOM_BASELINE) / (HEEDED - RANDOM_BASELINE)).clamp(0, 1)

    def with_instance_noise(self, shown: Tensor, generator: torch.Generator) -> Tensor:
        """How images or maps ``(B, C, H, W)`` look to it."""
        # There is much of it: drawn on the device, from a seed that the generator on the CPU decides.
        seed = int(torch.randint(2**62, (), generator=generator))
        own = torch.Generator(shown.device).manual_seed(seed)
        noise = torch.randn(shown.shape, generator=own, device=shown.device, dtype=shown.dtype)
        return shown + self.instance_noise * noise


def adversarial_loss(
    output: Tensor, loss: Tensor, verdict: Callable[[Tensor], Tensor], strength: Tensor
) -> Tensor:
    """What to add to ``loss`` so that ``output`` moves to where ``verdict`` rises as well.

    Whatever the scales of both: by a gradient that is ``strength ()`` times as long as that of ``loss``. The
    value of what is returned says nothing.
    """
    (wanted,) = torch.autograd.grad(loss, output, retain_graph=True)
    tried = output.detach().requires_grad_()
    (rising,) = torch.autograd.grad(verdict(tried).mean(), tried)
    scale = strength * wanted.norm() / rising.norm().clamp_min(1e-12)
    return -(output * (scale * rising)).sum()
