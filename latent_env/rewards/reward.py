"""The reward: a weighted sum of named terms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from latent_common.errors import UserError
from latent_common.registry import told
from latent_common.training_state import below

# Importing a term's module registers it.
from latent_env.rewards import (  # noqa: F401
    boundary,
    coverage,
    episode_novelty,
    novelty,
    realism,
    similarity,
    target,
    usefulness,
)
from latent_env.rewards.base import MOST_ASKED, RewardTerm, reward_terms
from latent_env.rewards.reference_term import ReferenceTerm
from latent_env.rewards.target import knows_targets
from latent_env.transition import Transition
from latent_env.worlds.world import World

DEFAULT_REWARD: dict[str, float] = {"target": 1.0}
WITHOUT_TARGETS: dict[str, float] = {"boundary": 1.0, "episode_novelty": 0.5, "realism": 0.5}


def default_reward(world: World) -> dict[str, float]:
    """The terms and weights of an environment that is given none."""
    return DEFAULT_REWARD if knows_targets(world) else WITHOUT_TARGETS


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
        self.terms = {name: _made(name) for name in self.weights}

    def __call__(self, transition: Transition) -> tuple[Tensor, dict[str, Tensor]]:
        """The reward ``(N,)``, and every term ``(N,)`` before weighting."""
        transition.compute_facts([fact for term in self.terms.values() for fact in term.needs])
        values = {name: _value(name, term, transition) for name, term in self.terms.items()}
        weighted = [self.weights[name] * value for name, value in values.items()]
        return torch.stack(weighted).sum(0), values

    def detector_part(self, transition: Transition) -> Tensor | None:
        """The weighted sum of the terms that use detectors, ``(N,)``; None if there are none."""
        terms = {name: term for name, term in self.terms.items() if term.uses_detectors}
        transition.compute_facts([fact for term in terms.values() for fact in term.needs])
        parts = [self.weights[name] * _value(name, term, transition) for name, term in terms.items()]
        return torch.stack(parts).sum(0) if parts else None

    def asked(self, transition: Transition) -> Tensor | None:
        """What terms let agents see beside the latents, ``(N, k)``; None for nothing."""
        parts = []
        for name, term in self.terms.items():
            with _explained(name, term):
                part = term.asked(transition)
            if part is not None:
                parts.append(part.clamp(-MOST_ASKED, MOST_ASKED))
        return torch.cat(parts, 1) if parts else None

    def check_own_terms(self, transition: Transition) -> None:
        """Raise a ``UserError`` if a user's own term fails, or returns what no term is.

        Numbers may be NaN here: a world that isn't trained yet has distances of 0, and no reference set.
        """
        for name, term in self.terms.items():
            if not _is_ours(term) and not isinstance(term, ReferenceTerm):
                _value(name, term, transition, finite=False)

    def begin(self, worlds: Tensor) -> None:
        """Tell every term that an episode begins in ``worlds (N,)`` bool."""
        for name, term in self.terms.items():
            with _explained(name, term):
                term.begin(worlds)

    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Let every term keep what it needs of the step just taken in ``worlds (N,)`` bool."""
        for name, term in self.terms.items():
            with _explained(name, term):
                term.remember(transition, worlds)

    def forget(self, worlds: Tensor) -> None:
        """Let every term drop what it remembers of ``worlds (N,)`` bool."""
        for name, term in self.terms.items():
            with _explained(name, term):
                term.forget(worlds)

    def state(self) -> dict[str, Tensor]:
        """What all terms remember, as ``<term>.<name>``."""
        kept: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            with _explained(name, term):
                kept |= {f"{name}.{part}": value for part, value in term.state().items()}
        return kept

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Let all terms remember what :meth:`state` returned."""
        for name, term in self.terms.items():
            with _explained(name, term):
                term.restore(dict(below(state, name)))


def _made(name: str) -> RewardTerm:
    """The term called ``name``; one that isn't a term, or asks for what there isn't, is a ``UserError``."""
    kind = reward_terms[name]
    with _explained(name, kind):
        term = kind()
    if not isinstance(term, RewardTerm):
        raise UserError(
            f"the reward term {name} is a {type(term).__name__}: derive it from latent_env.RewardTerm"
        )
    needs = term.needs
    if not isinstance(needs, tuple | list):
        raise UserError(f"the reward term {name} has needs = {needs!r}: make it a tuple, such as ('image',)")
    for fact in needs:
        if not isinstance(fact, str) or fact.startswith("_") or not hasattr(Transition, fact):
            known = ", ".join(key for key in vars(Transition) if not key.startswith("_"))
            raise UserError(f"the reward term {name} needs {fact!r}, but a transition has {known}")
    return term


def _value(name: str, term: RewardTerm, transition: Transition, finite: bool = True) -> Tensor:
    """The term's value ``(N,)``; what a user's own term returns is checked first."""
    with _explained(name, term):
        value = term.value(transition)
    if _is_ours(term):  # checking numbers waits for the device
        return value
    count = len(transition.sources)
    if not isinstance(value, Tensor) or tuple(value.shape) != (count,) or not value.is_floating_point():
        found = f"{type(value).__name__}"
        if isinstance(value, Tensor):
            found = f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
        raise UserError(
            f"the reward term {name} returned {found}: it must return a tensor ({count},) of floats"
        )
    if finite and not value.isfinite().all():
        raise UserError(f"the reward term {name} returned NaN or infinity: every number must be finite")
    return value.to(transition.latent.device)


@contextmanager
def _explained(name: str, term: object) -> Iterator[None]:
    """Turn an exception of a user's own term into one line that names the term."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if _is_ours(term):
            raise
        raise UserError(f"the reward term {name} failed with {told(error)}") from error


def _is_ours(term: object) -> bool:
    kind = term if isinstance(term, type) else type(term)
    return kind.__module__.startswith(__name__.partition(".")[0] + ".")
