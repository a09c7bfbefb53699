"""The reward term ``usefulness``: what a detector learns from a sample, measured on the reference set.

The detector's last layer alone learns, :mod:`detectors.blocks.last_layer`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from detectors.blocks.last_layer import LastLayerDetector, LastLayerInput, LastLayerLearner
from latent_env.rewards.base import mean_less_disagreement, reward_terms
from latent_env.rewards.reference_term import ReferenceTerm
from latent_env.shell import UNDECIDED
from latent_env.transition import Transition
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.world import World


@reward_terms.register("usefulness")
class Usefulness(ReferenceTerm[LastLayerLearner]):
    """How much better a copy of the detector's last layer does on the reference set once it learned a sample.

    Every world has its own copies, one for each detector of the reward ensemble. At the start of an episode
    they equal the detectors; then they learn each of its samples in turn. So an episode is paid for what its
    samples teach together, and what a copy has learned already is worth less. 1 is the most that one step of
    learning could gain; below 0 the sample does harm. Undecided samples teach nothing and are worth 0.
    """

    needs = ("last_layer_inputs", "label", "truth")

    def __init__(self) -> None:
        super().__init__()
        self._copies: list[Tensor] = []
        self._fresh: Tensor | None = None
        self._last: tuple[Transition, list[Tensor], list[Tensor]] | None = None

    def prepare(
        self,
        detector: LastLayerDetector,
        layer_input: LastLayerInput,
        reference_set: ReferenceSet,
        _: World,
        /,
    ) -> LastLayerLearner:
        """The detector's last layer, ready to learn and to be measured on the reference set."""
        return LastLayerLearner(detector, layer_input, reference_set.labels)

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)``."""
        _, gains, _ = self._learn(transition)
        return mean_less_disagreement(torch.stack(gains))

    def begin(self, worlds: Tensor) -> None:
        """Let the copies of ``worlds (N,)`` bool equal the detectors again."""
        self._fresh = worlds if self._fresh is None else self._fresh | worlds

    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Keep what the copies of ``worlds (N,)`` bool have learned."""
        _, _, after = self._learn(transition)
        before = self._before(self.prepared(transition.world), len(worlds))
        self._copies = [torch.where(worlds[:, None], a, b) for a, b in zip(after, before, strict=True)]
        self._fresh, self._last = None, None

    def state(self) -> dict[str, Tensor]:
        """The copies of each detector, and which worlds begin anew."""
        kept = {f"copy_{number}": copies for number, copies in enumerate(self._copies)}
        return kept if self._fresh is None else {**kept, "fresh": self._fresh}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Remember what :meth:`state` returned."""
        self._copies = [state[f"copy_{number}"] for number in range(len(state) - ("fresh" in state))]
        self._fresh, self._last = state.get("fresh"), None

    def _before(self, learners: list[LastLayerLearner], worlds: int) -> list[Tensor]:
        """The copies before this step, ``(N, d)`` for each detector."""
        starts = [learner.start.expand(worlds, -1) for learner in learners]
        if len(self._copies) != len(learners) or len(self._copies[0]) != worlds:
            return starts
        if self._fresh is None:
            return self._copies
        fresh = self._fresh[:, None]
        return [torch.where(fresh, a, b) for a, b in zip(starts, self._copies, strict=True)]

    @torch.no_grad()
    def _learn(self, transition: Transition) -> tuple[Transition, list[Tensor], list[Tensor]]:
        """What the copies of each detector gain, and what becomes of them; computed once a transition."""
        if self._last is not None and self._last[0] is transition:
            return self._last
        learners, decided = self.prepared(transition.world), transition.label != UNDECIDED
        gains, after = [], []
        copies = self._before(learners, len(decided))
        for learner, layer_input, own in zip(learners, transition.last_layer_inputs, copies, strict=True):
            sample_gradients = learner.sample_gradients(layer_input, transition.truth, own)
            moved = own + learner.step(sample_gradients) * decided[:, None]
            gains.append((learner.loss(own) - learner.loss(moved)) / learner.max_gain)
            after.append(moved)
        self._last = transition, gains, after
        return self._last
