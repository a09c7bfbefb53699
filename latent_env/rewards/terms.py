"""What a change Δz is worth: named terms and their weighted sum.

A term looks at a :class:`~latent_env.transition.Transition` and returns one number a world, larger
for better and of order 1. To add one, register a class and name it in ``reward``::

    from latent_env import RewardTerm, register_reward

    @register_reward("small")
    class Small(RewardTerm):
        def value(self, transition):
            return -transition.mask.float().mean(dim=(1, 2, 3))

    env = gym.make("LatentAug-v0", reward={"boundary": 1.0, "my_module:small": 0.5})
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from latent_common.errors import UserError
from latent_common.registry import Registry
from latent_env.transition import Transition

DEFAULT_REWARD: dict[str, float] = {"boundary": 1.0, "novelty": 0.5, "realism": 0.5}


class RewardTerm(ABC):
    """One reason to pay. Only ``value`` must be written; the rest is for terms with a memory."""

    needs: tuple[str, ...] = ()
    """Facts of a transition, by name, that take networks to find: of many worlds they are found some at a
    time, which is faster. A term may ask for others as well."""

    judged = False
    """Whether it depends on what detectors say: then one that the agent never sees is asked as well."""

    @abstractmethod
    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)``; must not change the term's own state."""

    def begin(self, worlds: Tensor) -> None:  # noqa: B027 - few terms follow an episode
        """A new episode begins in ``worlds (N,)`` bool."""

    def remember(  # noqa: B027 - most terms have no memory
        self, transition: Transition, worlds: Tensor
    ) -> None:
        """Take note of a step that was really made in ``worlds (N,)`` bool."""

    def forget(self, worlds: Tensor) -> None:  # noqa: B027
        """Worlds ``(N,)`` bool start anew with a fresh seed: drop what is remembered of them."""


reward_terms: Registry[Callable[[], RewardTerm]] = Registry("reward")


def agreed(values: Tensor) -> Tensor:
    """The mean of what K judges pay, ``(K, N)``, less their disagreement: ``(N,)``.

    An agent that fools one judge gains little by it if the others aren't fooled as well.
    """
    return values.mean(0) - values.std(0, correction=0)


@reward_terms.register("boundary")
class Boundary(RewardTerm):
    """1 where the detector is undecided, 0 where it is sure: ``4p(1 − p)``.

    Not "lowest score": that pays for changes which are no anomalies at all. Of several judges it is the
    mean less their disagreement.
    """

    judged = True
    needs = ("detections",)

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [-½, 1]."""
        probability = torch.stack([detection.score for detection in transition.detections]).sigmoid()
        return agreed(4 * probability * (1 - probability))


class Sketch:
    """A change of the latent in few numbers: distances between changes are kept well enough."""

    MOST_DIMENSIONS = 64

    def __init__(self) -> None:
        self._projection: Tensor | None = None

    def __call__(self, transition: Transition) -> Tensor:
        """The change since the episode began, ``(N, up to 64)``."""
        change = (transition.latent - transition.start_latent).flatten(1)
        dimensions = change.shape[1]
        if dimensions <= self.MOST_DIMENSIONS:
            return change
        if self._projection is None:
            # A random projection bounds the memory. It must not be born in inference mode: gradients may
            # have to pass through it later.
            with torch.inference_mode(False):
                generator = torch.Generator().manual_seed(0)
                shape = (dimensions, self.MOST_DIMENSIONS)
                projection = torch.randn(shape, generator=generator) / math.sqrt(self.MOST_DIMENSIONS)
                self._projection = projection.to(change.device, change.dtype)
        return change @ self._projection


@reward_terms.register("novelty")
class Novelty(RewardTerm):
    """How far the change is from the world's last 32: 0 for a repetition, towards 1 for the new."""

    MEMORY = 32

    def __init__(self) -> None:
        self._describe = Sketch()
        self._memory: Tensor | None = None  # (N, MEMORY, d), infinity where nothing is yet
        self._next: Tensor | None = None  # (N,) where the next change goes

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [0, 1]."""
        change = self._describe(transition)
        if self._memory is None:
            return torch.ones_like(change[:, 0])
        empty = self._memory[:, :, 0].isinf()  # set aside before they meet a gradient, which infinity spoils
        known = self._memory.masked_fill(empty[:, :, None], 0)
        distances = (known - change[:, None]).square().sum(2).masked_fill(empty, math.inf)
        nearest = distances.amin(1).add(1e-12).sqrt()
        return 1 - torch.exp(-nearest / transition.shell.inner)

    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Keep the change of ``worlds (N,)`` bool, in place of the oldest."""
        change = self._describe(transition)
        if self._memory is None or self._next is None:
            shape = (len(change), self.MEMORY, change.shape[1])
            self._memory = change.new_full(shape, math.inf)
            self._next = torch.zeros(len(change), dtype=torch.int64, device=change.device)
        place = self._next[:, None, None].expand(-1, 1, change.shape[1])
        kept = torch.where(worlds[:, None, None], change[:, None], self._memory.gather(1, place))
        self._memory.scatter_(1, place, kept)
        self._next = (self._next + worlds) % self.MEMORY

    def forget(self, worlds: Tensor) -> None:
        """Empty the memory of ``worlds (N,)`` bool."""
        if self._memory is not None and self._next is not None:
            self._memory.masked_fill_(worlds[:, None, None], math.inf)
            self._next = self._next.masked_fill(worlds, 0)


class Latest:
    """The last so many vectors that any world came to."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.values: Tensor | None = None
        """``(most, d)``, the latest last."""
        self._makers: Tensor | None = None  # (most,) which world made each, -1 where nothing is

    @property
    def held(self) -> Tensor | None:
        """``(most,)`` bool: where something is."""
        return None if self._makers is None else self._makers >= 0

    def add(self, values: Tensor, worlds: Tensor) -> None:
        """Keep ``values (N, d)`` of ``worlds (N,)`` bool, in place of the oldest."""
        if self.values is None or self._makers is None:
            self.values = values.new_zeros(self.most, values.shape[1])
            self._makers = torch.full((self.most,), -1, device=values.device)
        makers = torch.arange(len(worlds), device=values.device)
        known = torch.cat([self.values, values])
        makers = torch.cat([self._makers, torch.where(worlds, makers, -1)])
        # What nobody made goes to the front, and so is dropped first: how much it is, the host need not know.
        latest = (makers >= 0).long().argsort(stable=True)[-self.most :]
        self.values, self._makers = known[latest], makers[latest]

    def drop(self, worlds: Tensor) -> None:
        """Drop what ``worlds (N,)`` bool made."""
        if self._makers is not None:
            self._makers = self._makers.masked_fill(worlds[self._makers.clamp_min(0)], -1)


@reward_terms.register("coverage")
class Coverage(RewardTerm):
    """How far the change is from the last 512 that any world made, and from what others make in this step.

    A reward for the set, where novelty is one for a world: 0 for a repetition, towards 1 for what nobody
    has made. It depends on the worlds beside it, so a batch isn't paid as single worlds would be.
    """

    MEMORY = 512

    def __init__(self) -> None:
        self._describe = Sketch()
        self._made = Latest(self.MEMORY)

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [0, 1]."""
        change = self._describe(transition)
        known = [_apart(change, change).fill_diagonal_(math.inf)]
        if self._made.values is not None and self._made.held is not None:
            known.append(_apart(change, self._made.values).masked_fill(~self._made.held[None], math.inf))
        nearest = torch.cat(known, 1).amin(1)
        return 1 - torch.exp(-nearest / transition.shell.inner)

    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Keep the changes of ``worlds (N,)`` bool, in place of the oldest."""
        self._made.add(self._describe(transition), worlds)

    def forget(self, worlds: Tensor) -> None:
        """Drop what ``worlds (N,)`` bool made."""
        self._made.drop(worlds)


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """The distances of vectors ``(N, d)`` and ``(M, d)``, ``(N, M)``: exactly 0 for what is the same."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


@reward_terms.register("realism")
class Realism(RewardTerm):
    """1 where decoding and encoding again gives the latent back as well as on normals, 0 far off."""

    needs = ("cycle_error",)

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in (0, 1]."""
        usual = transition.world.autoencoder.cycle_error.clamp_min(1e-6)
        return torch.exp(1 - (transition.cycle_error / usual).clamp_min(1))


class Reward:
    """The weighted sum of named terms."""

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
        """The reward ``(N,)`` and every term ``(N,)`` before weighting."""
        transition.work_out([fact for term in self.terms.values() for fact in term.needs])
        values = {name: term.value(transition) for name, term in self.terms.items()}
        weighted = [self.weights[name] * value for name, value in values.items()]
        return torch.stack(weighted).sum(0), values

    def begin(self, worlds: Tensor) -> None:
        """Tell every term in which worlds ``(N,)`` bool an episode begins."""
        for term in self.terms.values():
            term.begin(worlds)

    def judged(self, transition: Transition) -> Tensor | None:
        """What the terms that depend on detectors pay together, ``(N,)``; None if there are none."""
        transition.work_out([fact for term in self.terms.values() if term.judged for fact in term.needs])
        parts = [self.weights[n] * t.value(transition) for n, t in self.terms.items() if t.judged]
        return torch.stack(parts).sum(0) if parts else None

    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Tell every term of a step that was made in ``worlds (N,)`` bool."""
        for term in self.terms.values():
            term.remember(transition, worlds)

    def forget(self, worlds: Tensor) -> None:
        """Tell every term which worlds ``(N,)`` bool start anew."""
        for term in self.terms.values():
            term.forget(worlds)
