"""A published network as an autoencoder of grey or colour images, with latents that it whitens itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detectors.blocks.parts import in_parts
from latent_common.errors import UserError
from latent_common.image_source import LARGEST_IMAGE, ImageSource, evenly_spaced
from latent_common.progress import progress_bar
from latent_env.autoencoders.generative.from_diffusers import empty_diffusers
from latent_env.autoencoders.generative.network import PublishedNetwork
from latent_env.autoencoders.generative.taesd import TaesdNetwork

SMALLEST = 64
"""Published networks have learned from larger images: of smaller ones, they leave a few tokens."""

PIXELS_AT_ONCE = {"cpu": 2**16, "cuda": 2**22}
"""So many pixels go through the network together: on a CPU, more don't fit in its caches."""

MOST_FITTED = 1024
"""Means and scales are found from at most so many evenly spaced images."""

LEAST_VARIANCE = 0.01
"""No channel is scaled as if its variance were below this share of the mean variance."""


class GenerativeAutoencoder(nn.Module):
    """Images ``(B, C, size, size)`` in [0, 1], grey or in colour, to whitened latents and back.

    Latents are ``(B, K, g, g)`` with ``g = size / compression``. One mean and one scale a channel, taken from
    the training images, whiten them, so tokens of different positions can be compared. A grey image is
    encoded as a colour one of three equal channels, and decoded as the mean of them.
    """

    is_generator = True
    means: Tensor
    scales: Tensor

    def __init__(self, network: PublishedNetwork, channels: int, size: int) -> None:
        super().__init__()
        _check_size(size, network.compression)
        # Convolutions are a quarter faster so; the type stubs of PyTorch lack this form of `to`.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network.eval().requires_grad_(False)
        self.channels, self.size = channels, size
        grid = size // network.compression
        self.latent_shape: tuple[int, ...] = (network.latent_channels, grid, grid)
        self.register_buffer("means", torch.zeros(network.latent_channels))
        self.register_buffer("scales", torch.ones(network.latent_channels))

    @property
    def natural_scales(self) -> Tensor:
        """``(K,)``: the standard deviation of every channel before whitening."""
        return self.scales

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments of :meth:`build`."""
        return {"network": self.network.description(), "channels": self.channels, "size": self.size}

    @classmethod
    def build(cls, network: Mapping[str, Any], channels: int, size: int) -> GenerativeAutoencoder:
        """The architecture that :meth:`hyperparameters` describes, with weights to be loaded."""
        with torch.random.fork_rng(devices=[]):  # random weights that nobody sees
            return cls(_described(network), channels, size)

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to whitened latents ``(B, K, g, g)``."""
        return self.whiten(self.raw_latents(images))

    def raw_latents(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to the network's own latents ``(B, K, g, g)``."""
        return self._in_parts(self.network.encode, images.expand(-1, 3, -1, -1)).float()

    def whiten(self, raw: Tensor) -> Tensor:
        """The network's own latents ``(B, K, g, g)``, whitened."""
        return (raw - self.means.view(1, -1, 1, 1)) / self.scales.view(1, -1, 1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Whitened latents ``(B, K, g, g)`` to images ``(B, C, H, W)`` in [0, 1]."""
        raw = latents * self.scales.view(1, -1, 1, 1) + self.means.view(1, -1, 1, 1)
        images = self._in_parts(self.network.decode, raw).float()
        if self.channels == 1:
            images = images.mean(1, keepdim=True)
        return images.clamp(0, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The reconstructions of ``images``, both ``(B, C, H, W)`` in [0, 1]."""
        return self.decode(self.encode(images))

    def _in_parts(self, compute: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        """``compute(values)``, some images at a time."""
        return in_parts(compute, values, max(PIXELS_AT_ONCE[values.device.type] // self.size**2, 1))


def _described(network: Mapping[str, Any]) -> PublishedNetwork:
    """The architecture that :meth:`PublishedNetwork.description` describes."""
    facts = dict(network)
    if facts.pop("source", None) == "taesd":
        return TaesdNetwork(**facts)
    return empty_diffusers(str(facts.get("class")), facts["config"])


def _check_size(size: int, compression: int) -> None:
    """Raise a ``UserError`` for a side of images that the network can't halve to whole tokens."""
    if SMALLEST <= size <= LARGEST_IMAGE and size % compression == 0:
        return
    least, most = -(-SMALLEST // compression) * compression, LARGEST_IMAGE // compression * compression
    below = min(max(size // compression * compression, least), most)
    fitting = sorted({below, min(below + compression, most)} if below <= size else {below})
    raise UserError(
        f"dataset.size={size}: this generator takes multiples of {compression} from {least} to {most}: "
        f"choose dataset.size={' or '.join(map(str, fitting))}"
    )


@torch.no_grad()
def fit_whitening(model: GenerativeAutoencoder, images: ImageSource) -> Tensor | None:
    """Take the means and scales of ``model`` from ``images (N, C, H, W)`` uint8.

    Returns the whitened latents ``(N, K, g, g)`` float16 of all images; None if not all were used.
    """
    chosen = evenly_spaced(images, MOST_FITTED)
    at_once = max(PIXELS_AT_ONCE[chosen.device.type] // model.size**2, 1)
    raw: list[Tensor] = []
    sums = torch.zeros(2, len(model.means), dtype=torch.float64, device=chosen.device)
    with progress_bar("latents", len(chosen)) as bar:
        for part in chosen.split(at_once):
            latents = model.raw_latents(part.float() / 255)
            raw.append(latents.half())
            wide = latents.double()
            sums += torch.stack([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3))])
            bar.update(len(part))
    means, squares = sums / (len(chosen) * model.latent_shape[1] * model.latent_shape[2])
    variances = (squares - means.square()).clamp_min(0)
    least = LEAST_VARIANCE * float(variances.mean()) + 1e-12
    model.means.copy_(means)
    model.scales.copy_(variances.clamp_min(least).sqrt())
    if len(chosen) < len(images):
        return None
    return torch.cat([model.whiten(part.float()).half() for part in raw])
