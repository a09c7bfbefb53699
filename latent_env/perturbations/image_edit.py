"""Edits of images in addition to the decoded change, such as pixels copied from a real anomaly."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from latent_env.transition import Transition


class ImageEdit(NamedTuple):
    """What was done to N images since their episodes began; without any edit all of it is 0.

    The change of the image is ``matte · (decoded change + residue)``.
    """

    matte: Tensor
    """``(N, 1, H, W)`` in [0, 1]: the share of the change that is let through at each pixel."""
    residue: Tensor
    """``(N, C, H, W)``: what is added to the decoded change, such as detail that no decoder reproduces."""
    genuine: Tensor
    """``(N, 1, H, W)`` in [0, 1]: how much of each pixel belongs to a real anomaly."""

    def on(self, decoded: Tensor) -> Tensor:
        """The change of the images for the decoded change ``decoded``, both ``(N, C, H, W)``."""
        return self.matte * (decoded + self.residue)


@runtime_checkable
class ImageEditor(Protocol):
    """A perturbation that edits images as well as latents."""

    def edit_image(self, actions: Tensor, before: Transition) -> ImageEdit | None:
        """The edit of the images after ``before`` and then ``actions (N, action_size)``; None for none."""


def merged(worlds: Tensor, there: ImageEdit | None, elsewhere: ImageEdit | None) -> ImageEdit | None:
    """The edit ``there`` in ``worlds (N,)`` bool and ``elsewhere`` in all others; None if both are None."""
    if there is None and elsewhere is None:
        return None
    known = there or elsewhere
    assert known is not None
    blank = ImageEdit(*(torch.zeros_like(part) for part in known))
    pairs = zip(there or blank, elsewhere or blank, strict=True)
    return ImageEdit(*(torch.where(worlds[:, None, None, None], a, b) for a, b in pairs))
