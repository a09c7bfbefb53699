"""The picture of a world, whatever kind of episode it is in."""

from __future__ import annotations

from typing import Any

from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.denoise.strips import strip
from latent_env.dynamics import Dynamics, Episodes
from latent_env.rendering import Picture, panel


def picture_of(dynamics: Episodes[Any], world: int = 0) -> Picture:
    """What happened in one world in labelled tiles, ``(H, W, 3)``."""
    if isinstance(dynamics, DenoiseDynamics):
        return strip(dynamics, world)
    assert isinstance(dynamics, Dynamics)
    return panel(dynamics.last, world)
