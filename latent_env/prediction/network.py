"""A detector and what it reads with: from images to raw scores and maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from detectors.base import BOTH, FEATURES, IMAGE, LATENT, TOKENS, Detection, Detector
from detectors.blocks.tokens import at_size
from detectors.rdna import RdnaDetector
from latent_common.errors import UserError
from latent_common.precision import as_stored
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.autoencoders.pretrained import PretrainedEncoder
from latent_env.worlds.artifacts import BACKBONE, load_autoencoder, load_backbone, load_detector

Encoder = FrozenAutoencoder | PretrainedEncoder


@dataclass(frozen=True, eq=False)
class Network:
    """A detector, and the autoencoder or backbone that makes what it reads; neither for some."""

    detector: Detector
    encoder: Encoder | None

    @property
    def image_shape(self) -> tuple[int, int]:
        """Channels, and pixels a side, of the images that it sees."""
        if self.encoder is None:
            channels, size, _ = self.detector.input_shape
            return channels, size
        return self.encoder.channels, self.encoder.size

    def to(self, device: torch.device) -> Network:
        """Move the network to ``device``."""
        assert isinstance(self.detector, nn.Module)
        encoder = None if self.encoder is None else self.encoder.to(device)
        return Network(self.detector.to(device), encoder)

    def inputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the detector reads of images ``(B, C, H, W)`` in [0, 1]."""
        if self.encoder is None:
            return (images,)
        if self.detector.input in TOKENS:  # rounded as those of validation images were
            return (as_stored(self.encoder.encode(images)).float(),)
        assert isinstance(self.encoder, FrozenAutoencoder)
        return self.encoder.detector_inputs(images, self.detector.input)

    @torch.inference_mode()
    def detect(self, images: Tensor) -> Detection:
        """Raw scores ``(B,)`` and maps ``(B, 1, H, W)`` of images ``(B, C, H, W)`` uint8."""
        return self.detection(images)

    def detection(self, images: Tensor) -> Detection:
        """What :meth:`detect` returns, computed in a way that can be exported."""
        score, maps = self.detector(*self.inputs(images.float() / 255))
        return Detection(score.float(), at_size(maps, images.shape[-1]).float())


def load_network(folder: Path, parts: Mapping[str, str]) -> Network:
    """The detector in ``folder`` and what it reads with, on the CPU.

    :param parts: the artifacts that its decision was measured with.
    """
    detector = load_detector(folder)
    network = Network(detector, _load_encoder(folder, detector, parts))
    _check(network, folder)
    return network


def _load_encoder(folder: Path, detector: Detector, parts: Mapping[str, str]) -> Encoder | None:
    if isinstance(detector, RdnaDetector):  # it reconstructs images itself
        return None
    if detector.input == FEATURES or (detector.input == LATENT and "autoencoder" not in parts):
        backbone = load_backbone(folder) if BACKBONE in parts else None
        if backbone is None:
            raise UserError(
                f"{folder} lacks the encoder of its detector: delete the folder and make it again"
            )
        return backbone
    return load_autoencoder(folder)


def _check(network: Network, folder: Path) -> None:
    """Raise a ``UserError`` unless the parts fit each other."""
    if network.encoder is None:
        return
    channels, size = network.image_shape
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys((IMAGE, BOTH), (channels, size, size))
    shapes |= dict.fromkeys(TOKENS, tuple(network.encoder.latent_shape))
    if shapes[network.detector.input] != tuple(network.detector.input_shape):
        raise UserError(
            f"{folder}: its detector reads {tuple(network.detector.input_shape)}, but what is beside it "
            f"makes {shapes[network.detector.input]}: they come from different runs; make the folder again"
        )
