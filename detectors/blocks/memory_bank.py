"""Normal tokens by the place where they were seen, and the nearest of them to new ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectors.blocks.tokens import as_tokens, grid_of
from latent_common.image_source import ImageSource

DISTANCES_AT_ONCE, LEAST_AT_ONCE = 2**23, 16
"""So many distances are held at once, those of at least so many latents: fewer would take longer each."""

NOBODY = -1
"""The owner of a latent that was made of no training image."""


class PositionalMemory(nn.Module):
    """What normal images show at every place.

    A token is compared with those that other images have at its place; what it is compared with must not
    be the image it was made of, or training images would look more normal than any new one.
    """

    tokens: Tensor
    owners: Tensor
    location: Tensor
    scale: Tensor
    squares: Tensor

    def __init__(self, latent_shape: Sequence[int], size: int) -> None:
        super().__init__()
        rows, columns = grid_of(latent_shape)
        self.register_buffer("tokens", torch.zeros(rows * columns, size, latent_shape[0]))
        self.register_buffer("owners", torch.full((size,), NOBODY))
        self.register_buffer("location", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        # ``(T, M)``: the squared lengths of the tokens, which nobody needs to save.
        self.register_buffer("squares", torch.zeros(rows * columns, size), persistent=False)
        nn.Module.register_load_state_dict_post_hook(self, _measure)

    @torch.no_grad()
    def remember(self, latents: ImageSource, owners: Tensor, nearest: Tensor | None = None) -> Tensor:
        """Fill it with normal latents ``(M, *latent_shape)``, and which images they are, ``(M,)``.

        Returns what :meth:`nearest` says of them, ``(M, T)``, which is looked up if it isn't given.
        """
        self.tokens.copy_(as_tokens(latents[:].float()).transpose(0, 1))
        self.owners.copy_(owners)
        _measure(self)
        together = self._together()
        parts = zip(latents.split(together), self.owners.split(together), strict=True)
        if nearest is None:
            nearest = torch.cat([self.nearest(part.float(), own) for part, own in parts])
        if len(owners) > 1:
            self.location.zero_()
            self.scale.fill_(1)
            known = zip(latents.split(together), nearest.split(together), strict=True)
            distances = torch.cat([self(part.float(), nearest=found)[1] for part, found in known])
            self.location.copy_(distances.mean())
            self.scale.copy_(distances.std(correction=0).clamp_min(1e-6))
        return nearest

    def forward(
        self, latents: Tensor, owners: Tensor | None = None, nearest: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What is new about latents ``(B, *latent_shape)`` that were made of the images ``owners (B,)``.

        What :meth:`nearest` says of them, ``(B, T)``, is looked up if it isn't given.

        Returns how each token differs from the nearest one at its place, ``(B, T, C)``, and the length of
        that difference, ``(B, T)``, shifted and scaled as usual for normal images.
        """
        tokens = as_tokens(latents)
        if nearest is None:
            nearest = self.nearest(latents, owners)
        difference = tokens - self.tokens[self._places(), nearest]
        length = (difference.square().sum(2) + 1e-12).sqrt()
        return difference, (length - self.location) / self.scale

    @torch.no_grad()
    def nearest(self, latents: Tensor, owners: Tensor | None = None) -> Tensor:
        """Which remembered image is nearest to each token of latents ``(B, *latent_shape)``, as ``(B, T)``.

        Where latents were made of the images ``owners (B,)``, these are left out.
        """
        tokens, together = as_tokens(latents), self._together()
        parts = [
            self._nearest(
                tokens[first : first + together],
                None if owners is None else owners[first : first + together],
            )
            for first in range(0, max(len(tokens), 1), together)
        ]
        return torch.cat(parts)

    def _nearest(self, tokens: Tensor, owners: Tensor | None) -> Tensor:
        """For tokens ``(B, T, C)`` the nearest at the same places, ``(B, T)``."""
        # ‖q − m‖² without ‖q‖², which is the same for all that q is compared with.
        distances = torch.baddbmm(
            self.squares[:, None], tokens.transpose(0, 1), self.tokens.transpose(1, 2), alpha=-2
        )  # (T, B, M)
        if owners is not None:
            row, own = (owners[:, None] == self.owners[None]).nonzero(as_tuple=True)
            distances[:, row, own] = torch.inf
        return distances.argmin(2).T

    def _together(self) -> int:
        """How many latents to look up at once."""
        return max(DISTANCES_AT_ONCE // self.squares.numel(), LEAST_AT_ONCE)

    def _places(self) -> Tensor:
        return torch.arange(len(self.tokens), device=self.tokens.device)


def _measure(memory: PositionalMemory, *_: object) -> None:
    """Bring the squared lengths up to date with the tokens."""
    with torch.no_grad():
        torch.sum(memory.tokens.square(), 2, out=memory.squares)
