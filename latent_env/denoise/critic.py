"""The critic: a small network that says how much noise there is in a state, and so how good it is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, DEPTH = 128, 3


class Critic(nn.Module):
    """The amount of noise σ in a state, in [0, 1]; of a class, where one is named.

    The class is a one-hot; all zeros mean any class, so one network serves both.

    :param shape: of a state.
    :param classes: how many there are.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = WIDTH, depth: int = DEPTH) -> None:
        super().__init__()
        self.shape, self.classes, self.width, self.depth = tuple(shape), classes, width, depth
        self.enter = nn.Linear(math.prod(self.shape) + classes, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.leave = nn.Linear(width, 1)

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build it again."""
        return {"shape": list(self.shape), "classes": self.classes, "width": self.width, "depth": self.depth}

    def forward(self, states: Tensor, wanted: Tensor) -> Tensor:
        """σ ``(B,)`` of ``states (B, *shape)`` that are wanted to be of a class, ``(B, classes)``."""
        hidden = self.enter(torch.cat([states.flatten(1), wanted], dim=1))
        for block in self.blocks:
            hidden = block(hidden)
        # One number a state without the last dimension, so that nothing is broadcast by accident.
        return self.leave(hidden).sigmoid().squeeze(1)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
        self.outer = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        changed: Tensor = hidden + self.outer(self.inner(hidden))
        return changed
