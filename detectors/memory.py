"""Normal tokens by the place where they were seen, and the nearest of them to new ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectors.images import ImageSource
from detectors.tokens import as_tokens, grid_of

LOOKED_UP_AT_ONCE = 16

NOBODY = -1
"""The owner of a latent that was made of no training image."""


class PlacedMemory(nn.Module):
    """What normal images show at every place.

    A token is compared with those that other images have at its place; what it is compared with must not
    be the image it was made of, or training images would look more normal than any new one.
    """

    tokens: Tensor
    owners: Tensor
    usual: Tensor
    spread: Tensor

    def __init__(self, latent_shape: Sequence[int], size: int) -> None:
        super().__init__()
        rows, columns = grid_of(latent_shape)
        self.register_buffer("tokens", torch.zeros(rows * columns, size, latent_shape[0]))
        self.register_buffer("owners", torch.full((size,), NOBODY))
        self.register_buffer("usual", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    @torch.no_grad()
    def remember(self, latents: ImageSource, owners: Tensor) -> None:
        """Fill it with normal latents ``(N, *latent_shape)``, and which images they are, ``(N,)``."""
        self.tokens.copy_(as_tokens(latents[:].float()).transpose(0, 1))
        self.owners.copy_(owners)
        if len(owners) > 1:
            self.usual.zero_()
            self.spread.fill_(1)
            batches = zip(latents.split(LOOKED_UP_AT_ONCE), self.owners.split(LOOKED_UP_AT_ONCE), strict=True)
            distances = torch.cat([self(part.float(), own)[1] for part, own in batches])
            self.usual.copy_(distances.mean())
            self.spread.copy_(distances.std(correction=0).clamp_min(1e-6))

    def forward(self, latents: Tensor, owners: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What is new about latents ``(B, *latent_shape)`` that were made of the images ``owners (B,)``.

        Returns how each token differs from the nearest one at its place, ``(B, T, C)``, and the length of
        that difference, ``(B, T)``, shifted and scaled as usual for normal images.
        """
        tokens = as_tokens(latents)
        with torch.no_grad():
            parts = tokens.split(LOOKED_UP_AT_ONCE)
            owned = [None] * len(parts) if owners is None else owners.split(LOOKED_UP_AT_ONCE)
            nearest = torch.cat([self._nearest(*pair) for pair in zip(parts, owned, strict=True)])
        difference = tokens - nearest
        length = (difference.square().sum(2) + 1e-12).sqrt()
        return difference, (length - self.usual) / self.spread

    def _nearest(self, tokens: Tensor, owners: Tensor | None) -> Tensor:
        """For tokens ``(B, T, C)`` the nearest ones at the same places, ``(B, T, C)``."""
        by_place = tokens.transpose(0, 1)  # (T, B, C)
        # ‖q − m‖² without ‖q‖², which is the same for all that q is compared with.
        squares = self.tokens.square().sum(2)[:, None]
        distances = torch.baddbmm(squares, by_place, self.tokens.transpose(1, 2), alpha=-2)  # (T, B, M)
        if owners is not None:
            distances.masked_fill_((owners[:, None] == self.owners[None])[None], torch.inf)
        chosen = distances.argmin(2)  # (T, B)
        found = self.tokens.gather(1, chosen.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
        return found.transpose(0, 1)
