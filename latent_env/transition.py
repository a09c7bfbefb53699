"""One step of every world; images and scores of it are computed once, when they are first asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from functools import cached_property
from itertools import repeat

import torch
from torch import Tensor
from torch.nn import functional

from detectors.base import Detection, Detector, inputs_for
from detectors.blocks.last_layer import LastLayerInput
from detectors.blocks.tokens import anomalous_tokens, as_map, as_tokens, grid_of
from latent_env.autoencoders.frozen import LEAST_VISIBLE
from latent_env.chunks import join, split, worlds_at_once
from latent_env.perturbations.image_edit import Edit, merged, selected
from latent_env.rewards.anomaly_similarity import AnomalyDescriptor, anomaly_descriptor
from latent_env.shell import ANOMALY, NORMAL, UNDECIDED, Shell
from latent_env.visibility import visible_support
from latent_env.worlds.world import World

VISIBLE = 0.5
"""Pixels whose support is at least this count as changed."""


class Transition:
    """Where N worlds were and where an action took them. The first dimension of all tensors is the world.

    Sources, draws and latents are given. Everything else (decoded images, masks, labels, scores) is computed
    when a reward term, a picture or a rollout first reads it, so a step does no more than its reward needs.
    :meth:`compute_facts` computes several properties a part of the worlds at a time, which is faster.
    """

    def __init__(
        self,
        world: World,
        shell: Shell,
        sources: Tensor,
        draws: Tensor,
        previous: Tensor,
        latent: Tensor,
        edit: Edit | None = None,
    ) -> None:
        self.world, self.shell = world, shell
        self.sources = sources
        """``(N,)``: which of the world's images the episode started from."""
        self.draws = draws
        """``(N,)`` in (0, 1): the random number of each episode, by which terms choose what they ask for."""
        self.previous = previous
        """``(N, *latent_shape)``: the latent before this step."""
        self.latent = latent
        """``(N, *latent_shape)``: the latent after it, inside the shell."""
        self.edit = edit
        """What is done to the images in addition to the decoded change; None for nothing."""

    @cached_property
    def start_latent(self) -> Tensor:
        """``(N, *latent_shape)``: the episode's first latent."""
        return self.world.latents[self.sources]

    @cached_property
    def start_image(self) -> Tensor:
        """``(N, C, H, W)``: the real image the episode started from."""
        return self.world.start_images(self.sources)

    @cached_property
    def start_decoded(self) -> Tensor:
        """``(N, C, H, W)``: what the decoder makes of the first latent."""
        return self.world.start_decoded(self.sources)

    @property
    def delta(self) -> Tensor:
        """``(N, *latent_shape)``: the change this step made, after the shell."""
        return self.latent - self.previous

    @cached_property
    def distance(self) -> Tensor:
        """``(N,)``: how far the latent is from its start, by the shell's measure."""
        return self.shell.distance(self.latent, self.start_latent)

    @cached_property
    def decoded(self) -> Tensor:
        """``(N, C, H, W)``: the decoded latent."""
        with self.world.autocast():
            return self.world.autoencoder.decode(self.latent).float()

    @cached_property
    def change(self) -> Tensor:
        """``(N, C, H, W)``: the decoded change of the latent and the edit, limited to what fits in [0, 1]."""
        change = self.decoded - self.start_decoded if self.edit is None else self.edit.change(self)
        # What leaves [0, 1] isn't a change that can be seen: black doesn't get darker.
        return (self.start_image + change).clamp(0, 1) - self.start_image

    @cached_property
    def support(self) -> Tensor:
        """``(N, 1, H, W)`` in [0, 1]: where the change can be seen."""
        support = visible_support(self.change, self.world.autoencoder.barely_visible)
        if self.edit is None:
            return support
        # Pixels of a real anomaly are no decoding error, so a smaller change counts there.
        return torch.maximum(support, self.edit.genuine * visible_support(self.change, LEAST_VISIBLE))

    @cached_property
    def image(self) -> Tensor:
        """``(N, C, H, W)``: the augmented image, which is the real one plus the visible change."""
        return torch.addcmul(self.start_image, self.support, self.change).clamp(0, 1)

    @cached_property
    def mask(self) -> Tensor:
        """``(N, 1, H, W)`` bool: pixels that changed visibly."""
        return self.support >= VISIBLE

    @cached_property
    def changed_tokens(self) -> Tensor:
        """``(N, 1, h, w)`` bool: tokens that moved at least the shell's inner radius."""
        lengths = as_tokens(self.latent - self.start_latent).norm(dim=2)
        return as_map(lengths >= self.shell.inner, self.latent.shape[1:])

    @cached_property
    def label(self) -> Tensor:
        """``(N,)`` int64: 0 normal, 1 anomaly, -1 undecided."""
        if self.world.reads_latents:  # such a detector sees changes that no image shows
            return self.shell.label(self.distance, torch.ones_like(self.distance, dtype=torch.bool))
        labels = self.shell.label(self.distance, self._large(self.mask))
        if self.edit is None:
            return labels
        # The latent says little of pixels that the decoder doesn't reproduce. Where pixels of a real anomaly
        # show, it is an anomaly; where they show faintly, it is undecided.
        genuine = self.edit.genuine
        faintly = (self.support * genuine).flatten(1).any(1)
        labels = labels.masked_fill((labels == NORMAL) & faintly, UNDECIDED)
        return labels.masked_fill(self._large(self.mask & (genuine >= VISIBLE)), ANOMALY)

    @staticmethod
    def _large(mask: Tensor) -> Tensor:
        """Whether ``mask (N, 1, H, W)`` bool holds at least a thousandth of the pixels, ``(N,)``."""
        return mask.flatten(1).sum(1) * 1000 >= mask[0].numel()

    @cached_property
    def truth(self) -> Tensor:
        """The true mask of the sample, bool: what a detector learns to find; empty unless it is an anomaly.

        ``(N, 1, H, W)`` pixels, or ``(N, 1, h, w)`` tokens for a detector that reads latents or features.
        """
        if self.world.reads_latents:
            marked = self.changed_tokens
        elif self.world.reads_features:
            shares = functional.adaptive_avg_pool2d(self.mask.float(), grid_of(self.world.token_shape))
            marked = anomalous_tokens(shares)
        else:
            marked = self.mask
        return marked & (self.label == ANOMALY)[:, None, None, None]

    @cached_property
    def detection(self) -> Detection:
        """Score and map of the detector, for the new latent or the augmented image."""
        return self._detect(self.world.detector)

    @cached_property
    def detections(self) -> list[Detection]:
        """Scores and maps of the reward ensemble's detectors; of the detector alone without an ensemble."""
        if not self.world.reward_ensemble:
            return [self.detection]
        return [self._detect(member) for member in self.world.reward_ensemble]

    @property
    def score(self) -> Tensor:
        """``(N,)``: the mean anomaly logit of the reward ensemble, or that of the detector."""
        return torch.stack([detection.score for detection in self.detections]).mean(0)

    @cached_property
    def last_layer_inputs(self) -> list[LastLayerInput]:
        """What the last layers of the reward ensemble's detectors read; without one, the detector's."""
        with self.world.autocast():
            layer_inputs = [
                member.last_layer_input(*inputs_for(member.input, self._inputs))
                for member in self.world.last_layer_detectors
            ]
        return [LastLayerInput(*(part.float() for part in layer_input)) for layer_input in layer_inputs]

    def _detect(self, detector: Detector) -> Detection:
        with self.world.autocast():
            detection = detector(*inputs_for(detector.input, self._inputs))
        return Detection(*(part.float() for part in detection))

    @cached_property
    def _inputs(self) -> tuple[Tensor, ...]:
        """What detectors may read: tokens alone; or augmented image, its reconstruction and its latent."""
        if self.world.reads_tokens:
            return (self.tokens.float(),)
        with self.world.autocast():
            decoded = self.world.autoencoder.decode(self.tokens).float()
        return self.image, decoded, self.tokens.float()

    @cached_property
    def tokens(self) -> Tensor:
        """``(N, *token_shape)``: the new latent where detectors read latents, else what stands for the image.

        That is the augmented image's features where the world has a backbone, and its latent elsewhere.
        """
        if self.world.reads_latents:
            return self.latent
        with self.world.autocast():
            return self.world.tokens(self.image)

    @cached_property
    def descriptor(self) -> AnomalyDescriptor:
        """The descriptor of the anomaly in the latent, ``(N, …)``; a flat latent is a single token."""
        latents = self.tokens.float()
        grid = grid_of(latents.shape[1:])
        shares = functional.adaptive_avg_pool2d(self.truth.float(), grid)
        return anomaly_descriptor(latents.view(*latents.shape[:2], *grid), anomalous_tokens(shares))

    def compute_facts(self, facts: Iterable[str]) -> None:
        """Compute the properties named in ``facts`` now, and keep them and most of what they depend on.

        Many worlds are computed in parts: from decoding to scoring, a part stays in the CPU's caches. With
        gradients enabled nothing happens here; then properties are computed for all worlds when read.
        """
        missing = [fact for fact in facts if fact not in self.__dict__]
        some = worlds_at_once(self.world.autoencoder.size, self.latent.device)
        if not missing or len(self.latent) <= some or torch.is_grad_enabled():
            return
        known = {name: split(value, some) for name, value in self.__dict__.items() if name in FACTS}
        parts = []
        edits: Iterable[Edit | None] = repeat(None) if self.edit is None else split(self.edit, some)
        own = zip(*(part.split(some) for part in self._parts()), strict=True)
        for number, (given, edit) in enumerate(zip(own, edits, strict=False)):
            sources, draws, previous, latent = given
            part = Transition(self.world, self.shell, sources, draws, previous, latent, edit)
            part.__dict__.update({name: values[number] for name, values in known.items()})
            for fact in missing:
                getattr(part, fact)
            parts.append(part.__dict__)
        for name in (parts[0].keys() & FACTS) - known.keys() - NOT_JOINED:
            self.__dict__[name] = join([part[name] for part in parts])

    def with_reward_ensemble(self, reward_ensemble: Sequence[Detector]) -> Transition:
        """The step as another reward ensemble scores it; what doesn't depend on it isn't computed again."""
        other = copy(self)
        other.world = self.world.with_reward_ensemble(reward_ensemble)
        for name in ("detections", "last_layer_inputs"):
            other.__dict__.pop(name, None)
        return other

    @cached_property
    def cycle_error(self) -> Tensor:
        """``(N,)``: ``‖E(D(z')) − z'‖``, root mean square a dimension."""
        with self.world.autocast():
            again = self.world.autoencoder.encode(self.decoded).float()
        return (again - self.latent).square().flatten(1).mean(1).add(1e-12).sqrt()

    def select(self, worlds: Tensor) -> Transition:
        """The step for the worlds with indices ``(K,)`` only."""
        sources, draws, previous, latent = (part[worlds] for part in self._parts())
        edit = None if self.edit is None else selected(self.edit, worlds)
        return Transition(self.world, self.shell, sources, draws, previous, latent, edit)

    def merge(self, worlds: Tensor, other: Transition) -> Transition:
        """The step itself in ``worlds (N,)`` bool, the ``other`` one elsewhere."""
        sources, draws, previous, latent = (
            torch.where(worlds.view(-1, *[1] * (here.ndim - 1)), here, there)
            for here, there in zip(self._parts(), other._parts(), strict=True)
        )
        edit = merged(worlds, self.edit, other.edit)
        return Transition(self.world, self.shell, sources, draws, previous, latent, edit)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.sources, self.draws, self.previous, self.latent


FACTS = {name for name, value in vars(Transition).items() if isinstance(value, cached_property)}
"""Names of the properties that are computed once, when they are first read."""

NOT_JOINED = {"start_latent", "start_image", "start_decoded", "change", "_inputs", "tokens"}
"""Large, and rarely read afterwards: joining the parts of these costs more than computing them again."""


def initial_transition(world: World, shell: Shell, sources: Tensor, draws: Tensor) -> Transition:
    """N worlds at the start of episodes from images ``sources (N,)`` that drew ``draws (N,)``."""
    latent = world.latents[sources]
    return Transition(world, shell, sources, draws, latent, latent)
