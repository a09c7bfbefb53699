"""Stores the networks of worlds in half precision, in half the space; they compute in float32 all the same.

The built-in worlds are stored so: ``python -m latent_env.worlds.half_precision FOLDER…``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor

from latent_common.artifacts import load_artifact, read_json, save_artifact
from latent_env.worlds.decision import has_decision, load_decision, save_decision
from latent_env.worlds.store import MANIFEST, seal_world

NETWORKS = ("autoencoder", "backbone", "critic", "detector")
"""The kinds of artifacts that are networks."""

MIN_NUMBERS = 1024
"""Smaller tensors, such as statistics of latents, stay as they are."""


def halve(folder: Path) -> None:
    """Store the weights of all networks in ``folder`` in half precision."""
    digests: dict[str, str] = {}
    decision = load_decision(folder) if has_decision(folder) else None
    for path in sorted(folder.glob("*.json")):  # the autoencoder first: critics name its checksum
        description = read_json(path)
        kind = description.get("kind")
        if kind not in NETWORKS:
            continue
        tensors, facts = load_artifact(folder, path.stem, kind)
        if facts.get("autoencoder") in digests:
            facts["autoencoder"] = digests[facts["autoencoder"]]
        save_artifact(folder, path.stem, kind, {name: _halved(each) for name, each in tensors.items()}, facts)
        digests[description["sha256"]] = read_json(path)["sha256"]
    if decision is not None:  # its scores differ by rounding alone
        save_decision(folder, decision)
    if (folder / MANIFEST).is_file():
        seal_world(folder)


def _halved(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() and tensor.numel() >= MIN_NUMBERS else tensor


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        halve(Path(argument))
