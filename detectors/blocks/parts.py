"""Computing a batch in parts, which bounds the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_parts(compute: Callable[[Tensor], Tensor], values: Tensor, at_once: int) -> Tensor:
    """``compute(values)``, at most ``at_once`` rows at a time.

    A network that is exported computes all rows together: it is made for batches of any size.
    """
    if torch.compiler.is_exporting() or len(values) <= at_once:
        return compute(values)
    return torch.cat([compute(part) for part in values.split(at_once)])
