"""Labelled anomalies that detectors train on, as agents may copy them: latents, images and masks."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.distances.memory_bank import PositionalMemory
from latent_common.artifacts import in_half_if_exact, load_artifact, save_artifact
from latent_common.errors import UserError
from latent_common.image_source import evenly_spaced_positions
from latent_env.autoencoders.frozen import FrozenAutoencoder, as_float

LABELLED_ANOMALIES = "labelled_anomalies"
MOST, MOST_NUMBERS = 256, 2**24
"""At most so many anomalies are kept, and so many numbers of their images; of more, evenly spaced ones."""

MIRRORINGS = ((), (-1,), (-2,), (-2, -1))
"""The dimensions of an image along which it is mirrored: none, left and right, top and bottom, both."""


def mirrored(images: Tensor) -> Tensor:
    """Images ``(K, C, H, W)`` in all mirrorings, ``(M, K, C, H, W)``."""
    return torch.stack([images.flip(dims) if dims else images for dims in MIRRORINGS])


class LabelledAnomalies(NamedTuple):
    """K anomalies in M mirrorings, and the normal latents that they would replace.

    M is 4 where masks say where the anomalies are: then only they are copied, not what surrounds them.
    Without masks a whole image would be mirrored, so M is 1.
    """

    latents: Tensor
    """``(M, K, *latent_shape)``: of the images with anomalies."""
    normal: Tensor
    """``(M, K, *latent_shape)``: for every token the nearest one of normal images at the same position."""
    marks: Tensor
    """``(M, K, 1, h, w)`` bool: the anomalous tokens; all tokens where there is no mask."""
    images: Tensor
    """``(K, C, H, W)`` uint8: the images; K is 0 where detectors read latents."""
    masks: Tensor
    """``(K, 1, H, W)`` bool: their anomalous pixels; all pixels where there is no mask."""

    @classmethod
    def of(
        cls,
        latents: Tensor,
        marks: Tensor,
        normals: Tensor,
        images: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> LabelledAnomalies:
        """Choose and order anomalies, and find the normal latents that they would replace.

        They are ordered by their mean difference from normal tokens, so that neighbours are similar.

        :param latents: ``(M, A, *latent_shape)`` of the A images with anomalies.
        :param marks: ``(M, A, 1, h, w)`` bool, the anomalous tokens; none where there is no mask.
        :param normals: ``(N, *latent_shape)`` of normal images.
        :param images: ``(A, C, H, W)`` uint8, for detectors that read images.
        :param masks: ``(A, 1, H, W)`` bool of these images.
        """
        if images is None or masks is None:
            images = torch.zeros(0, 1, 1, 1, dtype=torch.uint8, device=latents.device)
            masks = torch.zeros(0, 1, 1, 1, dtype=torch.bool, device=latents.device)
        most = min(MOST, max(MOST_NUMBERS // images[0].numel(), 1)) if len(images) else MOST
        picks = evenly_spaced_positions(latents.shape[1], most).to(latents.device)
        latents, marks = latents[:, picks].float(), _all_if_none(marks[:, picks])
        memory = PositionalMemory(normals.shape[1:], len(normals)).to(normals.device)
        memory.fill(normals, torch.arange(len(normals), device=normals.device))
        difference, _ = memory(latents.flatten(0, 1))
        normal = latents - difference.transpose(1, 2).reshape(latents.shape)
        order = _order((latents - normal)[0], marks[0])
        if len(images):
            images, masks = images[picks][order], _all_if_none(masks[picks])[order]
        return cls(latents[:, order], normal[:, order], marks[:, order], images, masks)

    def to(self, device: torch.device) -> LabelledAnomalies:
        """The anomalies on ``device``."""
        return LabelledAnomalies(*(part.to(device) for part in self))

    def residues(self, autoencoder: FrozenAutoencoder) -> Tensor:
        """Each image less its reconstruction, ``(M, K, C, H, W)`` in half precision."""
        images = mirrored(self.images)[: len(self.latents)]
        found = [
            as_float(real, latents) - autoencoder.decode_all(latents).float()
            for real, latents in zip(images, self.latents, strict=True)
        ]
        return torch.stack(found).half()


def _all_if_none(marks: Tensor) -> Tensor:
    """``marks (…, 1, h, w)`` bool; where none is set, all are."""
    return marks | ~marks.flatten(-3).any(-1)[..., None, None, None]


def _order(differences: Tensor, marks: Tensor) -> Tensor:
    """An order ``(K,)`` in which similar ones are neighbours.

    It goes along the direction in which the means of ``differences (K, C, h, w)`` at ``marks`` vary most.
    """
    weights = marks.to(differences).expand_as(differences)
    means = (differences * weights).flatten(2).sum(2) / weights.flatten(2).sum(2).clamp_min(1)
    means = (means - means.mean(0)).double().cpu()
    direction = torch.linalg.svd(means, full_matrices=False).Vh[0]
    # The sign of a singular vector is arbitrary: fix it, so that the order is the same everywhere.
    direction = direction * direction[direction.abs().argmax()].sign()
    return (means @ direction).argsort(stable=True).to(differences.device)


def save_labelled_anomalies(folder: Path, labelled_anomalies: LabelledAnomalies) -> None:
    """Write the artifact ``labelled_anomalies``; all that is read back is as it was."""
    tensors = {
        name: in_half_if_exact(part) if part.is_floating_point() else part
        for name, part in labelled_anomalies._asdict().items()
    }
    facts = {"count": labelled_anomalies.latents.shape[1]}
    save_artifact(folder, LABELLED_ANOMALIES, LABELLED_ANOMALIES, tensors, facts)


def load_labelled_anomalies(folder: Path) -> LabelledAnomalies | None:
    """Read the artifact ``labelled_anomalies``; None if ``folder`` has none."""
    if not (folder / f"{LABELLED_ANOMALIES}.json").is_file():
        return None
    tensors, _ = load_artifact(folder, LABELLED_ANOMALIES, LABELLED_ANOMALIES)
    if not _complete(tensors):
        raise UserError(
            f"{folder / LABELLED_ANOMALIES}.safetensors holds no labelled anomalies that this version reads: "
            "delete the folder, and `python train_detector.py` makes it again"
        )
    found = LabelledAnomalies(**tensors)
    return found._replace(latents=found.latents.float(), normal=found.normal.float())


def _complete(tensors: dict[str, Tensor]) -> bool:
    """Whether all tensors are there, of the same number of anomalies."""
    if set(tensors) != set(LabelledAnomalies._fields):
        return False
    by_mirroring = {tensors[name].shape[:2] for name in ("latents", "normal", "marks")}
    counts = {len(tensors[name]) for name in ("images", "masks")}
    return (
        tensors["latents"].ndim == 5
        and all(tensors[name].dtype == torch.bool for name in ("marks", "masks"))
        and tensors["images"].dtype == torch.uint8
        and tensors["latents"].shape == tensors["normal"].shape
        and tensors["marks"].shape[2:] == (1, *tensors["latents"].shape[3:])
        and tensors["images"].ndim == tensors["masks"].ndim == 4
        and len(by_mirroring) == 1
        and counts <= {tensors["latents"].shape[1], 0}
        and len(counts) == 1
    )
