"""What every detector offers."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Detection(NamedTuple):
    """What a detector says of a batch of images."""

    score: Tensor
    """``(B,)``: the image's anomaly score as a logit; above 0 means more likely abnormal."""
    map: Tensor
    """``(B, 1, H, W)``: the anomaly logit of every pixel."""


class Detector(Protocol):
    """An anomaly detector; it is an ``nn.Module`` as well."""

    def __call__(self, images: Tensor, reconstructions: Tensor) -> Detection:
        """Judge images ``(B, C, H, W)`` in [0, 1], given what the autoencoder makes of them."""

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build the architecture again."""
