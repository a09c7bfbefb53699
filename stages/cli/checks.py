"""Checks of a composed configuration that its types don't make."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from conf.schema.fields import Limits
from latent_common.errors import UserError


def check_values(config: object, above: str = "") -> None:
    """Reject a number outside the limits that its key is marked with, wherever it stands."""
    for key, kind in get_type_hints(type(config), include_extras=True).items():
        value, path = getattr(config, key), f"{above}{key}"
        if is_dataclass(value):
            check_values(value, f"{path}.")
        for limits in getattr(kind, "__metadata__", ()):
            if isinstance(limits, Limits) and value is not None and not limits.hold(value):
                given = value if isinstance(value, int) else f"{value:g}"
                raise UserError(f"{path}={given} must {_expected(limits, value)}")


def _expected(limits: Limits, value: float) -> str:
    if limits.most < math.inf and limits.least > -math.inf:
        return f"lie from {limits.least} to {limits.most}"
    if limits.below < math.inf:
        return f"lie from {limits.least} to below {limits.below}"
    found = f"be at least {limits.least}" if limits.least > -math.inf else f"be above {limits.above}"
    if limits.most < math.inf:
        return f"{found} and at most {limits.most}"
    return f"{found} and finite" if value == math.inf else found


def unknown_keys(given: Any, known: Any, above: str = "") -> Iterator[str]:
    """Keys of ``given`` that ``known`` doesn't have: ``+key=…`` gets past Hydra's own check."""
    for key, value in given.items():
        if key not in known:
            yield f"{above}{key}"
        elif isinstance(value, dict):
            yield from unknown_keys(value, known[key], f"{above}{key}.")
