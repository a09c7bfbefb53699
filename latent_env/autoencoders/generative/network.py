"""What published networks have in common, whatever library or file they come from."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class PublishedNetwork(nn.Module, ABC):
    """Colour images ``(B, 3, H, W)`` in [0, 1] to raw latents ``(B, K, H / c, W / c)``, and back.

    :param latent_channels: ``K``.
    :param compression: ``c``, how many pixels a side one token stands for.
    """

    def __init__(self, latent_channels: int, compression: int) -> None:
        super().__init__()
        self.latent_channels, self.compression = latent_channels, compression

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` in [0, 1] to raw latents ``(B, K, H / c, W / c)``."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents ``(B, K, h, w)`` to images ``(B, 3, c h, c w)``, which may leave [0, 1] a little."""

    @abstractmethod
    def decoding_part(self) -> nn.Module:
        """The part that draws, and that can be fine-tuned."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Plain facts that build the architecture again; nothing in them names code."""

    def digest(self) -> str:
        """A digest of the architecture and all its weights."""
        digest = hashlib.sha256(json.dumps(self.description(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Round all weights to what half precision holds, so that artifacts store them exactly in half the space.

    A tensor with numbers too large for that stays as it is.
    """
    for weight in module.parameters():
        rounded = weight.half()
        if rounded.isfinite().all():
            weight.copy_(rounded)
