"""A decision transformer: what to do next, given what happened so far and what the episode is to pay.

After Chen et al., "Decision Transformer: reinforcement learning via sequence modeling" (2021). It learns from
recorded episodes alone, by supervision: which action was taken in this state, in an episode that paid so
much? To act well it asks for much.

One thing is different. There, the return is what is *still* to be paid, and goes down as rewards come in.
Here it is that of the whole episode, for two reasons: SB3's ``predict`` isn't told rewards, and in worlds
that are paid by potentials (``LatentDenoise-v0``) what is still to be paid says how good the state is: a
model that learns to read it there no longer looks at the state, and acts on what it only wishes for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import safe_mean
from torch import Tensor, nn
from torch.nn import functional

from agents.learners.trajectories import Teacher, Trajectories, Windows

LONGEST = 1024
"""Steps of an episode that are told apart by their number."""

HIGH = 0.95
"""Who names no return asks for this quantile of those that were recorded."""


class SequenceModel(nn.Module):
    """Three tokens a step: the return, what is seen, what is done. Each sees those before it."""

    def __init__(self, inputs: int, actions: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.of_return, self.of_state = nn.Linear(1, width), nn.Linear(inputs, width)
        self.of_action, self.of_time = nn.Linear(actions, width), nn.Embedding(LONGEST, width)
        nn.init.normal_(self.of_time.weight, std=0.02)
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(block, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.mean, self.deviation = nn.Linear(width, actions), nn.Linear(width, actions)

    def forward(
        self, returns: Tensor, states: Tensor, actions: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means of the actions, and what deviations are made of, ``(B, K, k)`` each, before they are known.

        ``returns (B, K)``, ``states (B, K, d)``, ``actions (B, K, k)``, ``times (B, K)``. What stands behind
        a step has no say in it, so shorter parts may be filled up behind.
        """
        when = self.of_time(times.clamp_max(LONGEST - 1))
        parts = (self.of_return(returns[..., None]), self.of_state(states), self.of_action(actions))
        tokens = torch.stack([part + when for part in parts], dim=2).flatten(1, 2)  # (B, 3 K, width)
        later = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        hidden = self.body(tokens, mask=later, is_causal=True)[:, 1::3]
        return self.mean(hidden).tanh(), self.deviation(hidden)


class DecisionTransformerPolicy(BasePolicy):
    """Acts by what it remembers of the running episodes, through the hidden state of SB3's ``predict``."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Any,
        context: int = 20,
        net_arch: Sequence[int] = (64, 64),
        heads: int = 4,
        min_std: float = 0.05,
        **_: Any,
    ) -> None:
        super().__init__(observation_space, action_space, squash_output=True)
        inputs, actions = spaces.flatdim(observation_space), spaces.flatdim(action_space)
        self.context, self.min_std = context, min_std
        self.model = SequenceModel(inputs, actions, net_arch[0], len(net_arch), heads)
        self.target_return = nn.Buffer(torch.tensor(0.0))
        self.return_scale = nn.Buffer(torch.tensor(1.0))
        self.usual, self.spread = nn.Buffer(torch.zeros(inputs)), nn.Buffer(torch.ones(inputs))
        self.recordings = nn.Buffer(torch.tensor(0))  # whose turn it is, wherever learning goes on
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=lr_schedule(1), weight_decay=1e-4)

    def forward(self, observation: Tensor, deterministic: bool = False) -> Tensor:
        """Actions ``(B, k)`` for the first steps of episodes."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        first = observation.flatten(1).float()[:, None]
        nothing = first.new_zeros(len(first), 1, spaces.flatdim(self.action_space))
        returns, times = (
            self.target_return.expand(len(first), 1),
            first.new_zeros(len(first), 1, dtype=torch.int64),
        )
        mean, deviation = self.actions(returns, first, nothing, times)
        return self._drawn(mean[:, -1], deviation[:, -1], deterministic)

    def actions(
        self, returns: Tensor, states: Tensor, actions: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means and deviations of actions, ``(B, K, k)`` each; all is measured in the world's own units."""
        mean, spread = self.model(
            returns / self.return_scale, (states - self.usual) / self.spread, actions, times
        )
        return mean, functional.softplus(spread) + self.min_std

    @staticmethod
    def _drawn(mean: Tensor, deviation: Tensor, deterministic: bool) -> Tensor:
        return mean if deterministic else torch.normal(mean, deviation).clamp(-1, 1)

    @torch.no_grad()
    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...] | None]:
        """Actions for ``observation (N, ...)``, and the running episodes: pass them on as ``state``."""
        self.set_training_mode(False)
        seen, several = self.obs_to_tensor(observation)
        assert isinstance(seen, Tensor)
        seen = seen.flatten(1).float()
        states, actions, elapsed = self._memory(seen, state, episode_start)
        full = (elapsed >= self.context)[:, None]  # the oldest step makes room
        states = torch.where(full[..., None], states.roll(-1, 1), states)
        actions = torch.where(full[..., None], actions.roll(-1, 1), actions)
        place = elapsed.clamp_max(self.context - 1)
        worlds = torch.arange(len(seen), device=seen.device)
        states[worlds, place] = seen
        times = (elapsed - place)[:, None] + torch.arange(self.context, device=seen.device)
        mean, deviation = self.actions(self.target_return.expand(times.shape), states, actions, times)
        chosen = self._drawn(mean[worlds, place], deviation[worlds, place], deterministic)
        actions[worlds, place] = chosen
        unscaled = self.unscale_action(chosen.cpu().numpy().reshape(-1, *(self.action_space.shape or ())))
        after = tuple(part.cpu().numpy() for part in (states, actions, elapsed + 1))
        return (unscaled if several else unscaled[0]), after

    def _memory(
        self,
        seen: Tensor,
        state: tuple[np.ndarray[Any, Any], ...] | None,
        episode_start: np.ndarray[Any, Any] | None,
    ) -> tuple[Tensor, ...]:
        """States and actions of the last ``context`` steps of every world, and how many steps it has done."""
        count = len(seen)
        fresh = (
            seen.new_zeros(count, self.context, seen.shape[1]),
            seen.new_zeros(count, self.context, spaces.flatdim(self.action_space)),
            torch.zeros(count, dtype=torch.int64, device=seen.device),
        )
        if state is None:
            return fresh
        held = tuple(torch.as_tensor(part, device=seen.device) for part in state)
        if episode_start is None:
            return tuple(part.clone() for part in held)
        begins = torch.as_tensor(episode_start, dtype=torch.bool, device=seen.device)

        def either(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(begins.view(-1, *[1] * (old.ndim - 1)), new, old)

        return tuple(either(new, old) for new, old in zip(fresh, held, strict=True))


class DecisionTransformer(BaseAlgorithm):
    """Learns from what ``teachers`` record, one after the other in turn.

    Like SB3's learners it alternates: about ``n_steps`` steps of every world are recorded, then come
    ``gradient_steps`` on all that was recorded so far. ``total_timesteps`` of ``learn`` counts what is
    recorded, so learners with equal numbers have seen equally much.

    :param wish: the return to ask for; None: a high one of those that were recorded.
    :param most: no more than so many steps are remembered, the latest.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": DecisionTransformerPolicy}
    policy: DecisionTransformerPolicy
    trajectories: Trajectories | None
    """All that was recorded so far."""

    def __init__(
        self,
        policy: str | type[DecisionTransformerPolicy],
        env: Any,
        teachers: Sequence[Teacher] = (),
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 64,
        batch_size: int = 64,
        gradient_steps: int = 64,
        target_return: float | None = None,
        most: int = 500_000,
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
        self.teachers, self.trajectories = list(teachers), None
        self.n_steps, self.batch_size, self.gradient_steps = n_steps, batch_size, gradient_steps
        self.target_return, self.most, self.max_grad_norm = target_return, most, max_grad_norm
        self._n_updates = 0
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        spaces_of = (self.observation_space, self.action_space)
        made = self.policy_class(*spaces_of, self.lr_schedule, **self.policy_kwargs)
        assert isinstance(made, DecisionTransformerPolicy)
        self.policy = made.to(self.device)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "teachers", "trajectories"]

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
        if not self.teachers:
            raise ValueError("a decision transformer learns from others: name at least one teacher")
        total, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        assert self.env is not None
        callback.on_training_start(locals(), globals())
        while self.num_timesteps < total:
            callback.on_rollout_start()
            teacher = self.teachers[int(self.policy.recordings) % len(self.teachers)]
            made = teacher.record(self.env, self.n_steps * self.env.num_envs)
            self.num_timesteps += len(made)
            callback.update_locals(locals())
            if not callback.on_step():
                break
            self.remember(made)
            callback.on_rollout_end()
            self._update_current_progress_remaining(self.num_timesteps, total)
            self.train(self.gradient_steps, self.batch_size)
            if int(self.policy.recordings) % log_interval == 0:
                self._dump()
        callback.on_training_end()
        return self

    def remember(self, made: Trajectories) -> None:
        """Add recorded episodes to what is learned from."""
        known = self.trajectories
        self.trajectories = made if known is None else Trajectories.joined(known, made).last(self.most)
        whole = self.trajectories.returns()
        assert self.ep_info_buffer is not None
        self.ep_info_buffer.extend({"r": value, "l": 0, "t": 0} for value in made.returns().tolist())
        policy = self.policy
        policy.target_return.fill_(
            float(whole.quantile(HIGH)) if self.target_return is None else self.target_return
        )
        if not policy.recordings:  # once: what is learned later must not shift what was learned before
            policy.return_scale.fill_(max(float(whole.abs().max()), 1e-6))
            policy.usual.copy_(made.observations.mean(0))
            policy.spread.copy_(made.observations.std(0, correction=0).clamp_min(1e-2))
        policy.recordings.add_(1)

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take gradient steps on parts of what was recorded."""
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
        self.logger.record("train/wish", self.policy.target_return.item())

    def _losses(self, drawn: Windows) -> dict[str, Tensor]:
        """How far the actions are from those that were taken.

        The deviation is learned beside the mean, not with it: where it is large, the mean matters no less.
        """
        policy, known = self.policy, drawn.known
        mean, deviation = policy.actions(drawn.returns, drawn.observations, drawn.actions, drawn.times)
        action_loss = functional.mse_loss(mean[known], drawn.actions[known])
        spread_loss = functional.gaussian_nll_loss(
            mean[known].detach(), drawn.actions[known], deviation[known].square()
        )
        parts = {"action_loss": action_loss.detach(), "spread_loss": spread_loss.detach()}
        return {"loss": action_loss + 0.1 * spread_loss, **parts}

    def _dump(self) -> None:
        """Write the log, with the names that SB3's learners use."""
        returns: Iterable[float] = [info["r"] for info in self.ep_info_buffer or ()]
        self.logger.record("rollout/ep_rew_mean", safe_mean(list(returns)))
        self.logger.dump(step=self.num_timesteps)
