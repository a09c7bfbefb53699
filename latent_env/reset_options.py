"""What a reset is given, checked: seeds, and options that say where an episode starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from latent_common.errors import UserError
from latent_env.dynamics import Episodes

LARGEST_SEED = 2**63 - 1


def check_seed(seed: object, worlds: int = 1) -> None:
    """Raise a ``UserError`` unless ``seed``, and those of the ``worlds`` after it, start a random stream."""
    most = LARGEST_SEED - worlds + 1
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= most:
        raise UserError(f"seed={seed!r} must be a whole number from 0 to {most}")


def checked_start(
    options: Mapping[str, Any] | None, episodes: Episodes[Any], *also: str
) -> torch.Tensor | None:
    """The indices of the images that an episode may start from, ``(K,)``; None for all of them.

    :param options: those of a reset: ``{"source": i}`` is image ``i``, ``{"class": c}`` the images of class
        ``c`` where they have classes.
    :param also: names of further options, which are checked elsewhere.
    """
    classes = episodes.image_classes
    check_options(options, ("source", *(("class",) if classes is not None else ()), *also))
    source, wanted = ((options or {}).get(name) for name in ("source", "class"))
    if source is not None and wanted is not None:
        raise UserError("options['source'] and options['class'] say both where to start: give one of them")
    if source is not None:
        last = len(episodes.world.images) - 1
        if not _whole(source) or not 0 <= source <= last:
            raise UserError(f"options['source']={source!r} must be a whole number from 0 to {last}")
        return torch.tensor([int(source)], device=episodes.world.device)
    if wanted is None or classes is None:
        return None
    members = (classes == wanted).nonzero()[:, 0] if _whole(wanted) else classes[:0]
    if not len(members):
        known = ", ".join(str(number) for number in classes.unique().tolist())
        raise UserError(f"options['class']={wanted!r} must be the number of a class that has images: {known}")
    return members


def check_options(options: object, known: Sequence[str]) -> None:
    """Raise a ``UserError`` unless ``options`` of a reset are a dictionary of ``known`` names, or None."""
    names = " and ".join(repr(name) for name in known)
    if options is not None and not isinstance(options, Mapping):
        raise UserError(f"options={options!r} must be a dictionary; it may hold {names}")
    for name in options or {}:
        if name not in known:
            raise UserError(f"options={{{name!r}: …}} is unknown: a reset knows {names}")


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
