"""The precision that networks compute with, and that latents are kept in."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_common.errors import UserError

FULL, HALF = "float32", "bfloat16"
PRECISIONS = (FULL, HALF)

LARGEST = 6e4
"""The largest number that is kept: half precision holds little more."""


def check_precision(precision: object, key: str = "precision") -> None:
    """Raise a ``UserError`` for an unknown precision."""
    if precision not in PRECISIONS:
        raise UserError(f"{key}={precision!r} must be {' or '.join(map(repr, PRECISIONS))}")


def as_stored(latents: Tensor) -> Tensor:
    """``latents`` in half precision, float16, as caches hold them."""
    return latents.clamp(-LARGEST, LARGEST).half()


def computing_in(precision: str, device: torch.device) -> torch.autocast:
    """A context in which networks on ``device`` compute with ``precision``, and may return it, too."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision != FULL)


def full_precision(device: torch.device) -> torch.autocast:
    """A context in which networks on ``device`` compute in full precision, inside any other context."""
    return torch.autocast(device.type, enabled=False)
