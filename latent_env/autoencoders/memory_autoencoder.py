"""Autoencoders of four forms on one network: plain, variational, with a memory, and with both."""

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
"""Beyond these a variance is as good as none, or as the whole prior; unbounded, its exponential overflows."""

FIRST_LOG_VARIANCE = -4.0
"""A variational encoder begins nearly sure of itself, or the decoder first learns to ignore it."""


@dataclass(frozen=True)
class Encoding:
    """What the encoder says of a batch while it learns."""

    mean: Tensor
    """``(B, *latent_shape)``"""
    log_variance: Tensor | None
    """The same shape; None where the form isn't variational."""

    def divergence(self) -> Tensor:
        """KL divergence from the prior N(0, 1) in nats, ``(B,)``, summed over the latent."""
        assert self.log_variance is not None
        terms = self.mean.square() + self.log_variance.exp() - 1 - self.log_variance
        return terms.flatten(1).sum(1) / 2


class MemoryAutoencoder(ConvAutoencoder):
    """Images ``(B, C, size, size)`` in [0, 1] to a latent, and back through what the memory knows.

    The latent is the mean of the encoding, before the memory: ``encode`` is deterministic, ``decode`` reads
    the memory. So a change Δz of the latent is looked up like any encoding, and the error of
    ``decode(encode(x))`` says how far ``x`` is from what the memory knows.

    :param variational: encodings are distributions, pulled towards N(0, 1).
    :param items: prototypes in the memory; 0 for no memory.
    :param heads: pieces that a flat latent is looked up in, each in a memory of its own: mixtures of pieces
        can make up more than mixtures of whole images, anomalies among it.
    :param shared: one memory for all places of a spatial latent, else one for each.
    :param join: ``concatenate``: the decoder gets the encoding and what was retrieved for it; ``average``:
        their mean, so that it can't do without the memory; ``replace``: only what was retrieved.
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
        spread = self.log_variance(features).float()
        return Encoding(mean, spread.clamp(LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE))

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents ``(B, *latent_shape)`` to images ``(B, C, H, W)`` in [0, 1], by way of the memory."""
        return self.decode_with_weights(latents)[0]

    def decode_with_weights(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same, with the memory's weights ``(B, T, items)``; None without a memory.

        An empty memory answers with what it is asked, so that encoder and decoder can learn before it.
        """
        if self.memory is None:
            return super().decode(latents), None
        if self.memory.empty:
            return super().decode(self._joined(latents, latents)), None
        with full_precision(latents.device):  # what is far and what is near differs in the last digits
            retrieved, weights = self.memory(self._queries(latents.float()))
        known = self._as_latents(retrieved)
        return super().decode(self._joined(latents, known)), weights

    @property
    def awaits_memory(self) -> bool:
        """Whether there is a memory, and nothing in it yet."""
        return self.memory is not None and self.memory.empty

    @torch.no_grad()
    def memory_weights(self, images: Tensor) -> Tensor:
        """The weights ``(B, T, items)`` with which the memory answers to images ``(B, C, H, W)`` in [0,
        1].
        """
        assert self.memory is not None
        weights: Tensor = self.memory.address(self._queries(self.encode(images)))
        return weights

    @torch.no_grad()
    def remember(self, images: Tensor, generator: torch.Generator) -> None:
        """Fill the memory with what the encoder makes of ``images (N, C, H, W)`` uint8 now."""
        assert self.memory is not None
        parts = images.split(images_at_once(self.size))
        tokens = torch.cat([self._queries(self.encode(part.float() / 255)) for part in parts])
        self.memory.start_from(tokens, generator)

    def regularisers(self, encoding: Encoding, weights: Tensor | None) -> dict[str, Tensor]:
        """What the form adds to the reconstruction's losses, unweighted: scalars.

        ``kl`` in nats a pixel value, so that its weight means the same for all sizes; ``entropy`` in nats.
        """
        found = {}
        if encoding.log_variance is not None:
            found["kl"] = encoding.divergence().mean() / (self.channels * self.size**2)
        if weights is not None:
            found["entropy"] = addressing_entropy(weights)
        return found

    def _joined(self, latents: Tensor, known: Tensor) -> Tensor:
        """What the decoder gets of latents and of what was ``known`` of them, both ``(B, *latent_shape)``."""
        if self.join == "concatenate":
            return torch.cat([latents, known], 1)
        return (latents + known) / 2 if self.join == "average" else known

    def _queries(self, latents: Tensor) -> Tensor:
        """What is looked up for latents ``(B, *latent_shape)``: their tokens, or pieces, ``(B, T, C)``."""
        return as_tokens(latents) if latents.ndim == 4 else latents.unflatten(1, (self.heads, -1))

    def _as_latents(self, tokens: Tensor) -> Tensor:
        """Tokens or pieces ``(B, T, C)`` as ``(B, *latent_shape)``."""
        if len(self.latent_shape) == 1:
            return tokens.flatten(1)
        return tokens.transpose(1, 2).reshape(len(tokens), *self.latent_shape)

    def _variance_head(self) -> nn.Module:
        """A layer like the one that makes the mean; it begins with the same small variance everywhere."""
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
        """The decoder's first layer, for encodings and what was retrieved side by side."""
        if isinstance(first, nn.Linear):
            return nn.Linear(2 * self.latent_size, first.out_features)
        assert isinstance(first, nn.Conv2d)
        return nn.Conv2d(2 * self.latent_size, first.out_channels, 1)


def as_memory_autoencoder(model: object) -> MemoryAutoencoder | None:
    """The model, where it is a memory autoencoder; None for any other."""
    return model if isinstance(model, MemoryAutoencoder) else None
