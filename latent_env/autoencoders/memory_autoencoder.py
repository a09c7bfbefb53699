"""Memory autoencoders: one network, plain or variational, with or without a memory of prototypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detectors.blocks.tokens import as_tokens
from latent_common.errors import UserError
from latent_common.image_source import images_at_once
from latent_common.precision import full_precision
from latent_env.autoencoders.conv import ConvAutoencoder
from latent_env.autoencoders.prototype_memory import PrototypeMemory, addressing_entropy

JOINS = ("average", "concatenate", "replace")

LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE = -10.0, 4.0
"""Log variances are clamped to these: without bounds the exponential overflows."""

FIRST_LOG_VARIANCE = -4.0
"""A variational encoder begins with small variances, or the decoder first learns to ignore it."""


@dataclass(frozen=True)
class Encoding:
    """The encodings of a batch, as distributions where the autoencoder is variational."""

    mean: Tensor
    """``(B, *latent_shape)``"""
    log_variance: Tensor | None
    """``(B, *latent_shape)``; None if the autoencoder isn't variational."""

    def divergence(self) -> Tensor:
        """KL divergence from the prior N(0, 1) in nats, ``(B,)``, summed over the latent."""
        assert self.log_variance is not None
        terms = self.mean.square() + self.log_variance.exp() - 1 - self.log_variance
        return terms.flatten(1).sum(1) / 2


class MemoryAutoencoder(ConvAutoencoder):
    """Images ``(B, C, size, size)`` in [0, 1] to a latent, and back by way of a memory of prototypes.

    The latent is the mean of the encoding, before the memory is read: ``encode`` is deterministic, ``decode``
    reads the memory. So a change Δz of the latent is looked up like any encoding, and the error of
    ``decode(encode(x))`` measures how far ``x`` is from the prototypes.

    :param variational: encodings are distributions, pulled towards N(0, 1).
    :param items: prototypes in the memory; 0 for no memory.
    :param heads: so many pieces of a flat latent are looked up, each in a memory of its own. Mixtures of
        pieces can reconstruct more than mixtures of whole images, anomalies among it.
    :param shared: one memory for all positions of a spatial latent, else one for each.
    :param join: what the decoder gets: ``concatenate`` the encoding and the retrieved mixture, ``average``
        their mean, so that it can't do without the memory, or ``replace`` the retrieved mixture alone.
    :param shrinkage: passed on to :class:`~latent_env.autoencoders.prototype_memory.PrototypeMemory`.
    :param temperature: likewise.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        latent: str,
        latent_size: int,
        width: int = 32,
        variational: bool = False,
        items: int = 0,
        heads: int = 1,
        shared: bool = True,
        join: str = "average",
        shrinkage: float = 1.0,
        temperature: float = 0.1,
    ) -> None:
        super().__init__(channels, size, latent, latent_size, width)
        if join not in JOINS:
            raise UserError(f"autoencoder.join={join} is unknown: choose one of {', '.join(JOINS)}")
        if items < 0:
            raise UserError(f"autoencoder.items={items} must be at least 2, or 0 for no memory")
        if heads < 1 or (latent == "flat" and latent_size % heads):
            raise UserError(
                f"autoencoder.heads={heads} must divide autoencoder.latent_size={latent_size}: each gets as "
                "many of its numbers"
            )
        self.variational, self.items, self.heads, self.shared = variational, items, heads, shared
        self.join, self.shrinkage, self.temperature = join, shrinkage, temperature
        self.log_variance = self._variance_head() if variational else None
        self.memory: PrototypeMemory | None = None
        if items:
            if latent == "spatial":
                places, wide = 1 if shared else self.latent_shape[1] * self.latent_shape[2], latent_size
            else:
                places, wide = heads, latent_size // heads
            self.memory = PrototypeMemory(places, items, wide, shrinkage, temperature)
            if join == "concatenate":
                self.decoder[0] = self._twice_as_wide(self.decoder[0])
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build this architecture again."""
        names = ("variational", "items", "heads", "shared", "join", "shrinkage", "temperature")
        return {**super().hyperparameters(), **{name: getattr(self, name) for name in names}}

    def encoding(self, images: Tensor) -> Encoding:
        """Mean and variance of the encodings of images ``(B, C, H, W)`` in [0, 1]."""
        features = self.encoder[:-1](images * 2 - 1)
        mean = self.encoder[-1](features).float()
        if self.log_variance is None:
            return Encoding(mean, None)
        log_variance = self.log_variance(features).float()
        return Encoding(mean, log_variance.clamp(LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE))

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents ``(B, *latent_shape)`` to images ``(B, C, H, W)`` in [0, 1], by way of the memory."""
        return self.decode_with_weights(latents)[0]

    def decode_with_weights(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images ``(B, C, H, W)`` in [0, 1], and the memory's weights ``(B, T, items)`` if there is one.

        An empty memory returns the latents themselves, so that encoder and decoder can learn before it.
        """
        if self.memory is None:
            return super().decode(latents), None
        if self.memory.empty:
            return super().decode(self._joined(latents, latents)), None
        with full_precision(latents.device):  # small differences decide which prototypes are near
            retrieved, weights = self.memory(self._queries(latents.float()))
        return super().decode(self._joined(latents, self._as_latents(retrieved))), weights

    @property
    def awaits_memory(self) -> bool:
        """Whether there is a memory that is still empty."""
        return self.memory is not None and self.memory.empty

    @torch.no_grad()
    def memory_weights(self, images: Tensor) -> Tensor:
        """The memory's weights ``(B, T, items)`` for images ``(B, C, H, W)`` in [0, 1]."""
        assert self.memory is not None
        weights: Tensor = self.memory.address(self._queries(self.encode(images)))
        return weights

    @torch.no_grad()
    def fill_memory(self, images: Tensor, generator: torch.Generator) -> None:
        """Fill the memory with encodings of ``images (N, C, H, W)`` uint8."""
        assert self.memory is not None
        parts = images.split(images_at_once(self.size))
        tokens = torch.cat([self._queries(self.encode(part.float() / 255)) for part in parts])
        self.memory.start_from(tokens, generator)

    def regularisers(self, encoding: Encoding, weights: Tensor | None) -> dict[str, Tensor]:
        """The losses beside those of the reconstruction, unweighted scalars.

        :returns: ``kl`` if variational, in nats a pixel value, so that its weight means the same for all
            sizes; ``entropy`` of the memory's weights in nats, if there is a memory.
        """
        found = {}
        if encoding.log_variance is not None:
            found["kl"] = encoding.divergence().mean() / (self.channels * self.size**2)
        if weights is not None:
            found["entropy"] = addressing_entropy(weights)
        return found

    def _joined(self, latents: Tensor, retrieved: Tensor) -> Tensor:
        """What the decoder gets of latents and of the mixtures ``retrieved``, both ``(B, *latent_shape)``."""
        if self.join == "concatenate":
            return torch.cat([latents, retrieved], 1)
        return (latents + retrieved) / 2 if self.join == "average" else retrieved

    def _queries(self, latents: Tensor) -> Tensor:
        """What is looked up for latents ``(B, *latent_shape)``: their tokens, or pieces, ``(B, T, C)``."""
        return as_tokens(latents) if latents.ndim == 4 else latents.unflatten(1, (self.heads, -1))

    def _as_latents(self, tokens: Tensor) -> Tensor:
        """Tokens or pieces ``(B, T, C)`` as ``(B, *latent_shape)``."""
        if len(self.latent_shape) == 1:
            return tokens.flatten(1)
        return tokens.transpose(1, 2).unflatten(2, self.latent_shape[1:])

    def _variance_head(self) -> nn.Module:
        """A layer for log variances, initialised to the same small variance everywhere."""
        mean = self.encoder[-1]
        head: nn.Linear | nn.Conv2d
        if isinstance(mean, nn.Linear):
            head = nn.Linear(mean.in_features, mean.out_features)
        else:
            assert isinstance(mean, nn.Conv2d)
            head = nn.Conv2d(mean.in_channels, mean.out_channels, 1)
        assert head.bias is not None
        nn.init.zeros_(head.weight)
        nn.init.constant_(head.bias, FIRST_LOG_VARIANCE)
        return head

    def _twice_as_wide(self, first: nn.Module) -> nn.Module:
        """A first layer of the decoder for encodings and retrieved mixtures side by side."""
        if isinstance(first, nn.Linear):
            return nn.Linear(2 * self.latent_size, first.out_features)
        assert isinstance(first, nn.Conv2d)
        return nn.Conv2d(2 * self.latent_size, first.out_channels, 1)


def as_memory_autoencoder(model: object) -> MemoryAutoencoder | None:
    """The model, where it is a memory autoencoder; None for any other."""
    return model if isinstance(model, MemoryAutoencoder) else None
