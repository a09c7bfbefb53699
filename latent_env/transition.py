"""One step of every world, with everything that can be asked of it computed once and on demand."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from detectors.base import Detection
from latent_env.shell import ANOMALY, Shell
from latent_env.worlds import World

# A change of the decoded image fades in between these two intensities (of 1): below, it is what any
# decoder does to a neighbouring pixel; above, one can see it.
BARELY_VISIBLE, CLEARLY_VISIBLE = 0.01, 0.04


def visible_support(change: Tensor) -> Tensor:
    """The soft support ``(B, 1, H, W)`` in [0, 1] of a change ``(B, C, H, W)`` of images."""
    strength = change.abs().mean(1, keepdim=True)
    if strength.shape[-1] >= 32:  # on tiny images the neighbours are already another part
        strength = functional.avg_pool2d(strength, 3, 1, 1, count_include_pad=False)
    return ((strength - BARELY_VISIBLE) / (CLEARLY_VISIBLE - BARELY_VISIBLE)).clamp(0, 1)


class Transition:
    """Where every world came from and where an action took it. All tensors lead with the worlds.

    The cheap facts are there at once. Decoded images and scores are computed when a reward term, a
    picture or a rollout first asks for them, so a step does no more than its reward needs.
    """

    def __init__(
        self,
        world: World,
        shell: Shell,
        start_latent: Tensor,
        previous: Tensor,
        latent: Tensor,
        start_image: Tensor,
        start_decoded: Tensor,
    ) -> None:
        self.world, self.shell = world, shell
        self.start_latent = start_latent
        """``(N, *latent_shape)``: the episode's first latent."""
        self.previous = previous
        """``(N, *latent_shape)``: the latent before this step."""
        self.latent = latent
        """``(N, *latent_shape)``: the latent after it, inside the shell."""
        self.start_image = start_image
        """``(N, C, H, W)``: the real image the episode started from."""
        self.start_decoded = start_decoded
        """``(N, C, H, W)``: what the decoder makes of the first latent."""

    @property
    def delta(self) -> Tensor:
        """``(N, *latent_shape)``: the change this step made, after the shell."""
        return self.latent - self.previous

    @cached_property
    def distance(self) -> Tensor:
        """``(N,)``: the shell's distance of the latent from its start."""
        return self.shell.distance(self.latent, self.start_latent)

    @cached_property
    def decoded(self) -> Tensor:
        """``(N, C, H, W)``: the decoded latent."""
        return self.world.autoencoder.decode(self.latent)

    @cached_property
    def support(self) -> Tensor:
        """``(N, 1, H, W)`` in [0, 1]: where the change can be seen."""
        return visible_support(self.decoded - self.start_decoded)

    @cached_property
    def image(self) -> Tensor:
        """``(N, C, H, W)``: the augmented image, the real one plus the decoded difference."""
        change = self.support * (self.decoded - self.start_decoded)
        return (self.start_image + change).clamp(0, 1)

    @cached_property
    def mask(self) -> Tensor:
        """``(N, 1, H, W)`` bool: pixels that changed visibly."""
        return self.support >= 0.5

    @cached_property
    def label(self) -> Tensor:
        """``(N,)`` int64: 0 normal, 1 anomaly, -1 undecided."""
        pixels = self.mask.flatten(1).sum(1)
        return self.shell.label(self.distance, pixels * 1000 >= self.mask[0].numel())

    @cached_property
    def truth(self) -> Tensor:
        """``(N, 1, H, W)`` bool: the mask a detector learns, empty unless the label is anomaly."""
        return self.mask & (self.label == ANOMALY)[:, None, None, None]

    @cached_property
    def detection(self) -> Detection:
        """What the detector says of the augmented image."""
        return self.world.detect(self.image)

    @cached_property
    def cycle_error(self) -> Tensor:
        """``(N,)``: ``‖E(D(z')) − z'‖``, root mean square a dimension."""
        again = self.world.autoencoder.encode(self.decoded)
        return (again - self.latent).square().flatten(1).mean(1).add(1e-12).sqrt()

    def select(self, worlds: Tensor) -> Transition:
        """The same step for some of the worlds only (indices ``(K,)``)."""
        return Transition(self.world, self.shell, *(part[worlds] for part in self._parts()))

    def merge(self, worlds: Tensor, other: Transition) -> Transition:
        """The step itself in ``worlds (N,)`` bool, the ``other`` one elsewhere."""
        pairs = zip(self._parts(), other._parts(), strict=True)
        return Transition(
            self.world,
            self.shell,
            *(torch.where(worlds.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs),
        )

    def _parts(self) -> tuple[Tensor, ...]:
        return (
            self.start_latent,
            self.previous,
            self.latent,
            self.start_image,
            self.start_decoded,
        )


def still(world: World, shell: Shell, latent: Tensor, image: Tensor, decoded: Tensor) -> Transition:
    """The transition of worlds in which nothing has happened yet."""
    return Transition(world, shell, latent, latent, latent, image, decoded)
