"""What happens to an image beside what is decoded: pixels from elsewhere, and pixels that must stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from latent_env.transition import Transition


class ImageEdit(NamedTuple):
    """What was done to images since their episodes began. Where nothing was, all of it is 0."""

    matte: Tensor
    """``(N, 1, H, W)`` in [0, 1]: how much of any change is let through."""
    residue: Tensor
    """``(N, C, H, W)``: what is added to what decoding says."""
    genuine: Tensor
    """``(N, 1, H, W)`` in [0, 1]: how much of a real anomaly is there."""

    def on(self, decoded: Tensor) -> Tensor:
        """The change of images ``(N, C, H, W)`` where the decoded change would be ``decoded``."""
        return self.matte * (decoded + self.residue)


@runtime_checkable
class ImageEditor(Protocol):
    """A perturbation that changes images beside their latents."""

    def edit_image(self, actions: Tensor, before: Transition) -> ImageEdit | None:
        """What was done to the images once ``actions (N, action_size)`` are taken after ``before``."""


def merged(worlds: Tensor, there: ImageEdit | None, elsewhere: ImageEdit | None) -> ImageEdit | None:
    """``there`` in ``worlds (N,)`` bool, ``elsewhere`` in all others. None where nothing has happened yet."""
    if there is None and elsewhere is None:
        return None
    known = there or elsewhere
    assert known is not None
    blank = ImageEdit(*(torch.zeros_like(part) for part in known))
    pairs = zip(there or blank, elsewhere or blank, strict=True)
    return ImageEdit(*(torch.where(worlds[:, None, None, None], a, b) for a, b in pairs))
