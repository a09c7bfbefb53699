"""Labelled images that a reward is measured on, apart from those that report the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.tokens import grid_of
from latent_common.artifacts import load_artifact, save_artifact
from latent_common.errors import UserError
from latent_common.image_source import spread_positions

TRIAL = "trial"
MOST = 32
"""Of more normal images, or anomalies, so many evenly spaced ones are kept: every step looks at them."""


class Trial(NamedTuple):
    """What detectors read of normal and of anomalous images that none of them was trained on."""

    inputs: Tensor
    """``(R, C, H, W)`` uint8, or latents ``(R, *latent_shape)``."""
    labels: Tensor
    """``(R,)`` int64: 0 normal, 1 anomaly; both occur."""
    marks: Tensor | None = None
    """``(R, 1, h, w)`` bool: which tokens are anomalous; None where nobody knows."""

    @classmethod
    def of(cls, inputs: Tensor, labels: Tensor, marks: Tensor | None = None) -> Trial | None:
        """A trial of some of the images, evenly spaced; None if they aren't of both kinds."""
        kinds = [(labels == label).nonzero().flatten() for label in (0, 1)]
        if not all(len(kind) for kind in kinds):
            return None
        picks = torch.cat([kind[spread_positions(len(kind), MOST)] for kind in kinds])
        return cls(inputs[picks.to(inputs.device)], labels[picks], None if marks is None else marks[picks])

    def fits(self, input_shape: Sequence[int], latent_shape: Sequence[int]) -> bool:
        """Whether it is of a world where detectors read, and latents have, these shapes."""
        grid = (1, *grid_of(latent_shape))
        return tuple(self.inputs.shape[1:]) == tuple(input_shape) and (
            self.marks is None or tuple(self.marks.shape[1:]) == grid
        )

    def to(self, device: torch.device) -> Trial:
        """The same on ``device``."""
        marks = None if self.marks is None else self.marks.to(device)
        return Trial(self.inputs.to(device), self.labels.to(device), marks)


def save_trial(folder: Path, trial: Trial) -> None:
    """Write what a reward is measured on as the artifact ``trial``."""
    inputs = trial.inputs if trial.inputs.dtype == torch.uint8 else trial.inputs.half()
    tensors = {"inputs": inputs, "labels": trial.labels}
    if trial.marks is not None:
        tensors["marks"] = trial.marks.to(torch.uint8)
    save_artifact(folder, TRIAL, TRIAL, tensors, {"count": len(inputs)})


def load_trial(folder: Path) -> Trial | None:
    """Read the artifact ``trial``, if there is one."""
    if not (folder / f"{TRIAL}.json").is_file():
        return None
    tensors, _ = load_artifact(folder, TRIAL, TRIAL)
    if not {"inputs", "labels"} <= set(tensors) or len({len(each) for each in tensors.values()}) > 1:
        raise UserError(f"{folder / 'trial.safetensors'} holds no trial: make it again")
    marks = tensors.get("marks")
    return Trial(tensors["inputs"], tensors["labels"], None if marks is None else marks.bool())
