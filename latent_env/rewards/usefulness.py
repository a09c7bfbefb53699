"""Reward terms that ask what a detector learns from a sample, on labelled images it was not trained on.

What is measured happens in the detector's last layer, :mod:`detectors.blocks.last_layer`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.blocks.last_layer import Headed, LastLayerLearner, Reading
from latent_env.rewards.base import agreed, reward_terms
from latent_env.rewards.reference_term import ReferenceTerm
from latent_env.shell import UNDECIDED
from latent_env.transition import Transition
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.world import World


class LearningTerm(ReferenceTerm[LastLayerLearner]):
    """A term that trains copies of the judges' last layers."""

    needs = ("readings", "label", "truth")

    def prepare(
        self, member: Headed, reading: Reading, reference_set: ReferenceSet, _: World, /
    ) -> LastLayerLearner:
        """The judge's last layer before the trial."""
        return LastLayerLearner(member, reading, reference_set.labels)


@reward_terms.register("usefulness")
class Usefulness(LearningTerm):
    """How much better a copy of the detector's last layer does on the trial after learning the sample.

    Every world has copies of its own, one a judge. They begin an episode as the judges are and learn each of
    its samples in turn: so an episode is paid for what all its samples teach together, and what a copy has
    learned already is worth less in the end. 1 is as much as one step of learning could gain at best, and
    negative means that the sample does harm. Undecided samples teach nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._copies: list[Tensor] = []
        self._fresh: Tensor | None = None
        self._last: tuple[Transition, list[Tensor], list[Tensor]] | None = None

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)``."""
        _, gains, _ = self._learn(transition)
        return agreed(torch.stack(gains))

    def begin(self, worlds: Tensor) -> None:
        """The copies of ``worlds (N,)`` bool are the judges' again."""
        self._fresh = worlds if self._fresh is None else self._fresh | worlds

    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Keep what the copies of ``worlds (N,)`` bool have learned."""
        _, _, after = self._learn(transition)
        before = self._before(self.prepared(transition.world), len(worlds))
        self._copies = [torch.where(worlds[:, None], a, b) for a, b in zip(after, before, strict=True)]
        self._fresh, self._last = None, None

    def _before(self, prepared: list[LastLayerLearner], worlds: int) -> list[Tensor]:
        starts = [reference_set.start.expand(worlds, -1) for reference_set in prepared]
        if len(self._copies) != len(prepared) or len(self._copies[0]) != worlds:
            return starts
        if self._fresh is None:
            return self._copies
        fresh = self._fresh[:, None]
        return [torch.where(fresh, a, b) for a, b in zip(starts, self._copies, strict=True)]

    @torch.no_grad()
    def _learn(self, transition: Transition) -> tuple[Transition, list[Tensor], list[Tensor]]:
        """What each judge's copies gain, and what becomes of them; computed once a transition."""
        if self._last is not None and self._last[0] is transition:
            return self._last
        prepared, decided = self.prepared(transition.world), transition.label != UNDECIDED
        gains, after = [], []
        copies = self._before(prepared, len(decided))
        for reference_set, reading, own in zip(prepared, transition.readings, copies, strict=True):
            moved = (
                own
                + reference_set.step(reference_set.lessons(reading, transition.truth, own)) * decided[:, None]
            )
            gains.append((reference_set.loss(own) - reference_set.loss(moved)) / reference_set.best)
            after.append(moved)
        self._last = transition, gains, after
        return self._last
