"""The reward: a weighted sum of named terms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from latent_common.errors import UserError

# Importing a term's module registers it.
from latent_env.rewards import boundary, coverage, novelty, realism, similarity, usefulness  # noqa: F401
from latent_env.rewards.base import reward_terms
from latent_env.transition import Transition

DEFAULT_REWARD: dict[str, float] = {"boundary": 1.0, "novelty": 0.5, "realism": 0.5}


class Reward:
    """The weighted sum of named terms; terms of weight 0 are left out."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float):
                raise UserError(f"reward {name}={weight!r} must be a number, the term's weight")
            if not math.isfinite(weight):
                raise UserError(f"reward {name}={weight} must be finite")
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        if not self.weights:
            raise UserError(
                "the reward has no term with a weight other than 0: "
                f"name some of {', '.join(reward_terms.names())}"
            )
        self.terms = {name: reward_terms[name]() for name in self.weights}

    def __call__(self, transition: Transition) -> tuple[Tensor, dict[str, Tensor]]:
        """The reward ``(N,)``, and every term ``(N,)`` before weighting."""
        transition.compute_facts([fact for term in self.terms.values() for fact in term.needs])
        values = {name: term.value(transition) for name, term in self.terms.items()}
        weighted = [self.weights[name] * value for name, value in values.items()]
        return torch.stack(weighted).sum(0), values

    def detector_part(self, transition: Transition) -> Tensor | None:
        """The weighted sum of the terms that use detectors, ``(N,)``; None if there are none."""
        terms = {name: term for name, term in self.terms.items() if term.uses_detectors}
        transition.compute_facts([fact for term in terms.values() for fact in term.needs])
        parts = [self.weights[name] * term.value(transition) for name, term in terms.items()]
        return torch.stack(parts).sum(0) if parts else None

    def begin(self, worlds: Tensor) -> None:
        """Tell every term that an episode begins in ``worlds (N,)`` bool."""
        for term in self.terms.values():
            term.begin(worlds)

    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Let every term keep what it needs of the step just taken in ``worlds (N,)`` bool."""
        for term in self.terms.values():
            term.remember(transition, worlds)

    def forget(self, worlds: Tensor) -> None:
        """Let every term drop what it remembers of ``worlds (N,)`` bool."""
        for term in self.terms.values():
            term.forget(worlds)
