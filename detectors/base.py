"""What a detector reads and returns, and what every detector offers."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Detection(NamedTuple):
    """A detector's prediction for a batch of images."""

    score: Tensor
    """``(B,)``: the image's anomaly score as a logit; above 0 means more likely abnormal."""
    map: Tensor
    """``(B, 1, h, w)``: the anomaly logit of every pixel, or of every token of a latent."""


IMAGE, LATENT, FEATURES, BOTH = "image", "latent", "features", "both"
"""What a detector reads: images ``(B, C, H, W)`` in [0, 1] and their reconstructions; whitened latents
``(B, *latent_shape)``; a backbone's whitened features of the images, ``(B, K, g, g)``; or images,
reconstructions and latents, in this order."""

TOKENS = (LATENT, FEATURES)
"""Inputs that are tokens alone."""


class Detector(Protocol):
    """An anomaly detector; it is an ``nn.Module`` as well."""

    input: str
    """:data:`IMAGE`, :data:`LATENT`, :data:`FEATURES` or :data:`BOTH`."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image, or of one latent or of one image's features where no images are read."""

    def __call__(self, *args: Any, **kwargs: Any) -> Detection:
        """Score a batch: of images and their reconstructions, of latents or features, or of all three."""

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build the architecture again."""


def check_tokens(reads: str) -> str:
    """``reads``, if it is one of :data:`TOKENS`."""
    if reads not in TOKENS:
        raise ValueError(f"a detector of tokens reads {' or '.join(TOKENS)}, not {reads!r}")
    return reads


def inputs_for(reads: str, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a detector with the input ``reads`` needs of images, reconstructions and latents.

    Of fewer than these three, all are returned.
    """
    if len(inputs) < 3 or reads == BOTH:
        return inputs
    return inputs[2:] if reads == LATENT else inputs[:2]
