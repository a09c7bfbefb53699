"""Advantage actor-critic: Stable-Baselines3's A2C on the batch of worlds."""

from __future__ import annotations

from stable_baselines3 import A2C
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from agents.batch_rollouts import BatchRollouts


class ActorCritic(BatchRollouts, A2C):
    """A2C over a :class:`~agents.sb3_vec_env.LatentVecEnv`, or over any other ``VecEnv``.

    After every few steps of all worlds one gradient step is taken: along the policy gradient, weighted with
    how much more than the critic thought the next steps paid, and towards a critic that knows it.
    ``save`` writes what ``A2C.load`` reads.

    One thing differs from SB3's A2C: a critic that has learned nothing expects nothing. SB3's begins with
    random expectations. Where a step pays little they are many times as large as what is paid, and by the
    time that the critic, which takes one step a rollout, has forgotten them, a policy that followed them has
    gone astray.
    """

    def _setup_model(self) -> None:
        super()._setup_model()
        policy = self.policy
        if isinstance(policy, ActorCriticPolicy):
            nn.init.zeros_(policy.value_net.weight)
