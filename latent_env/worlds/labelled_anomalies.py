"""Labelled anomalies that detectors train on, as an agent may use them: as latents, and as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from detectors.blocks.memory_bank import PositionalMemory
from latent_common.artifacts import load_artifact, save_artifact
from latent_common.errors import UserError
from latent_common.image_source import evenly_spaced_positions
from latent_env.autoencoders.frozen import FrozenAutoencoder, as_float

LABELLED_ANOMALIES = "labelled_anomalies"
MOST, MOST_NUMBERS = 256, 2**24
"""Of more anomalies, or of larger pictures, so many evenly spaced ones are kept."""

MIRRORINGS = ((), (-1,), (-2,), (-2, -1))
"""The dimensions of an image along which it is mirrored: not at all, left and right, top and bottom, both."""


def mirrored(images: Tensor) -> Tensor:
    """Images ``(K, C, H, W)`` in all mirrorings, ``(M, K, C, H, W)``."""
    return torch.stack([images.flip(dims) if dims else images for dims in MIRRORINGS])


class LabelledAnomalies(NamedTuple):
    """Latents of K anomalies, and what normal images would have in their place.

    There are M = 4 of each, one a mirroring, where it is known where the anomalies are: what surrounds a
    graft stays as it is. Where it isn't, a whole image would stand on its head, and M = 1.
    """

    latents: Tensor
    """``(M, K, *latent_shape)``"""
    normal: Tensor
    """``(M, K, *latent_shape)``: for every token the nearest one that normal images have at its place."""
    marks: Tensor
    """``(M, K, 1, h, w)`` bool: the anomalous tokens; all of them where that isn't known."""
    images: Tensor
    """``(K, C, H, W)`` uint8: the pictures themselves; K = 0 where detectors read latents."""
    masks: Tensor
    """``(K, 1, H, W)`` bool: their anomalous pixels; all of them where that isn't known."""

    @classmethod
    def of(
        cls,
        latents: Tensor,
        marks: Tensor,
        normals: Tensor,
        images: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> LabelledAnomalies:
        """Examples of anomalies ``latents (M, A, *latent_shape)`` among ``normals (N, *latent_shape)``.

        They are put in order: neighbours are alike. Without a token in ``marks (M, A, 1, h, w)`` bool it
        isn't known where an anomaly is. Their ``images (A, C, H, W)`` uint8 and ``masks (A, 1, H, W)`` bool
        are for detectors that read images.
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
        order = _alike((latents - normal)[0], marks[0])
        if len(images):
            images, masks = images[picks][order], _all_if_none(masks[picks])[order]
        return cls(latents[:, order], normal[:, order], marks[:, order], images, masks)

    def to(self, device: torch.device) -> LabelledAnomalies:
        """The same on ``device``."""
        return LabelledAnomalies(*(part.to(device) for part in self))

    def undrawn(self, autoencoder: FrozenAutoencoder) -> Tensor:
        """What decoding loses of every picture, ``(M, K, C, H, W)`` in half precision."""
        pictures = mirrored(self.images)[: len(self.latents)]
        found = [
            as_float(shown, latents) - autoencoder.decode_all(latents).float()
            for shown, latents in zip(pictures, self.latents, strict=True)
        ]
        return torch.stack(found).half()


def _all_if_none(marks: Tensor) -> Tensor:
    """``marks (…, 1, h, w)`` bool, all of them where there is none."""
    return marks | ~marks.flatten(-3).any(-1)[..., None, None, None]


def _alike(differences: Tensor, marks: Tensor) -> Tensor:
    """An order ``(K,)`` of what differs: along the direction in which its means vary most."""
    weights = marks.to(differences).expand_as(differences)
    means = (differences * weights).flatten(2).sum(2) / weights.flatten(2).sum(2).clamp_min(1)
    means = (means - means.mean(0)).double().cpu()
    direction = torch.linalg.svd(means, full_matrices=False).Vh[0]
    # Which of both ends comes first is as good as random, and must be the same everywhere.
    direction = direction * direction[direction.abs().argmax()].sign()
    return (means @ direction).argsort(stable=True).to(differences.device)


def save_labelled_anomalies(folder: Path, labelled_anomalies: LabelledAnomalies) -> None:
    """Write them as the artifact ``labelled_samples``."""
    tensors = {
        name: part.half() if part.is_floating_point() else part
        for name, part in labelled_anomalies._asdict().items()
    }
    save_artifact(
        folder,
        LABELLED_ANOMALIES,
        LABELLED_ANOMALIES,
        tensors,
        {"count": labelled_anomalies.latents.shape[1]},
    )


def load_labelled_anomalies(folder: Path) -> LabelledAnomalies | None:
    """Read the artifact ``labelled_samples``, if there is one."""
    if not (folder / f"{LABELLED_ANOMALIES}.json").is_file():
        return None
    tensors, _ = load_artifact(folder, LABELLED_ANOMALIES, LABELLED_ANOMALIES)
    if not _fit(tensors):
        raise UserError(
            f"{folder / LABELLED_ANOMALIES}.safetensors holds no labelled anomalies that this version reads: "
            "delete the folder, and `python train_detector.py` makes it again"
        )
    found = LabelledAnomalies(**tensors)
    return found._replace(latents=found.latents.float(), normal=found.normal.float())


def _fit(tensors: dict[str, Tensor]) -> bool:
    """Whether these are examples, and as many of each."""
    if set(tensors) != set(LabelledAnomalies._fields):
        return False
    by_mirroring = {tensors[name].shape[:2] for name in ("latents", "normal", "marks")}
    counts = {len(tensors[name]) for name in ("images", "masks")}
    return (
        tensors["latents"].ndim == 5
        and len(by_mirroring) == 1
        and counts <= {tensors["latents"].shape[1], 0}
        and len(counts) == 1
    )
