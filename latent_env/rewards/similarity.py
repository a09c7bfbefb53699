"""Reward terms that ask how much a sample is like the anomalies of the world's trial."""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.blocks.last_layer import Headed, Reading
from detectors.training.batches import as_numbers
from latent_env.rewards.anomaly_similarity import AnomalySimilarity, closeness, describe
from latent_env.rewards.base import agreed, reward_terms
from latent_env.rewards.memory import Latest
from latent_env.rewards.reference_term import ReferenceTerm
from latent_env.shell import ANOMALY
from latent_env.transition import Transition
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.world import World


class SimilarityTerm(ReferenceTerm[AnomalySimilarity]):
    """A term that compares samples with the anomalies of the trial, as every judge sees them."""

    needs = ("readings", "label", "describe")

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[Transition, list[tuple[AnomalySimilarity, Tensor]]] | None = None

    @torch.no_grad()
    def prepare(
        self, member: Headed, reading: Reading, reference_set: ReferenceSet, world: World, /
    ) -> AnomalySimilarity:
        """The trial's anomalies as this judge sees them, and as they look."""
        anomalous = reference_set.labels == 1
        if reference_set.marks is None or not world.autoencoder.is_spatial:
            return AnomalySimilarity(member, reading, anomalous)
        marked = anomalous & reference_set.marks.flatten(1).any(1)
        inputs = as_numbers(reference_set.inputs[marked])
        latents = inputs if world.reads_latents else world.autoencoder.encode(inputs)
        return AnomalySimilarity(
            member, reading, marked, describe(latents.float(), reference_set.marks[marked])
        )

    @torch.no_grad()
    def places(self, transition: Transition) -> list[tuple[AnomalySimilarity, Tensor]]:
        """Every judge's comparison, and where the samples lie in it; computed once a transition."""
        if self._last is None or self._last[0] is not transition:
            pairs = zip(self.prepared(transition.world), transition.readings, strict=True)
            self._last = transition, [(known, known.place(r, transition.describe)) for known, r in pairs]
        return self._last[1]


@reward_terms.register("similarity")
class Similarity(SimilarityTerm):
    """How densely the trial's anomalies lie around a sample.

    As points of :class:`~latent_env.rewards.anomaly_similarity.AnomalySimilarity`: 1 is where all of them
    lie, and 0 far from any.
    What is no anomaly resembles none.
    """

    @torch.no_grad()
    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [0, 1]."""
        found = agreed(torch.stack([known.density(places) for known, places in self.places(transition)]))
        return found * (transition.label == ANOMALY)


@reward_terms.register("matching")
class Matching(SimilarityTerm):
    """How much more densely the trial's anomalies lie around a sample than the last 512 that any world made.

    Both as in :class:`Similarity`. What resembles real anomalies pays less the more of its like there is, so
    what is made becomes as varied as they are: to first order, a sample is paid for how much it lowers the
    maximum mean discrepancy between both sets. It depends on the worlds beside it. What is no anomaly costs
    as much as half of a whole crowd.
    """

    NOTHING = -0.5

    def __init__(self) -> None:
        super().__init__()
        self._made = Latest(512)
        self._sizes: list[int] = []

    @torch.no_grad()
    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [-1, 1]."""
        found = []
        for number, (known, places) in enumerate(self.places(transition)):
            density = known.density(places)
            if self._made.values is not None and self._made.held is not None:
                others = self._made.values.split(self._sizes, 1)[number]
                crowd = closeness(places, others) * self._made.held
                density = density - crowd.sum(1) / self._made.held.sum().clamp_min(1)
            found.append(density)
        return agreed(torch.stack(found)).where(transition.label == ANOMALY, self.NOTHING)

    @torch.no_grad()
    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Keep the anomalies of ``worlds (N,)`` bool, in place of the oldest."""
        places = [places for _, places in self.places(transition)]
        self._sizes = [each.shape[1] for each in places]
        self._made.add(torch.cat(places, 1), worlds & (transition.label == ANOMALY))
        self._last = None

    def forget(self, worlds: Tensor) -> None:
        """Drop what ``worlds (N,)`` bool made."""
        self._made.drop(worlds)
