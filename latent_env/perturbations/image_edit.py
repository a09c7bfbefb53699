"""Edits of images in addition to the decoded change, such as pixels copied from a real anomaly."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from latent_env.random_streams import Streams

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

    def change(self, step: Transition) -> Tensor:
        """The change ``(N, C, H, W)`` of the images since their episodes began, after ``step``."""
        return self.matte * (step.decoded - step.start_decoded + self.residue)


class PixelEdit(NamedTuple):
    """What was done to N images since their episodes began; without any edit all of it is 0.

    The change of the image is ``matte · decoded change + residue`` where it was drawn, else ``residue``.
    """

    matte: Tensor
    """``(N, 1, H, W)`` in [0, 1]: the share of the decoded change that is let through at each pixel."""
    residue: Tensor
    """``(N, C, H, W)``: what is added to the decoded change, or stands in its place."""
    genuine: Tensor
    """``(N, 1, H, W)`` in [0, 1]: how much of each pixel belongs to a real anomaly."""
    drawn: Tensor
    """``(N, 1, 1, 1)`` bool: whether the decoder drew the last step. What was pasted needs no decoding."""

    def change(self, step: Transition) -> Tensor:
        """The change ``(N, C, H, W)`` of the images since their episodes began, after ``step``."""
        if self.drawn.is_cuda or "decoded" in vars(step):  # waiting for a GPU costs more than decoding all
            change = self.matte * (step.decoded - step.start_decoded) + self.residue
            return torch.where(self.drawn, change, self.residue)
        worlds = self.drawn.flatten().nonzero()[:, 0]
        if not len(worlds):
            return self.residue
        some = step.select(worlds)
        change = self.matte[worlds] * (some.decoded - some.start_decoded) + self.residue[worlds]
        return self.residue.index_copy(0, worlds, change)


Edit: TypeAlias = ImageEdit | PixelEdit
"""What was done to images in addition to, or instead of, the decoded change."""


@runtime_checkable
class ImageEditor(Protocol):
    """A perturbation that edits images as well as latents."""

    def edit(self, actions: Tensor, streams: Streams, before: Transition) -> tuple[Tensor, Edit | None]:
        """What ``actions (N, action_size)`` do after ``before``.

        :returns: changes ``(N, *latent_shape)`` of its latents, and the edit of the images since their
            episodes began; None for none.
        """


def outside_graph(values: Tensor) -> Tensor:
    """``values``, copied if they were born in inference mode: such tensors can't take part in a graph."""
    return values.clone() if values.is_inference() and torch.is_grad_enabled() else values


def selected(edit: Edit, worlds: Tensor) -> Edit:
    """The edit of the worlds with indices ``(K,)`` only."""
    parts = [part[worlds] for part in edit]
    return ImageEdit(*parts) if isinstance(edit, ImageEdit) else PixelEdit(*parts)


def merged(worlds: Tensor, there: Edit | None, elsewhere: Edit | None) -> Edit | None:
    """The edit ``there`` in ``worlds (N,)`` bool and ``elsewhere`` in all others; None if both are None."""
    known = there or elsewhere
    if known is None:
        return None
    blank = [torch.zeros_like(part) for part in known]
    pairs = zip(there or blank, elsewhere or blank, strict=True)
    parts = [torch.where(worlds[:, None, None, None], a, b) for a, b in pairs]
    return ImageEdit(*parts) if isinstance(known, ImageEdit) else PixelEdit(*parts)
