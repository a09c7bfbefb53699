"""Reward terms: what each of them is, and how to add one.

A term turns a :class:`~latent_env.transition.Transition` of N worlds into one number a world, larger for
better and of order 1. The reward is a weighted sum of terms. To add one, register a class and name it in
``reward``::

    from latent_env import RewardTerm, register_reward

    @register_reward("small")
    class Small(RewardTerm):
        def value(self, transition):
            return -transition.mask.float().mean(dim=(1, 2, 3))

    env = gym.make("LatentAug-v0", reward={"boundary": 1.0, "my_module:small": 0.5})
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from torch import Tensor

from latent_common.registry import Registry
from latent_env.transition import Transition

MOST_ASKED = 5.0
"""No number is larger that a term lets agents see."""


class RewardTerm(ABC):
    """One term of the reward. Only ``value`` must be written; other methods are for terms with a memory."""

    needs: tuple[str, ...] = ()
    """Names of the transition's properties that take networks to compute and that ``value`` reads.

    They are computed before ``value`` is called, a part of the worlds at a time, which is faster. A term may
    read other properties as well.
    """

    uses_detectors = False
    """Whether the value depends on detectors; such terms are also computed with the held-out detector."""

    @abstractmethod
    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)``; must not change the term's own state."""

    def asked(self, transition: Transition) -> Tensor | None:  # noqa: ARG002
        """What the value depends on beside the latents, for agents to see: ``(N, k)``, from -5 to 5.

        None for nothing. It follows the latent in observations.
        """
        return None

    def begin(self, worlds: Tensor) -> None:  # noqa: B027 - few terms follow an episode
        """A new episode begins in ``worlds (N,)`` bool."""

    def remember(  # noqa: B027 - most terms have no memory
        self, transition: Transition, worlds: Tensor
    ) -> None:
        """Keep what later values depend on, of the step just taken in ``worlds (N,)`` bool."""

    def forget(self, worlds: Tensor) -> None:  # noqa: B027
        """Drop what is remembered of ``worlds (N,)`` bool: they begin anew with a fresh seed."""

    def state(self) -> dict[str, Tensor]:
        """What is remembered, by name, so that a stopped training can go on: all attributes that are tensors.

        A term that remembers something else overrides this and :meth:`restore`.
        """
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Remember what :meth:`state` returned."""
        for name, value in state.items():
            if name not in vars(self):
                raise KeyError(name)
            setattr(self, name, value)


reward_terms: Registry[Callable[[], RewardTerm]] = Registry("reward")


def mean_less_disagreement(values: Tensor) -> Tensor:
    """The mean of K detectors' values ``(K, N)`` less their standard deviation, ``(N,)``.

    An agent that fools one detector of the ensemble gains little by it unless the others are fooled too.
    """
    return values.mean(0) - values.std(0, correction=0)
