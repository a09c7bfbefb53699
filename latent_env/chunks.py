"""Computing many worlds in parts, which is faster on a CPU and bounds the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PIXELS_AT_ONCE = {"cpu": 2**18, "cuda": 2**25}
"""How many pixels go through the networks together. On a CPU, more don't fit in its caches: a thousand worlds
of 64 × 64 pixels together take one and a half times as long. On a GPU only memory sets the bound."""


def worlds_at_once(size: int, device: torch.device) -> int:
    """How many worlds of ``size`` × ``size`` pixels to put through the networks together."""
    return max(PIXELS_AT_ONCE[device.type] // size**2, 1)


def split(value: Any, at_once: int) -> Sequence[Any]:
    """The parts of a tensor, or of tuples and lists of tensors, divided along the first dimension."""
    if isinstance(value, Tensor):
        return value.split(at_once)
    return [_like(value, members) for members in zip(*(split(part, at_once) for part in value), strict=True)]


def join(parts: Sequence[Any]) -> Any:
    """The inverse of :func:`split`."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return _like(parts[0], [join(members) for members in zip(*parts, strict=True)])


def _like(example: Any, members: Sequence[Any]) -> Any:
    """``members`` as a list, tuple or named tuple, whichever ``example`` is."""
    made: Any = getattr(type(example), "_make", type(example))(members)
    return made
