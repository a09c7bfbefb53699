"""The artifact ``decision``: what the thresholds of a detector are chosen by, on disk."""

from __future__ import annotations

from pathlib import Path

import torch

from latent_common.artifacts import load_artifact, save_artifact
from latent_common.errors import UserError
from latent_env.worlds.artifacts import BACKBONE, digest_of_artifact
from latent_env.worlds.thresholds import Decision

DECISION = "decision"

PARTS = ("autoencoder", BACKBONE, "detector")
"""The artifacts that a decision was measured with, where the folder has them."""

NUMBERS = ("normal", "highest", "anomalous")
"""The tensors of the artifact."""


def save_decision(folder: Path, decision: Decision) -> None:
    """Write ``decision`` as the artifact ``decision``: the one of the detector that is in ``folder``."""
    there = [name for name in PARTS if (folder / f"{name}.json").is_file()]
    facts = {
        "dataset": decision.dataset,
        "normal": len(decision.normal),
        "anomalous": len(decision.anomalous),
        "parts": {name: digest_of_artifact(folder, name) for name in there},
    }
    tensors = {name: torch.from_numpy(getattr(decision, name)) for name in NUMBERS}
    save_artifact(folder, DECISION, DECISION, tensors, facts)


def load_decision(folder: Path) -> Decision:
    """Read the artifact ``decision``; one that is damaged, or of another detector, is a ``UserError``."""
    tensors, facts = load_artifact(folder, DECISION, DECISION)
    path = folder / f"{DECISION}.json"
    parts, dataset = facts.get("parts"), facts.get("dataset")
    ordered = set(tensors) == set(NUMBERS) and all(
        part.ndim == 1 and part.dtype == torch.float32 and bool((part.diff() >= 0).all())
        for part in tensors.values()
    )
    if not ordered or not isinstance(parts, dict) or not isinstance(dataset, str):
        raise UserError(f"{path} doesn't describe scores in order: delete its folder and make it again")
    for name, digest in parts.items():
        if name not in PARTS or digest_of_artifact(folder, name) != digest:
            raise UserError(
                f"{folder}: its {name} is not the one that the threshold was measured with; make the folder "
                "again"
            )
    return Decision(**{name: part.numpy() for name, part in tensors.items()}, dataset=dataset, parts=parts)
