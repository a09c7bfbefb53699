"""A perturbation by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latent_common.errors import UserError
from latent_env.perturbations.base import Perturbation, perturbations
from latent_env.perturbations.brush import Brush
from latent_env.perturbations.copy_paste import CopyPaste
from latent_env.perturbations.linear import Dense
from latent_env.perturbations.local_edit import BOTH, OBJECT, SOFT, LocalEdit

if TYPE_CHECKING:
    from latent_env.worlds.world import World


def make_perturbation(
    name: str,
    world: World,
    max_delta: float | None,
    place: str = OBJECT,
    blending: str = SOFT,
    edits: str = BOTH,
) -> Perturbation:
    """The perturbation called ``name``, for latents of ``world``.

    :param place: ``object`` or ``anywhere``,
    :param blending: ``soft``, ``poisson`` or ``decoded``, and
    :param edits: ``both``, ``strokes`` or ``pastes``: the choices of ``local_edit``; others change what they
        change anywhere and softly.
    """
    if max_delta is not None and not max_delta > 0:
        raise UserError(f"max_delta={max_delta:g} must be above 0")
    made = perturbations[name](world, max_delta)
    if isinstance(made, LocalEdit):
        made.choose(place, blending, edits)
    for key, value, without in (("blending", blending, SOFT), ("edits", edits, BOTH)):
        if value != without and not isinstance(made, LocalEdit):
            raise UserError(
                f"{key}={value} is for perturbation=local_edit, and perturbation={name} is another in this "
                f"world: choose {key}={without}"
            )
    return made


@perturbations.register("auto")
def _automatic(world: World, max_delta: float | None) -> Perturbation:
    """``dense`` for flat latents, ``local_edit`` for a published generator where detectors read images.

    For other spatial latents ``copy_paste`` with labelled anomalies, else ``brush``.
    """
    if not world.autoencoder.is_spatial:
        return Dense(world, max_delta)
    if world.autoencoder.model.is_generator and not world.reads_latents:
        return LocalEdit(world, max_delta)
    return CopyPaste(world, max_delta) if world.labelled_anomalies else Brush(world.autoencoder, max_delta)
