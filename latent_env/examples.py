"""Labelled anomalies that detectors train on, as an agent may use them: as latents."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.errors import UserError
from detectors.images import spread_positions
from detectors.memory import PlacedMemory
from latent_env.artifacts import load_artifact, save_artifact

EXAMPLES = "known_anomalies"
MOST = 256
"""Of more anomalies, so many evenly spaced ones are kept."""


class Examples(NamedTuple):
    """Latents of K anomalies, and what normal images would have in their place."""

    latents: Tensor
    """``(K, *latent_shape)``"""
    normal: Tensor
    """``(K, *latent_shape)``: for every token the nearest one that normal images have at its place."""
    marks: Tensor
    """``(K, 1, h, w)`` bool: the anomalous tokens; all of them where that isn't known."""

    @classmethod
    def of(cls, latents: Tensor, marks: Tensor, normals: Tensor) -> Examples:
        """Examples of anomalies ``latents (A, *latent_shape)`` among ``normals (N, *latent_shape)``.

        They are put in order: neighbours are alike. Without a token in ``marks (A, 1, h, w)`` bool it isn't
        known where an anomaly is.
        """
        picks = spread_positions(len(latents), MOST).to(latents.device)
        latents, marks = latents[picks].float(), marks[picks]
        marks = marks | ~marks.flatten(1).any(1)[:, None, None, None]
        memory = PlacedMemory(normals.shape[1:], len(normals)).to(normals.device)
        memory.remember(normals, torch.arange(len(normals), device=normals.device))
        difference, _ = memory(latents)
        normal = latents - difference.transpose(1, 2).reshape(latents.shape)
        order = _alike(latents - normal, marks)
        return cls(latents[order], normal[order], marks[order])

    def to(self, device: torch.device) -> Examples:
        """The same on ``device``."""
        return Examples(*(part.to(device) for part in self))


def _alike(differences: Tensor, marks: Tensor) -> Tensor:
    """An order ``(K,)`` of what differs: along the direction in which its means vary most."""
    weights = marks.to(differences).expand_as(differences)
    means = (differences * weights).flatten(2).sum(2) / weights.flatten(2).sum(2).clamp_min(1)
    means = (means - means.mean(0)).double().cpu()
    direction = torch.linalg.svd(means, full_matrices=False).Vh[0]
    # Which of both ends comes first is as good as random, and must be the same everywhere.
    direction = direction * direction[direction.abs().argmax()].sign()
    return (means @ direction).argsort(stable=True).to(differences.device)


def save_examples(folder: Path, examples: Examples) -> None:
    """Write them as the artifact ``known_anomalies``."""
    tensors = {"latents": examples.latents.half(), "normal": examples.normal.half(), "marks": examples.marks}
    save_artifact(folder, EXAMPLES, EXAMPLES, tensors, {"count": len(examples.latents)})


def load_examples(folder: Path) -> Examples | None:
    """Read the artifact ``known_anomalies``, if there is one."""
    if not (folder / f"{EXAMPLES}.json").is_file():
        return None
    tensors, _ = load_artifact(folder, EXAMPLES, EXAMPLES)
    if set(tensors) != set(Examples._fields) or len({len(part) for part in tensors.values()}) != 1:
        raise UserError(f"{folder / EXAMPLES}.safetensors holds no labelled anomalies: make it again")
    found = Examples(**tensors)
    return found._replace(latents=found.latents.float(), normal=found.normal.float())
