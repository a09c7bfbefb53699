"""Random numbers for a batch: drawn on the CPU, so a seed means the same on every device, and then moved."""

import torch
from torch import Tensor


def uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """U(0, 1) drawn on the CPU, then moved to the device and kind of number of `like`."""
    return torch.rand(shape, generator=generator).to(like)


def choices(batch: int, number: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Whole numbers (B,) below `number`."""
    return torch.randint(number, (batch,), generator=generator).to(like.device)
