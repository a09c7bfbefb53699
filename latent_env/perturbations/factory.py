"""A perturbation by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latent_common.errors import UserError
from latent_env.perturbations.base import Perturbation, perturbations
from latent_env.perturbations.brush import Brush
from latent_env.perturbations.copy_paste import CopyPaste
from latent_env.perturbations.linear import Dense

if TYPE_CHECKING:
    from latent_env.worlds.world import World


def make_perturbation(name: str, world: World, max_delta: float | None) -> Perturbation:
    """The perturbation called ``name``, for latents of ``world``."""
    if max_delta is not None and not max_delta > 0:
        raise UserError(f"max_delta={max_delta:g} must be above 0")
    return perturbations[name](world, max_delta)


@perturbations.register("auto")
def _automatic(world: World, max_delta: float | None) -> Perturbation:
    """``dense`` for flat latents; for spatial ones ``copy_paste`` with labelled anomalies, else ``brush``."""
    if not world.autoencoder.is_spatial:
        return Dense(world, max_delta)
    return CopyPaste(world, max_delta) if world.labelled_anomalies else Brush(world.autoencoder, max_delta)
