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

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from latent_common.registry import Registry
from latent_env.transition import Transition


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
