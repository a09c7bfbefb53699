"""Scores of images by the error of an autoencoder, outside of a command: equal images get equal scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detectors.base import Detection
from detectors.reconstruction import ReconstructionDetector
from latent_common.errors import UserError
from latent_common.image_source import images_at_once
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.worlds.artifacts import load_autoencoder, load_detector


@dataclass(frozen=True)
class ReconstructionScorer:
    """A frozen autoencoder and the detector that reads its error.

    Nothing is sampled: a variational autoencoder reconstructs from the mean of its encoding.
    """

    autoencoder: FrozenAutoencoder
    detector: ReconstructionDetector

    @classmethod
    def load(cls, autoencoder: Path, detector: Path) -> ReconstructionScorer:
        """From the folders that ``train_ae.py`` and ``train_detector.py detector=reconstruction`` left."""
        member = load_detector(detector)
        if not isinstance(member, ReconstructionDetector):
            raise UserError(f"{detector} holds another detector: name a folder of detector=reconstruction")
        frozen = load_autoencoder(autoencoder)
        if member.input_shape != (frozen.channels, frozen.size, frozen.size):
            raise UserError(f"{detector} scores images of another shape than {autoencoder} reconstructs")
        return cls(frozen, member)

    @torch.inference_mode()
    def score(self, images: Tensor) -> Detection:
        """Image scores ``(B,)`` and error maps ``(B, 1, H, W)`` of images ``(B, C, H, W)`` in [0, 1]."""
        parts = images.split(images_at_once(self.autoencoder.size))
        found = [self.detector(part, self.autoencoder(part)) for part in parts]
        return Detection(torch.cat([part.score for part in found]), torch.cat([part.map for part in found]))
