"""Checks of a composed configuration that its types don't make."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig

from latent_common.errors import UserError
from stages.seeds import LARGEST_SEED

POSITIVE = {
    "max_train_images",
    "steps",
    "total_steps",
    "batch_size",
    "learning_rate",
    "num_envs",
    "n_steps",
    "n_epochs",
    "num_start_images",
    "samples",
    "rounds",
    "width",
    "depth",
    "heads",
    "step_size",
    "bank",
    "candidates",
    "grid",
    "project_every",
    "memory_size",
    "strength",
    "generated",
    "temperature",
    "step_multiplier",
}
"""Keys whose value must be above zero, in whatever group they stand."""


def check_values(cfg: DictConfig, above: str = "") -> None:
    """Reject budgets and sizes that are not above zero and impossible seeds, wherever they stand."""
    for key in map(str, cfg):
        value = cfg[key]
        path = f"{above}{key}"
        if isinstance(value, DictConfig):
            check_values(value, f"{path}.")
        elif key in POSITIVE and isinstance(value, int | float) and not 0 < value < math.inf:
            raise UserError(f"{path}={value} must be above 0{'' if value < math.inf else ' and finite'}")
        elif key == "batch_size" and value is not None and value < 2:
            raise UserError(f"{path}={value} must be at least 2")
        elif key == "seed" and not 0 <= value < LARGEST_SEED:
            raise UserError(f"{path}={value} must lie from 0 to {LARGEST_SEED - 1}")


def unknown_keys(given: Any, known: Any, above: str = "") -> Iterator[str]:
    """Keys of ``given`` that ``known`` doesn't have: ``+key=…`` gets past Hydra's own check."""
    for key, value in given.items():
        if key not in known:
            yield f"{above}{key}"
        elif isinstance(value, dict):
            yield from unknown_keys(value, known[key], f"{above}{key}.")
