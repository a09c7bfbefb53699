"""REINFORCE with a learned baseline: the policy gradient as it was first written down."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.nn import functional

from agents.learners.batch_rollouts import BatchRollouts

MIN_ROLLOUT = 2048


class Reinforce(BatchRollouts, OnPolicyAlgorithm):
    """``∇ E[R] = E[(R − b(s)) ∇ log π(a | s)]``, with one gradient step for each rollout.

    ``R`` is the discounted sum of all rewards that follow, not an estimate. A network learns the baseline
    ``b(s)``, the expected return of a state, and only the return beyond it moves the policy. The baseline may
    follow the data more closely than the policy may: for every step of the policy it takes
    ``baseline_epochs`` epochs over the rollout. Only where a rollout cuts an episode in two does the baseline
    stand in for the rewards that follow.

    Interface, log and files are those of Stable-Baselines3's on-policy learners.

    :param n_steps: steps of every world in a rollout, best a multiple of an episode's length. None: as many
        as make ``MIN_ROLLOUT`` steps of all worlds.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": ActorCriticPolicy}

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: Any,
        learning_rate: float | Schedule = 3e-3,
        n_steps: int | None = None,
        gamma: float = 0.99,
        ent_coef: float = 0.0,
        baseline_epochs: int = 10,
        baseline_batch: int = 256,
        max_grad_norm: float = 0.5,
        _init_setup_model: bool = True,
        **settings: Any,
    ) -> None:
        if n_steps is None:
            worlds = env.num_envs if isinstance(env, VecEnv) else 1
            n_steps = -(-MIN_ROLLOUT // worlds)
        self.baseline_epochs, self.baseline_batch = baseline_epochs, baseline_batch
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=1.0,  # which makes returns of whole episodes
            ent_coef=ent_coef,
            vf_coef=1.0,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            _init_setup_model=_init_setup_model,
            **settings,
        )

    def train(self) -> None:
        """Take one step of the policy along the gradient, and fit the baseline to the rollout."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        (rollout,) = self.rollout_buffer.get()
        _values, log_probs, entropy = self.policy.evaluate_actions(rollout.observations, rollout.actions)
        # Scaled to unit size, so that the step doesn't depend on the scale of rewards.
        beyond = rollout.advantages / (rollout.advantages.std() + 1e-8)
        policy_loss = -((beyond - beyond.mean()) * log_probs).mean()
        entropy_loss = log_probs.mean() if entropy is None else -entropy.mean()
        self._step(policy_loss + self.ent_coef * entropy_loss)
        value_loss = policy_loss.new_zeros(())
        for _epoch in range(self.baseline_epochs):
            for batch in self.rollout_buffer.get(self.baseline_batch):
                values = self.policy.predict_values(batch.observations).flatten()
                value_loss = functional.mse_loss(values, batch.returns)
                self._step(value_loss)
        self._log(policy_loss, value_loss, entropy_loss)

    def _step(self, loss: Tensor) -> None:
        """Take an optimiser's step; parameters that the loss doesn't depend on stay as they are."""
        self.policy.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()

    def _log(self, policy_loss: Tensor, value_loss: Tensor, entropy_loss: Tensor) -> None:
        """Log the values of SB3's on-policy learners under their names."""
        self._n_updates += 1
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/explained_variance", explained)
        self.logger.record("train/policy_loss", policy_loss.item())
        self.logger.record("train/value_loss", value_loss.item())
        self.logger.record("train/entropy_loss", entropy_loss.item())
        log_std = getattr(self.policy, "log_std", None)
        if isinstance(log_std, Tensor):
            self.logger.record("train/std", torch.exp(log_std).mean().item())
