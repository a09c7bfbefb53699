"""Marks of keys: the numbers that one may be, and whether it is filled in where it is null."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Optional, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    Filled = Annotated[T, "null in YAML"]
else:
    Filled = Optional
"""A key that may be null in YAML: ``stages.cli.defaults`` fills it in before anybody reads it."""


@dataclass(frozen=True)
class Limits:
    """The finite numbers that a key may be: from ``least`` to ``most``, or between two that it may not be."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    """What it must be larger than."""
    below: float = math.inf
    """What it must be smaller than."""

    def hold(self, value: object) -> bool:
        """Whether ``value`` is one of them."""
        if not isinstance(value, int | float):
            return False
        return self.least <= value <= self.most and self.above < value < self.below and math.isfinite(value)


@dataclass(frozen=True)
class FileName:
    """Marks text that becomes the name of a folder: it must not lead elsewhere."""

    optional: bool = False
    """Whether it may be empty."""


Name = Annotated[str, FileName()]
NameIfAny = Annotated[str, FileName(optional=True)]
Finite = Annotated[T, Limits()]
Positive = Annotated[T, Limits(above=0)]
NonNegative = Annotated[T, Limits(least=0)]
Share = Annotated[T, Limits(least=0, most=1)]
PositiveShare = Annotated[T, Limits(above=0, most=1)]
ShareBelowOne = Annotated[T, Limits(least=0, below=1)]
BatchSize = Annotated[T, Limits(least=2, most=2**20)]
Width = Annotated[T, Limits(above=0, most=4096)]
"""Of layers, or how many there are of something: larger ones fit no machine that this runs on."""

Count = Annotated[T, Limits(above=0, most=2**24)]
CountOrZero = Annotated[T, Limits(least=0, most=2**24)]
"""How many images, numbers or steps are kept."""

Upscale = Annotated[int, Limits(least=1, most=8)]
"""Positions a side that a token is interpolated to: finer ones show nothing more, and fill the memory."""

Horizon = Annotated[int, Limits(least=1, most=10_000)]
Threads = Annotated[T, Limits(above=0, most=1024)]
FewOrNone = Annotated[T, Limits(least=0, most=100)]
Worlds = Annotated[int, Limits(least=1, most=2**20)]
"""As ``latent_env.settings`` and ``latent_env.vector_env`` allow."""

_SEEDS = Limits(least=0, most=2**32 - 1)
Seed = Annotated[int, _SEEDS]
"""NumPy's and SB3's older generators take no larger one."""

SeedIfAny = Annotated[int | None, _SEEDS]
