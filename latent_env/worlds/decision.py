"""The artifact ``decision``: what the thresholds of a detector are chosen by, on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from latent_common.artifacts import load_artifact, save_artifact
from latent_common.errors import UserError
from latent_env.worlds.artifacts import BACKBONE, digest_of_artifact
from latent_env.worlds.thresholds import Decision, Folds

DECISION = "decision"

PARTS = ("autoencoder", BACKBONE, "detector")
"""The artifacts that a decision was measured with, where the folder has them."""

FOLDS_OF = ("kinds", "groups", "images")

NUMBERS = ("normal", "highest", "anomalous")
"""The tensors of the artifact."""


def save_decision(folder: Path, decision: Decision) -> None:
    """Write ``decision`` as the artifact ``decision``: the one of the detector that is in ``folder``."""
    there = [name for name in PARTS if (folder / f"{name}.json").is_file()]
    facts: dict[str, Any] = {
        "dataset": decision.dataset,
        "normal": len(decision.normal),
        "anomalous": len(decision.anomalous),
        "parts": {name: digest_of_artifact(folder, name) for name in there},
    }
    if decision.folds is not None:
        facts["folds"] = decision.folds._asdict()
    tensors = {name: torch.from_numpy(getattr(decision, name)) for name in NUMBERS}
    save_artifact(folder, DECISION, DECISION, tensors, facts)


def has_decision(folder: Path) -> bool:
    """Whether ``folder`` has the artifact ``decision``: without normal validation images there is none."""
    return (folder / f"{DECISION}.json").is_file()


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
    scores = {name: part.numpy() for name, part in tensors.items()}
    return Decision(**scores, dataset=dataset, parts=parts, folds=_folds(path, facts.get("folds")))


def _folds(path: Path, described: Any) -> Folds | None:
    """How anomalies were judged that the detector learned from; None where it didn't."""
    if described is None:
        return None
    known = isinstance(described, dict) and set(described) == set(Folds._fields)
    if not known or type(described["number"]) is not int or described["of"] not in FOLDS_OF:
        raise UserError(f"{path} doesn't describe folds: delete its folder and make it again")
    return Folds(**described)
