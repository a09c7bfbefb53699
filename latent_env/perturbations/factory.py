"""A perturbation by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latent_common.errors import UserError
from latent_env.perturbations.base import Perturbation, perturbations
from latent_env.perturbations.brush import Brush
from latent_env.perturbations.copy_paste import CopyPaste
from latent_env.perturbations.linear import Dense
from latent_env.perturbations.local_edit import OBJECT, SOFT, LocalEdit

if TYPE_CHECKING:
    from latent_env.worlds.world import World


def make_perturbation(
    name: str, world: World, max_delta: float | None, place: str = OBJECT, blending: str = SOFT
) -> Perturbation:
    """The perturbation called ``name``, for latents of ``world``.

    :param place: ``object`` or ``anywhere``, and
    :param blending: ``soft`` or ``poisson``: the choices of ``local_edit``; others change what they change
        anywhere and softly.
    """
    if max_delta is not None and not max_delta > 0:
        raise UserError(f"max_delta={max_delta:g} must be above 0")
    made = perturbations[name](world, max_delta)
    if isinstance(made, LocalEdit):
        made.choose(place, blending)
    elif blending != SOFT:
        raise UserError(
            f"blending={blending} is for pixels that perturbation=local_edit pastes, and perturbation={name} "
            "doesn't in this world: choose blending=soft"
        )
    return made


@perturbations.register("auto")
def _automatic(world: World, max_delta: float | None) -> Perturbation:
    """``dense`` for flat latents, ``local_edit`` for a published generator where detectors read images.

    For other spatial latents ``copy_paste`` with labelled anomalies, else ``brush``.
    """
    if not world.autoencoder.is_spatial:
        return Dense(world, max_delta)
    if getattr(world.autoencoder.model, "is_generator", False) and not world.reads_latents:
        return LocalEdit(world, max_delta)
    return CopyPaste(world, max_delta) if world.labelled_anomalies else Brush(world.autoencoder, max_delta)
