"""Random numbers for a batch: drawn on the CPU and then moved, so that a seed gives equal ones everywhere."""

import torch
from torch import Tensor


def uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """U(0, 1) drawn on the CPU, then moved to the device and dtype of `like`."""
    return torch.rand(shape, generator=generator).to(like)


def choices(batch: int, number: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Whole numbers (B,) below `number`."""
    return torch.randint(number, (batch,), generator=generator).to(like.device)
