"""Advantage actor-critic: Stable-Baselines3's A2C on the batch of worlds."""

from __future__ import annotations

from stable_baselines3 import A2C

from agents.learners.batch_rollouts import BatchRollouts


class ActorCritic(BatchRollouts, A2C):
    """A2C over a :class:`~agents.sb3_vec_env.LatentVecEnv`; over any other ``VecEnv`` it is A2C as it stands.

    After every few steps of all worlds one gradient step is taken: along the policy gradient, weighted with
    how much more than the critic thought the next steps paid, and towards a critic that knows it.
    ``save`` writes what ``A2C.load`` reads.
    """
