"""The critic: a small network that estimates the amount of noise in a state."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, DEPTH = 128, 3


class Critic(nn.Module):
    """Estimates the amount of noise σ in a state, from 0 to 1, given the class of its image or any class.

    The class is a one-hot vector; zeros mean any class.

    :param shape: of a state.
    :param classes: how many classes there are.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = WIDTH, depth: int = DEPTH) -> None:
        super().__init__()
        self.shape, self.classes, self.width, self.depth = tuple(shape), classes, width, depth
        self.enter = nn.Linear(math.prod(self.shape) + classes, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.leave = nn.Linear(width, 1)

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build the network again."""
        return {"shape": list(self.shape), "classes": self.classes, "width": self.width, "depth": self.depth}

    def forward(self, states: Tensor, wanted: Tensor) -> Tensor:
        """σ ``(B,)`` of ``states (B, *shape)`` that should be of the classes ``wanted (B, classes)``."""
        hidden = self.enter(torch.cat([states.flatten(1), wanted], dim=1))
        for block in self.blocks:
            hidden = block(hidden)
        # (B,) and not (B, 1), so that nothing is broadcast by accident.
        return self.leave(hidden).sigmoid().squeeze(1)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
        self.outer = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        changed: Tensor = hidden + self.outer(self.inner(hidden))
        return changed
