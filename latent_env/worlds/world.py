"""A world: a frozen autoencoder, a detector, and the images that episodes start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from detectors.base import BOTH, FEATURES, IMAGE, LATENT, TOKENS, Detection, Detector
from detectors.blocks.last_layer import LastLayerDetector, has_last_layer
from detectors.rdna import RdnaDetector
from latent_common.errors import UserError
from latent_common.precision import FULL, computing_in
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.autoencoders.frozen import as_float
from latent_env.autoencoders.pretrained import PretrainedEncoder
from latent_env.worlds.labelled_anomalies import LabelledAnomalies
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.reward_ensemble import ensemble_members, trained_part

STRANGERS = "they come from different worlds; make the folder again"

KEPT_BYTES = 512 * 2**20
"""Starting images as floats, and decoded, are kept in memory if each of both takes no more than this."""


@dataclass(frozen=True, eq=False)
class World:
    """The frozen networks and images that any number of episodes and agents share.

    A world is never changed: the methods ``with_…`` return a new one that shares all other parts.
    """

    autoencoder: FrozenAutoencoder
    detector: Detector
    images: Tensor
    """``(N, C, H, W)`` uint8: normal images, the starting points of episodes."""
    latents: Tensor
    """``(N, *latent_shape)``: the whitened latents of these images."""
    backbone: PretrainedEncoder | None = None
    """The network whose features of images the detectors read; None where they read images or latents."""
    reward_ensemble: tuple[Detector, ...] = ()
    """Small detectors that rewards use, as their mean less their disagreement; without any, the detector."""
    held_out_detector: Detector | None = None
    """One more, which no reward uses: where it disagrees, agents over-optimise the reward."""
    reference_set: ReferenceSet | None = None
    """Labelled images that some reward terms are measured on."""
    labelled_anomalies: LabelledAnomalies | None = None
    """Labelled anomalies that detectors train on and that agents may copy into images."""
    precision: str = FULL
    """The precision that networks compute with during steps; their outputs are float32 all the same."""
    decodes_all: bool = True
    """Whether starting images are decoded all at once, and kept, if they fit: for more than a few steps."""

    @classmethod
    def build(
        cls,
        autoencoder: FrozenAutoencoder,
        detector: Detector,
        images: Tensor,
        device: torch.device,
        latents: Tensor | None = None,
        backbone: PretrainedEncoder | None = None,
    ) -> World:
        """A world with its parts moved to ``device``.

        :param images: ``(N, C, H, W)`` uint8.
        :param latents: ``(N, *latent_shape)`` of these images; without them the images are encoded here.
        :param backbone: what detectors see with that read features.
        """
        autoencoder = autoencoder.to(device)
        images = images.to(device)
        check_images(images, autoencoder)
        if latents is None:
            latents = autoencoder.encode_all(images)
        assert isinstance(detector, torch.nn.Module)
        backbone = None if backbone is None else backbone.to(device)
        return cls(autoencoder, detector.to(device), images, latents.to(device).float(), backbone)

    def __post_init__(self) -> None:
        check_parts(self)

    @property
    def device(self) -> torch.device:
        """Where everything lives."""
        return self.latents.device

    @property
    def reads_latents(self) -> bool:
        """Whether the detector reads latents, so that nothing has to be decoded to score it."""
        return self.detector.input == LATENT

    @property
    def reads_features(self) -> bool:
        """Whether the detector reads a backbone's features of images."""
        return self.detector.input == FEATURES

    @property
    def reads_tokens(self) -> bool:
        """Whether the detector reads latents or features, which are stored where images are known."""
        return self.detector.input in TOKENS

    @property
    def token_shape(self) -> tuple[int, ...]:
        """The shape of :meth:`tokens`: ``(K, g, g)`` of features, else that of latents."""
        return self.autoencoder.latent_shape if self.backbone is None else self.backbone.latent_shape

    def tokens(self, images: Tensor) -> Tensor:
        """What anomalies are compared by: features of ``images (B, C, H, W)`` in [0, 1], else latents.

        ``(B, *token_shape)``.
        """
        return (self.autoencoder if self.backbone is None else self.backbone).encode(images)

    def with_detector(self, detector: Detector) -> World:
        """A world like this one with another detector."""
        assert isinstance(detector, torch.nn.Module)
        return replace(self, detector=detector.to(self.device))

    def with_start(self, image: Tensor) -> World:
        """A world like this one with one more starting image, ``(C, H, W)`` uint8, which is the last."""
        image = image[None].to(self.device)
        latent = self.autoencoder.encode_all(image).float()
        return replace(
            self, images=torch.cat([self.images, image]), latents=torch.cat([self.latents, latent])
        )

    def with_reward_ensemble(
        self, reward_ensemble: Sequence[Detector], held_out_detector: Detector | None = None
    ) -> World:
        """A world like this one with another reward ensemble and held-out detector."""
        members = [*reward_ensemble, *([] if held_out_detector is None else [held_out_detector])]
        for member in members:
            assert isinstance(member, torch.nn.Module)
            member.to(self.device)
        return replace(self, reward_ensemble=tuple(reward_ensemble), held_out_detector=held_out_detector)

    def with_reference_set(self, reference_set: ReferenceSet | None) -> World:
        """A world like this one with another reference set."""
        return replace(self, reference_set=None if reference_set is None else reference_set.to(self.device))

    def with_labelled_anomalies(self, labelled_anomalies: LabelledAnomalies | None) -> World:
        """A world like this one with other labelled anomalies."""
        moved = None if labelled_anomalies is None else labelled_anomalies.to(self.device)
        return replace(self, labelled_anomalies=moved)

    def autocast(self) -> torch.autocast:
        """A context in which networks compute with the world's precision."""
        return computing_in(self.precision, self.device)

    @property
    def last_layer_detectors(self) -> list[LastLayerDetector]:
        """The detectors that rewards use, each with a linear last layer that can be copied."""
        found: list[Any] = [trained_part(member) for member in self.reward_ensemble or (self.detector,)]
        for detector in found:
            if not has_last_layer(detector):
                raise UserError(
                    "the reward terms usefulness, similarity and matching need a detector with a trained "
                    f"last layer, not a {type(detector).__name__}: choose detector=transformer, or other "
                    "terms"
                )
        return found

    def start_images(self, index: Tensor) -> Tensor:
        """The starting images with indices ``index (K,)``, ``(K, C, H, W)`` in [0, 1]."""
        if self._floats is not None:
            return self._floats[index]
        return as_float(self.images[index], self.latents)

    def start_decoded(self, index: Tensor) -> Tensor:
        """The starting latents with indices ``index (K,)``, decoded, ``(K, C, H, W)`` in [0, 1]."""
        if self._decoded is not None:
            return self._decoded[index]
        with self.autocast():
            return self.autoencoder.decode(self.latents[index]).float()

    @cached_property
    def _floats(self) -> Tensor | None:
        """All starting images as floats, if they are kept."""
        return as_float(self.images, self.latents) if self._keeps_floats else None

    @property
    def _keeps_floats(self) -> bool:
        """Whether steps need images, and all of them fit in memory as floats."""
        return not self.reads_latents and self.images.numel() * self.latents.element_size() <= KEPT_BYTES

    @cached_property
    def _decoded(self) -> Tensor | None:
        """All starting latents, decoded, if they are kept."""
        if not (self.decodes_all and self._keeps_floats):
            return None
        with torch.no_grad(), self.autocast():
            return self.autoencoder.decode_all(self.latents).float()

    def inputs_from_stored(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """What the detector reads, from latents or features if it reads these, else from images in [0, 1]."""
        return (inputs,) if self.reads_tokens else self.detector_inputs(inputs)

    def detect(self, images: Tensor) -> Detection:
        """Scores and maps of the detector for images ``(B, C, H, W)`` in [0, 1]."""
        return self.detector(*self.detector_inputs(images))

    def detect_and_reconstruct(self, images: Tensor) -> tuple[Detection, Tensor]:
        """Scores and maps for images ``(B, C, H, W)`` in [0, 1], and the images' reconstructions.

        Those are the detector's own where it reconstructs images itself, else the autoencoder's.
        """
        if isinstance(self.detector, RdnaDetector):
            restored, detection = self.detector.outputs(images)
            return detection, restored
        return self.detect(images), self.autoencoder(images)

    def detector_inputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the detector reads for images ``(B, C, H, W)`` in [0, 1]: arguments to call it with."""
        if self.reads_features:
            return (self.tokens(images),)
        return self.autoencoder.detector_inputs(images, self.detector.input)


def check_parts(world: World) -> None:
    """Raise a ``UserError`` if the parts of ``world`` don't fit each other."""
    autoencoder, backbone = world.autoencoder, world.backbone
    image = (autoencoder.channels, autoencoder.size, autoencoder.size)
    shapes = {IMAGE: image, LATENT: tuple(autoencoder.latent_shape)}
    if backbone is not None:
        shapes[FEATURES] = tuple(backbone.latent_shape)
        if (backbone.channels, backbone.size) != image[:2]:
            raise UserError(
                f"the backbone sees images of {(backbone.channels, backbone.size)} channels and pixels, the "
                f"autoencoder draws {image[:2]}: {STRANGERS}"
            )
    shapes[BOTH] = image
    held_out = [] if world.held_out_detector is None else [world.held_out_detector]
    for detector in (world.detector, *world.reward_ensemble, *held_out):
        for part in ensemble_members(detector) or [detector]:
            if shapes.get(part.input) != tuple(part.input_shape):
                raise UserError(
                    f"a detector reads {part.input}: {tuple(part.input_shape)}, but this world has "
                    f"{shapes.get(part.input, 'no backbone')}: {STRANGERS}"
                )
    check_images(world.images, autoencoder)
    if tuple(world.latents.shape) != (len(world.images), *autoencoder.latent_shape):
        raise UserError(f"the latents of the starting images are of another autoencoder: {STRANGERS}")


def check_images(images: Tensor, autoencoder: FrozenAutoencoder) -> None:
    """Raise a ``UserError`` unless ``images`` are starting images that ``autoencoder`` can encode."""
    shape = (autoencoder.channels, autoencoder.size, autoencoder.size)
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape or not len(images):
        raise UserError(f"the starting images must be one or more uint8 of {shape}: {STRANGERS}")
