"""The state of running episodes as tensors: stored and restored, they go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from latent_common.training_state import below
from latent_env.denoise.dynamics import EpisodeBatch
from latent_env.dynamics import Dynamics, Episodes
from latent_env.perturbations.image_edit import Edit, ImageEdit, PixelEdit
from latent_env.transition import Transition

CLOCKS = ("seeds", "episodes", "steps")
"""What the random streams of the worlds depend on."""

GIVEN = ("sources", "draws", "previous", "latent")
"""What a transition is made of; all else is computed from it."""

SEEN_BY_EDITS = ("decoded", "image")
"""What edits of the next step read of the last one: computed again for other parts of the worlds together,
the last digits might differ."""

EPISODES = tuple(field.name for field in fields(EpisodeBatch) if field.name != "qualities")


def episode_state(dynamics: Episodes[Any]) -> dict[str, Tensor]:
    """All that decides how the episodes go on, by name: clocks, the last step, what rewards remember."""
    kept = {name: getattr(dynamics.streams, name) for name in CLOCKS}
    kept["elapsed"] = dynamics.elapsed
    last = dynamics.last
    parts = _of_batch(last) if isinstance(last, EpisodeBatch) else _of_transition(last)
    kept |= {f"last.{name}": tensor for name, tensor in parts.items()}
    if isinstance(dynamics, Dynamics):
        kept |= {f"reward.{name}": tensor for name, tensor in dynamics.reward.state().items()}
    return kept


def restore_episodes(dynamics: Episodes[Any], tensors: Mapping[str, Tensor]) -> None:
    """Put what :func:`episode_state` returned back into ``dynamics``, which must be of the same settings.

    :raises KeyError, ValueError: if it is of others.
    """
    device = dynamics.elapsed.device
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    if tensors["elapsed"].shape != dynamics.elapsed.shape:
        raise ValueError(f"there are {len(tensors['elapsed'])} worlds, and not {len(dynamics.elapsed)}")
    for name in CLOCKS:
        setattr(dynamics.streams, name, tensors[name])
    dynamics.elapsed = tensors["elapsed"]
    last = dict(below(tensors, "last"))
    if isinstance(dynamics.last, EpisodeBatch):
        qualities = dict(below(last, "quality"))
        dynamics.last = EpisodeBatch(**{name: last[name] for name in EPISODES}, qualities=qualities)
    else:
        dynamics.last = _transition(dynamics.last, last)
    if isinstance(dynamics, Dynamics):
        dynamics.reward.restore(dict(below(tensors, "reward")))


def _of_batch(last: EpisodeBatch) -> dict[str, Tensor]:
    qualities = {f"quality.{name}": value for name, value in last.qualities.items()}
    return {name: getattr(last, name) for name in EPISODES} | qualities


def _of_transition(last: Transition) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {name: getattr(last, name) for name in GIVEN}
    if last.edit is None:
        return kept
    kept |= {f"edit.{name}": part for name, part in last.edit._asdict().items()}
    return kept | {name: getattr(last, name) for name in SEEN_BY_EDITS if name in vars(last)}


def _transition(like: Transition, parts: Mapping[str, Tensor]) -> Transition:
    """The transition in the world of ``like`` that :func:`_of_transition` took apart."""
    edits, edit = dict(below(parts, "edit")), None
    if edits:
        kind: type[Edit] = PixelEdit if "drawn" in edits else ImageEdit
        edit = kind(**edits)
    made = Transition(like.world, like.shell, **{name: parts[name] for name in GIVEN}, edit=edit)
    made.__dict__.update({name: parts[name] for name in SEEN_BY_EDITS if name in parts})
    return made
