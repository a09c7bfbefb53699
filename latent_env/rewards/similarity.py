"""Terms ``similarity`` and ``matching``: how samples compare with the anomalies of the reference set."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from detectors.blocks.last_layer import LastLayerDetector, LastLayerInput
from detectors.training.batches import as_floats
from latent_env.rewards.anomaly_similarity import AnomalySimilarity, anomaly_descriptor, closeness
from latent_env.rewards.base import mean_less_disagreement, reward_terms
from latent_env.rewards.memory import RecentVectors
from latent_env.rewards.reference_term import ReferenceTerm
from latent_env.shell import ANOMALY
from latent_env.transition import Transition
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.world import World


class SimilarityTerm(ReferenceTerm[AnomalySimilarity]):
    """A term that compares samples with the reference set's anomalies, in the features of each detector."""

    needs = ("last_layer_inputs", "label", "descriptor")

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[Transition, list[tuple[AnomalySimilarity, Tensor]]] | None = None

    @torch.no_grad()
    def prepare(
        self,
        detector: LastLayerDetector,
        layer_input: LastLayerInput,
        reference_set: ReferenceSet,
        world: World,
        /,
    ) -> AnomalySimilarity:
        """The reference set's anomalies in this detector's features, and their descriptors."""
        anomalous = reference_set.labels == 1
        if reference_set.marks is None or len(world.token_shape) != 3:
            return AnomalySimilarity(detector, layer_input, anomalous)
        marked = anomalous & reference_set.marks.flatten(1).any(1)
        inputs = as_floats(reference_set.inputs[marked])
        latents = inputs if world.reads_tokens else world.tokens(inputs)
        descriptors = anomaly_descriptor(latents.float(), reference_set.marks[marked])
        return AnomalySimilarity(detector, layer_input, marked, descriptors)

    @torch.no_grad()
    def points(self, transition: Transition) -> list[tuple[AnomalySimilarity, Tensor]]:
        """The comparison of each detector, and the samples as its points; computed once a transition."""
        if self._last is None or self._last[0] is not transition:
            pairs = zip(self.prepared(transition.world), transition.last_layer_inputs, strict=True)
            self._last = transition, [(each, each.embed(r, transition.descriptor)) for each, r in pairs]
        return self._last[1]


@reward_terms.register("similarity")
class Similarity(SimilarityTerm):
    """How densely the reference set's anomalies lie around a sample, as points of ``AnomalySimilarity``.

    1 where all of them coincide with it, 0 far from any, and 0 for samples that are no anomalies.
    """

    @torch.no_grad()
    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [0, 1]."""
        densities = torch.stack([each.density(points) for each, points in self.points(transition)])
        return mean_less_disagreement(densities) * (transition.label == ANOMALY)


@reward_terms.register("matching")
class Matching(SimilarityTerm):
    """How densely the reference set's anomalies lie around a sample, less how densely recent samples do.

    Recent samples are the last 512 anomalies of all worlds. So a kind of anomaly pays less the more of it
    there is, and what is made becomes as varied as the reference set: to first order, a sample is paid for
    how much it lowers the maximum mean discrepancy between both sets. A sample that is no anomaly is worth
    -½. The term depends on the worlds beside it.
    """

    NO_ANOMALY = -0.5

    def __init__(self) -> None:
        super().__init__()
        self._recent = RecentVectors(512)
        self._widths: list[int] = []

    @torch.no_grad()
    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [-1, 1]."""
        values = []
        for number, (each, points) in enumerate(self.points(transition)):
            density = each.density(points)
            if self._recent.values is not None and self._recent.filled is not None:
                recent = self._recent.values.split(self._widths, 1)[number]
                near = closeness(points, recent) * self._recent.filled
                density = density - near.sum(1) / self._recent.filled.sum().clamp_min(1)
            values.append(density)
        found = mean_less_disagreement(torch.stack(values))
        return found.where(transition.label == ANOMALY, self.NO_ANOMALY)

    @torch.no_grad()
    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Keep the anomalies of ``worlds (N,)`` bool, in place of the oldest."""
        points = [each for _, each in self.points(transition)]
        self._widths = [each.shape[1] for each in points]
        self._recent.add(torch.cat(points, 1), worlds & (transition.label == ANOMALY))
        self._last = None

    def forget(self, worlds: Tensor) -> None:
        """Drop the samples that ``worlds (N,)`` bool made."""
        self._recent.drop(worlds)

    def state(self) -> dict[str, Tensor]:
        """The last anomalies, and how many numbers each detector's points have."""
        return {**self._recent.state(), "widths": torch.tensor(self._widths, dtype=torch.int64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Remember what :meth:`state` returned."""
        self._recent.restore(state)
        self._widths = state["widths"].tolist()
