"""A decision transformer: which action comes next, given the episode so far and the return it shall have.

After Chen et al., "Decision Transformer: reinforcement learning via sequence modeling" (2021). It learns from
recorded episodes by supervision: which action was taken in this state, in an episode with this return? To act
well it is conditioned on a high return.

One thing differs from the paper. There the model is conditioned on the return that is *still* to come, which
falls as rewards arrive. Here it is the return of the whole episode, for two reasons. SB3's ``predict`` isn't
told rewards. And where a potential is paid (``LatentDenoise-v0``), the return still to come tells how good
the state is: a model that reads this from the return no longer looks at the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import safe_mean
from torch import Tensor, nn
from torch.nn import functional

from agents.learners.sequences.sequence_policy import DecisionTransformerPolicy
from agents.learners.sequences.trajectories import Demonstrations, Trajectories, Windows

TARGET_QUANTILE = 0.95
"""Without a ``target_return``, this quantile of the recorded returns is asked for."""


class DecisionTransformer(BaseAlgorithm):
    """Learns from what ``demonstrations`` record, one after the other in turn.

    Like SB3's learners it alternates: about ``n_steps`` steps of every world are recorded, then come
    ``gradient_steps`` on all that was recorded so far. ``total_timesteps`` of ``learn`` counts recorded
    steps, so learners with equal numbers have had equally many.

    :param target_return: the return to ask for; None: a high quantile of the recorded ones.
    :param memory_size: how many recorded steps are kept, the latest.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": DecisionTransformerPolicy}
    policy: DecisionTransformerPolicy
    trajectories: Trajectories | None
    """All that was recorded so far."""

    def __init__(
        self,
        policy: str | type[DecisionTransformerPolicy],
        env: Any,
        demonstrations: Sequence[Demonstrations] = (),
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 64,
        batch_size: int = 64,
        gradient_steps: int = 64,
        target_return: float | None = None,
        memory_size: int = 500_000,
        max_grad_norm: float = 1.0,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs,
            stats_window_size,
            tensorboard_log,
            verbose,
            device,
            support_multi_env=True,
            seed=seed,
            supported_action_spaces=(spaces.Box,),
        )
        self.demonstrations, self.trajectories = list(demonstrations), None
        self.n_steps, self.batch_size, self.gradient_steps = n_steps, batch_size, gradient_steps
        self.target_return, self.memory_size, self.max_grad_norm = target_return, memory_size, max_grad_norm
        self._n_updates = 0
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        spaces_of = (self.observation_space, self.action_space)
        policy = self.policy_class(*spaces_of, self.lr_schedule, **self.policy_kwargs)
        assert isinstance(policy, DecisionTransformerPolicy)
        self.policy = policy.to(self.device)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "demonstrations", "trajectories"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int = 1,
        tb_log_name: str = "DT",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> DecisionTransformer:
        """Record and learn until ``total_timesteps`` steps are recorded."""
        if not self.demonstrations:
            raise ValueError(
                "a decision transformer learns from recorded episodes: pass at least one source of them as "
                "demonstrations=[…]"
            )
        total, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        assert self.env is not None
        callback.on_training_start(locals(), globals())
        while self.num_timesteps < total:
            callback.on_rollout_start()
            turn = int(self.policy.recordings) % len(self.demonstrations)
            made = self.demonstrations[turn].record(self.env, self.n_steps * self.env.num_envs)
            self.num_timesteps += len(made)
            callback.update_locals(locals())
            if not callback.on_step():
                break
            self.add(made)
            callback.on_rollout_end()
            self._update_current_progress_remaining(self.num_timesteps, total)
            self.train(self.gradient_steps, self.batch_size)
            if int(self.policy.recordings) % log_interval == 0:
                self._dump()
        callback.on_training_end()
        return self

    def add(self, made: Trajectories) -> None:
        """Add recorded episodes to those that are learned from."""
        known = self.trajectories
        self.trajectories = made if known is None else Trajectories.joined(known, made).last(self.memory_size)
        returns = self.trajectories.returns()
        assert self.ep_info_buffer is not None
        self.ep_info_buffer.extend({"r": value, "l": 0, "t": 0} for value in made.returns().tolist())
        policy = self.policy
        policy.target_return.fill_(
            float(returns.quantile(TARGET_QUANTILE)) if self.target_return is None else self.target_return
        )
        if not policy.recordings:  # once: other units would change what the weights mean
            policy.return_scale.fill_(max(float(returns.abs().max()), 1e-6))
            policy.location.copy_(made.observations.mean(0))
            policy.scale.copy_(made.observations.std(0, correction=0).clamp_min(1e-2))
        policy.recordings.add_(1)

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take gradient steps on random parts of the recorded episodes."""
        assert self.trajectories is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        trajectories = self.trajectories
        returns = trajectories.returns()[trajectories.episodes()]
        losses: dict[str, Tensor] = {}
        for _step in range(gradient_steps):
            ends = torch.randint(len(trajectories), (batch_size,))
            drawn = trajectories.windows(ends, self.policy.context, returns)
            losses = self._losses(Windows(*(part.to(self.device) for part in drawn)))
            self.policy.optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, loss in losses.items():
            self.logger.record(f"train/{name}", loss.item())
        self.logger.record("train/target_return", self.policy.target_return.item())

    def _losses(self, drawn: Windows) -> dict[str, Tensor]:
        """How far the predicted actions are from the recorded ones.

        The standard deviation's loss leaves the mean alone: it would weigh the mean's errors down where it
        is large.
        """
        policy, known = self.policy, drawn.known
        mean, std = policy.actions(drawn.returns, drawn.observations, drawn.actions, drawn.times)
        action_loss = functional.mse_loss(mean[known], drawn.actions[known])
        std_loss = functional.gaussian_nll_loss(
            mean[known].detach(), drawn.actions[known], std[known].square()
        )
        parts = {"action_loss": action_loss.detach(), "std_loss": std_loss.detach()}
        return {"loss": action_loss + 0.1 * std_loss, **parts}

    def _dump(self) -> None:
        """Write the log, with the names that SB3's learners use."""
        returns: Iterable[float] = [info["r"] for info in self.ep_info_buffer or ()]
        self.logger.record("rollout/ep_rew_mean", safe_mean(list(returns)))
        self.logger.dump(step=self.num_timesteps)
