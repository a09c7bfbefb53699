"""What a world is made of: a frozen autoencoder, a detector, and the images episodes start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from detectors.base import LATENT, Detection, Detector
from detectors.blocks.last_layer import LastLayerDetector, has_last_layer
from detectors.rdna import RdnaDetector
from latent_common.errors import UserError
from latent_common.precision import FULL, computing_in
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.autoencoders.frozen import as_float
from latent_env.worlds.labelled_anomalies import LabelledAnomalies
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.reward_ensemble import trained_part

# Starting images as floats, and decoded, are kept when each fits here; otherwise a step makes its own.
KEPT_BYTES = 512 * 2**20


@dataclass(frozen=True, eq=False)
class World:
    """The frozen parts that any number of episodes, worlds and agents share."""

    autoencoder: FrozenAutoencoder
    detector: Detector
    images: Tensor
    """``(N, C, H, W)`` uint8: normal images, the starting points of episodes."""
    latents: Tensor
    """``(N, *latent_shape)``: their whitened latents."""
    reward_ensemble: tuple[Detector, ...] = ()
    """Small detectors whose mean word, less their disagreement, rewards go by; none: the detector."""
    held_out_detector: Detector | None = None
    """One more, which no reward goes by: where it disagrees with them, the reward is being fooled."""
    reference_set: ReferenceSet | None = None
    """Labelled images that a reward is measured on."""
    labelled_anomalies: LabelledAnomalies | None = None
    """Labelled anomalies that detectors train on, which an agent may graft."""
    precision: str = FULL
    """In which numbers networks compute during steps; what facts they tell is float32."""

    @classmethod
    def build(
        cls,
        autoencoder: FrozenAutoencoder,
        detector: Detector,
        images: Tensor,
        device: torch.device,
        latents: Tensor | None = None,
    ) -> World:
        """Put the parts on the device.

        ``images (N, C, H, W)`` uint8 are encoded once and for all, unless their ``latents`` are known.
        """
        autoencoder = autoencoder.to(device)
        images = images.to(device)
        if latents is None:
            latents = autoencoder.encode_all(images)
        assert isinstance(detector, torch.nn.Module)
        return cls(autoencoder, detector.to(device), images, latents.to(device).float())

    @property
    def device(self) -> torch.device:
        """Where everything lives."""
        return self.latents.device

    @property
    def reads_latents(self) -> bool:
        """Whether the detector reads latents, so that nothing needs to be decoded to be judged."""
        return self.detector.input == LATENT

    def with_detector(self, detector: Detector) -> World:
        """The same world, judged by another detector."""
        assert isinstance(detector, torch.nn.Module)
        return replace(self, detector=detector.to(self.device))

    def with_reward_ensemble(
        self, reward_ensemble: Sequence[Detector], held_out_detector: Detector | None = None
    ) -> World:
        """The same world, where rewards go by ``reward_ensemble``."""
        members = [*reward_ensemble, *([] if held_out_detector is None else [held_out_detector])]
        for member in members:
            assert isinstance(member, torch.nn.Module)
            member.to(self.device)
        return replace(self, reward_ensemble=tuple(reward_ensemble), held_out_detector=held_out_detector)

    def with_reference_set(self, reference_set: ReferenceSet | None) -> World:
        """The same world, where rewards are measured on ``reference_set``."""
        return replace(self, reference_set=None if reference_set is None else reference_set.to(self.device))

    def with_labelled_anomalies(self, labelled_anomalies: LabelledAnomalies | None) -> World:
        """The same world, where an agent may graft ``labelled_anomalies``."""
        return replace(
            self,
            labelled_anomalies=None if labelled_anomalies is None else labelled_anomalies.to(self.device),
        )

    def autocast(self) -> torch.autocast:
        """A context in which networks compute in the world's precision."""
        return computing_in(self.precision, self.device)

    @property
    def last_layer_detectors(self) -> list[LastLayerDetector]:
        """The judges, or the detector, as detectors whose last layer can be copied."""
        parts: list[Any] = [trained_part(member) for member in self.reward_ensemble or (self.detector,)]
        for member in parts:
            if not has_last_layer(member):
                raise UserError(
                    f"a reward that trains copies of a detector's last layer needs one that is trained, "
                    f"not a {type(member).__name__}: choose detector=transformer, or other reward terms"
                )
        return parts

    def start_images(self, index: Tensor) -> Tensor:
        """The starting images ``index (K,)`` as floats, ``(K, C, H, W)``."""
        if self._floats is not None:
            return self._floats[index]
        return as_float(self.images[index], self.latents)

    def start_decoded(self, index: Tensor) -> Tensor:
        """What the decoder makes of the starting latents ``index (K,)``, ``(K, C, H, W)``."""
        if self._decoded is not None:
            return self._decoded[index]
        with self.autocast():
            return self.autoencoder.decode(self.latents[index]).float()

    @cached_property
    def _floats(self) -> Tensor | None:
        """All starting images as floats, under the same conditions."""
        return as_float(self.images, self.latents) if self._keeps_floats else None

    @property
    def _keeps_floats(self) -> bool:
        """Whether every step asks for some images and memory allows it to have all of them at hand."""
        return not self.reads_latents and self.images.numel() * self.latents.element_size() <= KEPT_BYTES

    @cached_property
    def _decoded(self) -> Tensor | None:
        """All starting latents decoded, where that is worth it."""
        if not self._keeps_floats:
            return None
        with torch.no_grad(), self.autocast():
            return self.autoencoder.decode_all(self.latents).float()

    def inputs_from_stored(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The same of images, or of latents that are known where the detector reads those."""
        return (inputs,) if self.reads_latents else self.detector_inputs(inputs)

    def detect(self, images: Tensor) -> Detection:
        """The detector's word on images ``(B, C, H, W)`` in [0, 1]."""
        return self.detector(*self.detector_inputs(images))

    def detect_and_reconstruct(self, images: Tensor) -> tuple[Detection, Tensor]:
        """The detector's word on images ``(B, C, H, W)`` in [0, 1], and the reconstructions it goes by."""
        if isinstance(self.detector, RdnaDetector):
            restored, detection = self.detector.outputs(images)
            return detection, restored
        return self.detect(images), self.autoencoder(images)

    def detector_inputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the detector reads of images ``(B, C, H, W)`` in [0, 1]."""
        return self.autoencoder.detector_inputs(images, self.detector.input)
