"""The environments ``LatentAug-v0`` and ``LatentDenoise-v0``, what they are made of, and detectors.

``import latent_env`` registers both, and tasks in them whose returns can be compared: docs/environments.md.
It loads nothing heavy; PyTorch is imported with the first environment.
``load_detector(folder)`` is a trained detector, ready to predict.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from latent_env.worlds.tasks import register_environments

if TYPE_CHECKING:
    from latent_common.errors import UserError
    from latent_env.denoise.dynamics import DenoiseDynamics
    from latent_env.denoise.env import LatentDenoiseEnv
    from latent_env.denoise.vector_env import LatentDenoiseVectorEnv
    from latent_env.dynamics import Dynamics
    from latent_env.env import LatentAugEnv
    from latent_env.prediction.detector import AnomalyDetector, load_detector
    from latent_env.prediction.result import Prediction
    from latent_env.rewards.base import RewardTerm
    from latent_env.transition import Transition
    from latent_env.vector_env import LatentAugVectorEnv

__version__ = "0.2.0"

__all__ = [
    "AnomalyDetector",
    "DenoiseDynamics",
    "Dynamics",
    "LatentAugEnv",
    "LatentAugVectorEnv",
    "LatentDenoiseEnv",
    "LatentDenoiseVectorEnv",
    "Prediction",
    "RewardTerm",
    "Transition",
    "UserError",
    "load_detector",
    "register_perturbation",
    "register_reward",
]

_HOMES = {
    "AnomalyDetector": "latent_env.prediction.detector",
    "DenoiseDynamics": "latent_env.denoise.dynamics",
    "LatentDenoiseEnv": "latent_env.denoise.env",
    "LatentDenoiseVectorEnv": "latent_env.denoise.vector_env",
    "Dynamics": "latent_env.dynamics",
    "LatentAugEnv": "latent_env.env",
    "LatentAugVectorEnv": "latent_env.vector_env",
    "Prediction": "latent_env.prediction.result",
    "RewardTerm": "latent_env.rewards.base",
    "Transition": "latent_env.transition",
    "UserError": "latent_common.errors",
    "load_detector": "latent_env.prediction.detector",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def register_reward(name: str) -> Any:
    """A class decorator that registers a reward term as ``name``; see :mod:`latent_env.rewards.base`."""
    from latent_env.rewards.base import reward_terms

    return reward_terms.register(name)


def register_perturbation(name: str) -> Any:
    """A class decorator that registers a perturbation as ``name``: :mod:`latent_env.perturbations.base`."""
    from latent_env.perturbations.base import perturbations

    return perturbations.register(name)


def _compute_with_one_thread() -> None:
    """Let PyTorch compute with one thread, where it is loaded."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    # A forked process inherits the state of its parent's OpenMP threads but not the threads, and would wait
    # for them for ever. Workers of a vector environment are forked.
    os.register_at_fork(after_in_child=_compute_with_one_thread)


register_environments()
