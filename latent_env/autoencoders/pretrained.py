"""A frozen pretrained encoder with a trained decoder: whitened features are the latent."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from latent_common.errors import UserError
from latent_common.image_source import ImageSource, evenly_spaced, images_at_once
from latent_common.progress import progress_bar
from latent_env.autoencoders.backbone import AUTOENCODER, Backbone, empty_backbone
from latent_env.autoencoders.conv import Residual

MOST_FITTED, FITTED_AT_ONCE = 1024, 32
"""Principal components are found from the features of at most so many evenly spaced images."""

MOST_KEPT_BYTES = 2**30
"""Features are kept until the components are known if they take no more than this, else computed twice."""

MIN_VARIANCE = 1e-6
"""A component must have at least this share of the first one's variance."""


class PretrainedEncoder(nn.Module):
    """Images to whitened principal components of a backbone's features, ``(B, K, g, g)``.

    The components are those of single tokens, wherever they are: with one mean and one scale a component,
    tokens of different positions can be compared.
    """

    centre: Tensor
    components: Tensor
    deviations: Tensor
    explained: float = float("nan")
    """The share of the features' variance that the components keep; NaN before they are fitted."""

    def __init__(self, backbone: Backbone, channels: int, components: int) -> None:
        super().__init__()
        self.backbone, self.channels, self.size = backbone, channels, backbone.size
        self.latent_shape: tuple[int, ...] = (components, backbone.grid, backbone.grid)
        self.register_buffer("centre", torch.zeros(backbone.features))
        self.register_buffer("components", torch.zeros(components, backbone.features))
        self.register_buffer("deviations", torch.ones(components))

    @property
    def natural_scales(self) -> Tensor:
        """``(K,)``: the components' standard deviations before whitening."""
        return self.deviations

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments of :meth:`build`."""
        backbone = self.backbone
        return {
            "backbone": backbone.description,
            "layers": list(backbone.layers),
            "grid": backbone.seen_grid,
            "tile": backbone.tile,
            "colours": [list(part) for part in backbone.colours],
            "channels": self.channels,
            "size": self.size,
            "components": self.latent_shape[0],
        }

    @classmethod
    def build(
        cls,
        backbone: dict[str, Any],
        layers: list[int],
        grid: int,
        colours: list[list[float]],
        channels: int,
        size: int,
        components: int,
        tile: int | None = None,
    ) -> PretrainedEncoder:
        """The architecture that :meth:`hyperparameters` describes, with weights to be loaded."""
        return cls(empty_backbone(backbone, size, layers, grid, colours, tile), channels, components)

    def whiten(self, features: Tensor) -> Tensor:
        """Features ``(B, F, g, g)`` to latents ``(B, K, g, g)``."""
        projected = functional.conv2d(features, self.components[:, :, None, None])
        centre = (self.components @ self.centre).view(1, -1, 1, 1)
        return (projected - centre) / self.deviations.view(1, -1, 1, 1)

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to latents ``(B, K, g, g)``."""
        return self.whiten(self.backbone(images))


def check_components(backbone: Backbone, components: float, group: str = AUTOENCODER) -> None:
    """Raise a ``UserError`` for a number of components that the backbone can't have."""
    if not components > 0 or (components >= 1 and components % 1):
        raise UserError(f"{group}.components={components:g} must be a whole number, or a share below 1")
    if components > backbone.features:
        raise UserError(
            f"{group}.components={components:g} is more than the backbone's {backbone.features} features"
        )


@torch.no_grad()
def fit_encoder(
    backbone: Backbone, images: ImageSource, channels: int, components: float, group: str = AUTOENCODER
) -> tuple[PretrainedEncoder, Tensor | None]:
    """An encoder with the principal components of ``images (N, C, H, W)`` uint8, and their latents.

    The latents are None if not all images were used, or if their features didn't fit in memory.

    :param components: their number, from 1; or the share of the features' variance to keep, below 1.
    :param group: the group of keys that chose them, for errors.
    """
    check_components(backbone, components, group)
    chosen = evenly_spaced(images, MOST_FITTED)
    size = 2 * backbone.features * backbone.grid**2 * len(chosen)
    keep = len(chosen) == len(images) and size <= MOST_KEPT_BYTES
    kept: list[Tensor] = []
    total = torch.zeros(backbone.features, dtype=torch.float64, device=images.device)
    products = torch.zeros(backbone.features, backbone.features, dtype=torch.float64, device=images.device)
    count = 0
    with progress_bar("features", len(chosen)) as bar:
        for part in chosen.split(min(images_at_once(backbone.size), FITTED_AT_ONCE)):
            features = backbone(part.float() / 255)
            if keep:
                kept.append(features.half())
            tokens = features.transpose(0, 1).flatten(1)  # (F, tokens)
            total += tokens.sum(1)
            products += (tokens @ tokens.T).double()
            count += tokens.shape[1]
            bar.update(len(part))
    mean = total / count
    values, vectors = torch.linalg.eigh(products / count - mean[:, None] * mean)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    if components < 1:
        number = int((values.cumsum(0) < components * values.sum()).sum()) + 1
    else:
        # Few images have fewer directions: whitening one without variance would only amplify rounding errors.
        number = min(int(components), int((values > MIN_VARIANCE * values[0]).sum()))
    directions = vectors[:, :number].T
    # An eigenvector's sign is arbitrary: fix it, so that the same images always give the same one.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    encoder = PretrainedEncoder(backbone, channels, number).to(images.device).requires_grad_(False)
    encoder.centre.copy_(mean)
    encoder.components.copy_(directions * largest.sign())
    encoder.deviations.copy_(values[:number].clamp_min(MIN_VARIANCE * float(values[0]) + 1e-12).sqrt())
    encoder.explained = float(values[:number].sum() / values.sum())
    latents = torch.cat([encoder.whiten(part.float()).half() for part in kept]) if keep else None
    return encoder, latents


class PretrainedAutoencoder(nn.Module):
    """A :class:`PretrainedEncoder`, and a decoder that turns its latents into images."""

    is_generator = False

    def __init__(self, encoder: PretrainedEncoder, width: int) -> None:
        super().__init__()
        self.encoder, self.width = encoder, width
        self.latent_shape, self.channels, self.size = encoder.latent_shape, encoder.channels, encoder.size
        self.decoder = make_decoder(encoder.latent_shape, encoder.channels, encoder.size, width)

    @property
    def natural_scales(self) -> Tensor | None:
        """``(K,)``: the components' standard deviations before whitening."""
        return self.encoder.natural_scales

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments of :meth:`build`."""
        return {**self.encoder.hyperparameters(), "width": self.width}

    @classmethod
    def build(cls, width: int, **of_encoder: Any) -> PretrainedAutoencoder:
        """The architecture that :meth:`hyperparameters` describes, with weights to be loaded."""
        return cls(PretrainedEncoder.build(**of_encoder), width)

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to latents ``(B, K, g, g)``."""
        return self.encoder.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(B, K, g, g)`` to images ``(B, C, H, W)`` in [0, 1]."""
        logits: Tensor = self.decoder(latents)
        if logits.shape[2] != self.size:
            logits = functional.interpolate(logits, self.size, mode="bilinear", align_corners=False)
        return torch.sigmoid(logits)

    def forward(self, images: Tensor) -> Tensor:
        """The reconstructions of ``images``, both ``(B, C, H, W)`` in [0, 1]."""
        return self.decode(self.encode(images))


def make_decoder(latent_shape: tuple[int, ...], channels: int, size: int, width: int) -> nn.Sequential:
    """Layers from a grid of tokens to about ``size`` pixels, doubling the grid as often as it takes."""
    components, grid, _ = latent_shape
    doublings = max(round(math.log2(size / grid)), 0)
    wide = width * 4
    layers: list[nn.Module] = [nn.Conv2d(components, wide, 3, padding=1), Residual(wide), Residual(wide)]
    for number in range(doublings):
        # Sub-pixel convolution: works at the small size, so it is the cheap way up on a CPU.
        narrower = max(width * 4 >> (number + 1), 8)
        layers += [nn.Conv2d(wide, narrower * 4, 3, padding=1), nn.PixelShuffle(2), nn.SiLU()]
        wide = narrower
        if number == 0:
            layers.append(Residual(wide))
    layers.append(nn.Conv2d(wide, channels, 3, padding=1))
    # Convolutions are a quarter faster so; the type stubs of PyTorch lack this form of `to`.
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
