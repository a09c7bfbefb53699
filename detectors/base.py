"""What every detector offers."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Detection(NamedTuple):
    """What a detector says of a batch of images."""

    score: Tensor
    """``(B,)``: the image's anomaly score as a logit; above 0 means more likely abnormal."""
    map: Tensor
    """``(B, 1, h, w)``: the anomaly logit of every pixel, or of every token of a latent."""


IMAGE, LATENT = "image", "latent"
"""What a detector reads: images ``(B, C, H, W)`` in [0, 1] and what the autoencoder makes of them, or
whitened latents ``(B, *latent_shape)``."""


class Detector(Protocol):
    """An anomaly detector; it is an ``nn.Module`` as well."""

    input: str
    """:data:`IMAGE` or :data:`LATENT`."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image, or of one latent."""

    def __call__(self, *args: Any, **kwargs: Any) -> Detection:
        """Judge a batch: of images and their reconstructions, or of latents."""

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build the architecture again."""
