"""The registered environments: two general ones, and tasks whose every setting and artifact stays as it is.

Importing this loads nothing heavy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AUGMENT = ("latent_env.env:LatentAugEnv", "latent_env.vector_env:LatentAugVectorEnv")
DENOISE = ("latent_env.denoise.env:LatentDenoiseEnv", "latent_env.denoise.vector_env:LatentDenoiseVectorEnv")


@dataclass(frozen=True)
class Task:
    """An id of Gymnasium's registry."""

    id: str
    entry_points: tuple[str, str]
    """What makes one world, and a batch of them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that the id stands for; whoever passes others plays another task."""
    reward_threshold: float | None = None
    """The mean return that counts as solved: about what PPO reaches, and more than any constant action."""


GENERAL = (Task("LatentAug-v0", AUGMENT), Task("LatentDenoise-v0", DENOISE))

FIXED = (
    Task(
        "LatentAug-Digits-v0",
        AUGMENT,
        {"artifacts": "digits", "perturbation": "dense", "reward": {"target": 1.0}, "horizon": 1},
        0.4,
    ),
    Task(
        "LatentAug-Phantom-v0",
        AUGMENT,
        {
            "artifacts": "phantom",
            "perturbation": "copy_paste",
            "observation": "pooled",
            "reward": {"target": 1.0},
            "horizon": 1,
        },
        0.1,
    ),
    Task(
        "LatentDenoise-Digits-v0",
        DENOISE,
        {"artifacts": "digits", "space": "latent", "reward": {"critic": 1.0}, "horizon": 8},
        0.3,
    ),
    Task(
        "LatentDenoise-Pixel-v0",
        DENOISE,
        {
            "artifacts": "digits",
            "space": "pixel",
            "conditional": False,
            "start": "drawn",
            "max_delta": 0.25,
            "reward": {"critic": 1.0},
            "horizon": 4,
        },
        0.05,
    ),
)

TASKS = {task.id: task for task in FIXED}
"""The tasks whose settings are fixed, by id."""

DIGESTS = {
    "digits": "ef2df18d46e79e86cdc3406579198e975ad3a78c842440e9088b233ae011fcf9",
    "phantom": "97dc96e11a7ea675422848b47266c3b6014210c3b777fe5c3eafc473f4d47970",
}
"""The :func:`digest` of each built-in world. A world with another one needs ids with another version."""


def digest(folder: Path) -> str:
    """A digest of all artifacts in ``folder``: their JSON files hold the checksums of their numbers."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.json")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def register_environments() -> None:
    """Let ``gymnasium.make`` find every task."""
    try:
        from gymnasium.envs.registration import register, registry
    except ModuleNotFoundError:  # where only exported detectors are used: docs/predict.md
        return
    for task in (*GENERAL, *FIXED):
        if task.id not in registry:
            one, batch = task.entry_points
            register(
                id=task.id,
                entry_point=one,
                vector_entry_point=batch,
                reward_threshold=task.reward_threshold,
                kwargs=dict(task.settings),
            )
