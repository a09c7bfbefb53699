"""A memory of normal prototypes that encodings are looked up in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from latent_common.errors import UserError

TINY = 1e-12
"""Keeps divisions finite; far smaller than any weight that matters."""


class PrototypeMemory(nn.Module):
    """Learned prototypes, addressed by cosine: a token becomes a sparse mixture of the most similar ones.

    From Gong et al. 2019, "Memorizing Normality to Detect Anomaly". The memory is empty, with all prototypes
    0, until :meth:`start_from` fills it or prototypes are loaded.

    :param places: 1 for one memory that all tokens share, else one memory for each of so many tokens.
    :param items: prototypes in each memory.
    :param width: numbers in a token, and in a prototype.
    :param shrinkage: weights up to so many times the uniform one, ``1 / items``, become 0.
    :param temperature: what cosines are divided by: the lower, the fewer prototypes make up a token.
    """

    def __init__(self, places: int, items: int, width: int, shrinkage: float, temperature: float) -> None:
        super().__init__()
        if items < 2:
            raise UserError(
                f"autoencoder.items={items} must be at least 2: one prototype tells nothing apart"
            )
        if not 0 <= shrinkage < items:
            raise UserError(
                f"autoencoder.shrinkage={shrinkage:g} must lie from 0 to below autoencoder.items={items}: "
                "weights below so many times 1 / items are dropped; 1 to 3 is usual"
            )
        if not temperature > 0:
            raise UserError(f"autoencoder.temperature={temperature:g} must be above 0, for example 0.1")
        self.places, self.items = places, items
        self.shrinkage, self.temperature = shrinkage, temperature
        self.prototypes = nn.Parameter(torch.zeros(places, items, width))
        self.empty = True

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Look up ``tokens (B, T, C)``.

        :returns: mixtures of prototypes ``(B, T, C)``, and their weights ``(B, T, items)``, at least 0 and of
            sum 1.
        """
        weights = self.address(tokens)
        # A shared memory is expanded to one for every token.
        return torch.einsum("btn,tnc->btc", weights, self._for_each(tokens)), weights

    def address(self, tokens: Tensor) -> Tensor:
        """The weights ``(B, T, items)`` of the prototypes in the mixtures for ``tokens (B, T, C)``."""
        directions = normalize(self._for_each(tokens), dim=2)
        cosines = torch.einsum("btc,tnc->btn", normalize(tokens, dim=2), directions)
        return shrink((cosines / self.temperature).softmax(2), self.shrinkage / self.items)

    @torch.no_grad()
    def start_from(self, tokens: Tensor, generator: torch.Generator) -> None:
        """Use tokens ``(B, T, C)`` of real images as prototypes, with a little noise so that all differ."""
        pool = tokens.transpose(0, 1) if self.places > 1 else tokens.flatten(0, 1)[None]  # (places, n, C)
        draws = torch.rand(self.places, pool.shape[1], generator=generator)
        order = draws.argsort(1).repeat(1, -(-self.items // pool.shape[1]))[:, : self.items].to(pool.device)
        chosen = pool.gather(1, order[:, :, None].expand(-1, -1, pool.shape[2]))
        noise = torch.randn(chosen.shape, generator=generator).to(chosen)
        self.prototypes.copy_(chosen + 0.05 * pool.std(correction=0) * noise)
        self.empty = False

    def _load_from_state_dict(self, *arguments: Any, **more: Any) -> None:
        super()._load_from_state_dict(*arguments, **more)
        # Kept on the host: a step that asked the device would have to wait for it.
        self.empty = not bool(self.prototypes.any())

    def _for_each(self, tokens: Tensor) -> Tensor:
        """The prototypes of every token's memory, ``(T, items, C)``."""
        return self.prototypes.expand(tokens.shape[1], -1, -1)


def shrink(weights: Tensor, threshold: float) -> Tensor:
    """Weights ``(..., items)`` of sum 1, with those up to ``threshold`` set to 0 and the rest rescaled.

    A mixture of many prototypes with small weights could reconstruct anything, anomalies too. It is written
    with a ReLU so that gradients pass. Where every weight is below the threshold, the largest alone is kept.
    """
    above = (weights - threshold).relu()
    kept = above * weights / (above + TINY)
    total = kept.sum(-1, keepdim=True)
    largest = torch.nn.functional.one_hot(weights.argmax(-1), weights.shape[-1]).to(weights)
    return torch.where(total > 0, kept / total.clamp_min(TINY), largest)


def addressing_entropy(weights: Tensor) -> Tensor:
    """The mean entropy of weights ``(B, T, items)`` in nats: 0 if each token is a single prototype."""
    return -(weights * weights.clamp_min(TINY).log()).sum(-1).mean()
