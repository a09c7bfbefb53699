"""The reward ensemble: small detectors that rewards use, and one held-out detector, as one artifact."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from detectors.base import Detector
from detectors.ensemble import EnsembleDetector
from detectors.latent_transformer import LatentTransformerDetector
from detectors.registry import build, describe
from latent_common.artifacts import build_within, load_artifact, save_artifact
from latent_common.errors import UserError

REWARD_ENSEMBLE = "reward_ensemble"
SHARED = "memory."
"""Detectors that read latents share this with the world's detector: it is large, and not stored again."""


def trained_part(detector: Detector) -> Detector:
    """The first member of an ensemble, which is the one that was trained; any other detector itself."""
    return ensemble_members(detector)[0] if isinstance(detector, EnsembleDetector) else detector


def ensemble_members(detector: Detector) -> list[Detector]:
    """The members of an ensemble; none for any other detector."""
    return [*detector.named_members().values()] if isinstance(detector, EnsembleDetector) else []


def share_memory(member: Detector, detector: Detector) -> None:
    """Let ``member``, if it reads latents, use the memory of ``detector``, of the same normal images."""
    trained = trained_part(detector)
    if isinstance(member, LatentTransformerDetector) and isinstance(trained, LatentTransformerDetector):
        member.memory = trained.memory


def save_reward_ensemble(
    folder: Path, reward_ensemble: Sequence[Detector], held_out_detector: Detector | None
) -> None:
    """Write the artifact ``reward_ensemble``; the held-out detector comes last."""
    members = [*reward_ensemble, *([] if held_out_detector is None else [held_out_detector])]
    tensors = {
        f"{number}.{name}": tensor
        for number, member in enumerate(members)
        if isinstance(member, nn.Module)
        for name, tensor in member.state_dict().items()
        if not name.startswith(SHARED)
    }
    facts = {"members": [describe(member) for member in members], "held_out": held_out_detector is not None}
    save_artifact(folder, REWARD_ENSEMBLE, REWARD_ENSEMBLE, tensors, facts)


def _check_shape(member: Detector, detector: Detector) -> None:
    """Raise a ``ValueError`` unless ``member`` reads what the world's detector, or a part of it, reads."""
    read = {(part.input, tuple(part.input_shape)) for part in (detector, *ensemble_members(detector))}
    if (member.input, tuple(member.input_shape)) not in read:
        raise ValueError(f"one reads {member.input}s of {tuple(member.input_shape)}, the world's is another")


def load_reward_ensemble(folder: Path, detector: Detector) -> tuple[list[Detector], Detector | None]:
    """Read the artifact ``reward_ensemble``: its detectors and the held-out one, frozen, on the CPU.

    No detectors and None if ``folder`` has none.
    """
    if not (folder / f"{REWARD_ENSEMBLE}.json").is_file():
        return [], None
    tensors, facts = load_artifact(folder, REWARD_ENSEMBLE, REWARD_ENSEMBLE)
    try:
        members: list[Detector] = []
        known = detector.state_dict() if isinstance(detector, nn.Module) else {}
        for number, described in enumerate(facts["members"]):
            own = {
                name.removeprefix(f"{number}."): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{number}.")
            }
            if not own:
                raise LookupError(f"of detector {number} nothing is stored")
            # Those that read latents share the memory of the world's detector, so that it counts as stored.
            member = build_within({**known, **own}, described, functools.partial(build, **described))
            missing, unexpected = member.load_state_dict(own, strict=False)
            if unexpected or any(not name.startswith(SHARED) for name in missing):
                raise RuntimeError(f"{[*missing, *unexpected][:3]} don't fit")
            _check_shape(member, detector)
            share_memory(member.requires_grad_(False).eval(), detector)
            members.append(member)
    except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError) as error:
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
        raise UserError(
            f"{folder / 'reward_ensemble.json'} doesn't describe the detectors stored beside it ({reason}): "
            "delete the folder and make it again"
        ) from error
    held_out_detector = members.pop() if facts.get("held_out") else None
    return members, held_out_detector
