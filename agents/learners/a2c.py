"""Advantage actor-critic: Stable-Baselines3's A2C on the batch of worlds."""

from __future__ import annotations

from stable_baselines3 import A2C

from agents.learners.batch_rollouts import BatchRollouts


class ActorCritic(BatchRollouts, A2C):
    """A2C over a :class:`~agents.sb3_vec_env.LatentVecEnv`; over any other ``VecEnv`` it is A2C as it stands.

    After every few steps of all worlds it takes one gradient step: along the policy gradient, weighted by the
    advantage of the next steps over the critic's value, and towards a critic that predicts them.
    ``save`` writes what ``A2C.load`` reads.
    """
