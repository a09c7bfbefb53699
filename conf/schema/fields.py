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
    """The finite numbers that a key may be: from ``least`` to ``most``, or above ``above``."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def hold(self, value: float) -> bool:
        """Whether ``value`` is one of them."""
        return math.isfinite(value) and self.above < value and self.least <= value <= self.most


Positive = Annotated[T, Limits(above=0)]
BatchSize = Annotated[T, Limits(least=2)]
Seed = Annotated[int, Limits(least=0, most=2**32 - 1)]
"""NumPy's and SB3's older generators take no larger one."""
