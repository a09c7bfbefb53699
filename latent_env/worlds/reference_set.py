"""The reference set: labelled images that reward terms are measured on, none of them from the test split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.blocks.tokens import grid_of
from latent_common.artifacts import load_artifact, save_artifact
from latent_common.errors import UserError
from latent_common.image_source import evenly_spaced

REFERENCE_SET = "reference_set"
MOST = 32
"""At most so many normal images, and so many anomalies, are kept: every step is measured on all of them."""


class ReferenceSet(NamedTuple):
    """Normal and anomalous images, or their latents, that no detector was trained on."""

    inputs: Tensor
    """``(R, C, H, W)`` uint8, or latents or features ``(R, *token_shape)``."""
    labels: Tensor
    """``(R,)`` int64: 0 normal, 1 anomaly; both occur."""
    marks: Tensor | None = None
    """``(R, 1, h, w)`` bool: which tokens are anomalous; None where that isn't known."""

    @classmethod
    def of(cls, inputs: Tensor, labels: Tensor, marks: Tensor | None = None) -> ReferenceSet | None:
        """A set of evenly spaced ones of the given images; None if they don't have both labels."""
        by_label = [(labels == label).nonzero().flatten() for label in (0, 1)]
        if not all(len(rows) for rows in by_label):
            return None
        picks = torch.cat([evenly_spaced(rows, MOST) for rows in by_label])
        return cls(inputs[picks.to(inputs.device)], labels[picks], None if marks is None else marks[picks])

    def fits(self, input_shape: Sequence[int], token_shape: Sequence[int]) -> bool:
        """Whether it belongs to a world of these shapes: of what detectors read, and of its tokens."""
        grid = (1, *grid_of(token_shape))
        return tuple(self.inputs.shape[1:]) == tuple(input_shape) and (
            self.marks is None or tuple(self.marks.shape[1:]) == grid
        )

    def to(self, device: torch.device) -> ReferenceSet:
        """The set on ``device``."""
        marks = None if self.marks is None else self.marks.to(device)
        return ReferenceSet(self.inputs.to(device), self.labels.to(device), marks)


def save_reference_set(folder: Path, reference_set: ReferenceSet) -> None:
    """Write the artifact ``reference_set``."""
    inputs = (
        reference_set.inputs if reference_set.inputs.dtype == torch.uint8 else reference_set.inputs.half()
    )
    tensors = {"inputs": inputs, "labels": reference_set.labels}
    if reference_set.marks is not None:
        tensors["marks"] = reference_set.marks.to(torch.uint8)
    save_artifact(folder, REFERENCE_SET, REFERENCE_SET, tensors, {"count": len(inputs)})


def load_reference_set(folder: Path) -> ReferenceSet | None:
    """Read the artifact ``reference_set``; None if ``folder`` has none."""
    if not (folder / f"{REFERENCE_SET}.json").is_file():
        return None
    tensors, _ = load_artifact(folder, REFERENCE_SET, REFERENCE_SET)
    if not _complete(tensors):
        raise UserError(
            f"{folder / 'reference_set.safetensors'} holds no reference set: delete the folder, and "
            "`python train_detector.py` makes it again"
        )
    marks = tensors.get("marks")
    return ReferenceSet(tensors["inputs"], tensors["labels"], None if marks is None else marks.bool())


def _complete(tensors: dict[str, Tensor]) -> bool:
    """Whether all tensors are there, one row an image, with both labels and no others."""
    if not {"inputs", "labels"} <= set(tensors) <= {"inputs", "labels", "marks"}:
        return False
    shapes = [each.shape for each in tensors.values()]
    labels = tensors["labels"]
    return (
        all(shapes)
        and len({shape[0] for shape in shapes}) == 1
        and labels.ndim == 1
        and labels.dtype == torch.int64
        and set(labels.tolist()) == {0, 1}
    )
