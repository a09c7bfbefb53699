"""Patch discriminators, with instance noise and a weight that keep them from winning or giving up.

Left alone, a discriminator soon tells everything apart and has nothing more to teach, or never finds out
what to look for. So noise is added to all that it reads: more while it is right too often, less while it is
wrong too often. And its gradient gets weight only as far as it is better than guessing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

GUESSING, FULL_WEIGHT, TARGET_ACCURACY = 0.5, 0.65, 0.75
"""Accuracies: from the first to the second the weight of a discriminator rises from 0 to 1; the instance
noise is adapted so that the third is kept."""

MIN_NOISE, INITIAL_NOISE, MAX_NOISE = 0.02, 0.1, 5.0
"""Standard deviations of the instance noise, for images and maps in [0, 1]. There always is some: masks are
exactly 0 or 1 and predicted maps never are, which should not be all there is to learn."""

NOISE_RATE = 0.3
"""At every step the noise grows by the exponential of this times the accuracy above the target."""

MOMENTUM = 0.9
"""Of the moving average of the accuracy: about the last ten steps decide."""


class Discriminator(nn.Module):
    """Logits for every patch of 22 × 22 pixels: above 0 if it is real, below if a network made it.

    Its layers have spectral norm 1, which bounds how fast a logit can change with the input.
    """

    accuracy: Tensor
    """``()``: the moving average of its accuracy."""
    instance_noise: Tensor
    """``()``: the standard deviation of the noise that is added to all it reads."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for wide in (width, 2 * width, 4 * width):
            layers += [spectral_norm(nn.Conv2d(before, wide, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
            before = wide
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(before, 1, 1)))
        self.register_buffer("accuracy", torch.tensor(GUESSING))
        self.register_buffer("instance_noise", torch.tensor(INITIAL_NOISE))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``(B, 1, H / 8, W / 8)`` of ``(B, C, H, W)``."""
        logits: Tensor = self.layers(inputs)
        return logits

    def loss(self, real: Tensor, made: Tensor) -> Tensor:
        """What to minimise to tell ``real (B, C, H, W)`` from ``made``; adapts accuracy and instance noise.

        The noise is in both already, see :meth:`with_instance_noise`.
        """
        of_real, of_made = self(torch.cat([real, made])).split([len(real), len(made)])
        with torch.no_grad():
            right = ((of_real > 0).float().mean() + (of_made < 0).float().mean()) / 2
            self.accuracy.lerp_(right, 1 - MOMENTUM)
            growth = (NOISE_RATE * (self.accuracy - TARGET_ACCURACY)).exp()
            self.instance_noise.mul_(growth).clamp_(MIN_NOISE, MAX_NOISE)
        return functional.softplus(-of_real).mean() + functional.softplus(of_made).mean()

    @property
    def weight(self) -> Tensor:
        """``()`` in [0, 1]: how strongly its gradient counts, by how far it is better than guessing."""
        return ((self.accuracy - GUESSING) / (FULL_WEIGHT - GUESSING)).clamp(0, 1)

    def with_instance_noise(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Images or maps ``(B, C, H, W)`` with instance noise."""
        # There is much of it: drawn on the device, from a seed that the generator on the CPU decides.
        seed = int(torch.randint(2**62, (), generator=generator))
        own = torch.Generator(clean.device).manual_seed(seed)
        noise = torch.randn(clean.shape, generator=own, device=clean.device, dtype=clean.dtype)
        return clean + self.instance_noise * noise


def adversarial_loss(
    output: Tensor, loss: Tensor, logits_of: Callable[[Tensor], Tensor], weight: Tensor
) -> Tensor:
    """What to add to ``loss`` so that ``output`` moves to where a discriminator's logits rise as well.

    Only its gradient has a meaning: it is ``weight ()`` times as long as that of ``loss``, whatever the
    scales of both.

    :param logits_of: from ``output`` to the logits.
    """
    (own,) = torch.autograd.grad(loss, output, retain_graph=True)
    leaf = output.detach().requires_grad_()
    (rising,) = torch.autograd.grad(logits_of(leaf).mean(), leaf)
    scale = weight * own.norm() / rising.norm().clamp_min(1e-12)
    return -(output * (scale * rising)).sum()
