"""A memory bank of normal tokens at every position, and the nearest of them to new ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detectors.blocks.parts import in_parts
from detectors.blocks.tokens import as_tokens, grid_of
from latent_common.image_source import ImageSource

DISTANCES_AT_ONCE, MIN_AT_ONCE = 2**23, 16
"""So many distances are held at once, those of at least so many latents: fewer would take longer each."""

NO_OWNER = -1
"""The owner of a latent that was made of no training image."""


class PositionalMemory(nn.Module):
    """The tokens of normal images at every position.

    A token is compared with those that other images have at its position. The image that it was made of, its
    owner, is left out: else training images would look more normal than any new one.
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
        self.register_buffer("owners", torch.full((size,), NO_OWNER))
        self.register_buffer("location", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        # ``(T, M)``: the squared lengths of the tokens, computed again after loading.
        self.register_buffer("squares", torch.zeros(rows * columns, size), persistent=False)
        nn.Module.register_load_state_dict_post_hook(self, _update_squares)

    @torch.no_grad()
    def fill(self, latents: ImageSource, owners: Tensor, nearest: Tensor | None = None) -> Tensor:
        """Fill it with normal latents ``(M, *latent_shape)`` of the images ``owners (M,)``.

        Returns the :meth:`nearest` of each other, ``(M, T)``, looked up unless they are given.
        """
        self.tokens.copy_(as_tokens(latents[:].float()).transpose(0, 1))
        self.owners.copy_(owners)
        _update_squares(self)
        at_once = self._latents_at_once()
        parts = zip(latents.split(at_once), self.owners.split(at_once), strict=True)
        if nearest is None:
            nearest = torch.cat([self.nearest(part.float(), own) for part, own in parts])
        if len(owners) > 1:
            self.location.zero_()
            self.scale.fill_(1)
            known = zip(latents.split(at_once), nearest.split(at_once), strict=True)
            distances = torch.cat([self(part.float(), nearest=found)[1] for part, found in known])
            self.location.copy_(distances.mean())
            self.scale.copy_(distances.std(correction=0).clamp_min(1e-6))
        return nearest

    def forward(
        self, latents: Tensor, owners: Tensor | None = None, nearest: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compare latents ``(B, *latent_shape)``, made of the images ``owners (B,)``, with normal ones.

        Their :meth:`nearest`, ``(B, T)``, are looked up unless they are given.

        Returns how each token differs from the nearest one at its position, ``(B, T, C)``, and the length of
        that difference, ``(B, T)``, standardised over normal images.
        """
        tokens = as_tokens(latents)
        if nearest is None:
            nearest = self.nearest(latents, owners)
        difference = tokens - self.tokens[self._positions(), nearest]
        length = (difference.square().sum(2) + 1e-12).sqrt()
        return difference, (length - self.location) / self.scale

    @torch.no_grad()
    def nearest(self, latents: Tensor, owners: Tensor | None = None) -> Tensor:
        """Which image of the bank is nearest to each token of latents ``(B, *latent_shape)``, as ``(B, T)``.

        Where latents were made of the images ``owners (B,)``, these are left out.
        """
        tokens, at_once = as_tokens(latents), self._latents_at_once()
        if owners is None:
            return in_parts(lambda part: self._nearest(part, None), tokens, at_once)
        parts = zip(tokens.split(at_once), owners.split(at_once), strict=True)
        return torch.cat([self._nearest(part, own) for part, own in parts])

    def _nearest(self, tokens: Tensor, owners: Tensor | None) -> Tensor:
        """For tokens ``(B, T, C)`` the nearest at the same positions, ``(B, T)``."""
        # ‖q − m‖² without ‖q‖², which is the same for all that q is compared with.
        distances = torch.baddbmm(
            self.squares[:, None], tokens.transpose(0, 1), self.tokens.transpose(1, 2), alpha=-2
        )  # (T, B, M)
        if owners is not None:
            row, own = (owners[:, None] == self.owners[None]).nonzero(as_tuple=True)
            distances[:, row, own] = torch.inf
        return distances.argmin(2).T

    def _latents_at_once(self) -> int:
        """How many latents to look up at once."""
        return max(DISTANCES_AT_ONCE // self.squares.numel(), MIN_AT_ONCE)

    def _positions(self) -> Tensor:
        return torch.arange(len(self.tokens), device=self.tokens.device)


def _update_squares(memory: PositionalMemory, *_: object) -> None:
    """Compute the squared lengths of the tokens that ``memory`` holds now."""
    with torch.no_grad():
        torch.sum(memory.tokens.square(), 2, out=memory.squares)
