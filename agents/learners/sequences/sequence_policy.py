"""The decision transformer's network, and the policy that acts with it step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.nn import functional

MAX_STEPS = 1024
"""Steps of an episode that are told apart by their number."""


class SequenceModel(nn.Module):
    """A causal transformer over three tokens a step: the return, the observation, the action."""

    def __init__(self, inputs: int, actions: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed_return, self.embed_state = nn.Linear(1, width), nn.Linear(inputs, width)
        self.embed_action, self.embed_time = nn.Linear(actions, width), nn.Embedding(MAX_STEPS, width)
        nn.init.normal_(self.embed_time.weight, std=0.02)
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(block, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.mean, self.std = nn.Linear(width, actions), nn.Linear(width, actions)

    def forward(
        self, returns: Tensor, states: Tensor, actions: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means of the actions, and their standard deviations before softplus, ``(B, K, k)`` each.

        ``returns (B, K)``, ``states (B, K, d)``, ``actions (B, K, k)``, ``times (B, K)``. A step's output
        depends on nothing after its own state, so shorter sequences may be padded at their end.
        """
        when = self.embed_time(times.clamp_max(MAX_STEPS - 1))
        parts = (self.embed_return(returns[..., None]), self.embed_state(states), self.embed_action(actions))
        tokens = torch.stack([part + when for part in parts], dim=2).flatten(1, 2)  # (B, 3 K, width)
        causal = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        hidden = self.body(tokens, mask=causal, is_causal=True)[:, 1::3]
        return self.mean(hidden).tanh(), self.std(hidden)


class DecisionTransformerPolicy(BasePolicy):
    """Acts by the last ``context`` steps of the running episodes, kept in the hidden state of ``predict``."""

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
        self.location, self.scale = nn.Buffer(torch.zeros(inputs)), nn.Buffer(torch.ones(inputs))
        self.recordings = nn.Buffer(torch.tensor(0))  # a buffer, so that a resumed training goes on counting
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=lr_schedule(1), weight_decay=1e-4)

    def forward(self, observation: Tensor, deterministic: bool = False) -> Tensor:
        """Actions ``(B, k)`` for the first steps of episodes."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        first = observation.flatten(1).float()[:, None]
        no_action = first.new_zeros(len(first), 1, spaces.flatdim(self.action_space))
        returns = self.target_return.expand(len(first), 1)
        times = first.new_zeros(len(first), 1, dtype=torch.int64)
        mean, std = self.actions(returns, first, no_action, times)
        return self._sample(mean[:, -1], std[:, -1], deterministic)

    def actions(
        self, returns: Tensor, states: Tensor, actions: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of actions, ``(B, K, k)`` each; inputs are in the world's units."""
        mean, raw_std = self.model(
            returns / self.return_scale, (states - self.location) / self.scale, actions, times
        )
        return mean, functional.softplus(raw_std) + self.min_std

    @staticmethod
    def _sample(mean: Tensor, std: Tensor, deterministic: bool) -> Tensor:
        return mean if deterministic else torch.normal(mean, std).clamp(-1, 1)

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
        observed, several = self.obs_to_tensor(observation)
        assert isinstance(observed, Tensor)
        observed = observed.flatten(1).float()
        states, actions, elapsed = self._memory(observed, state, episode_start)
        full = (elapsed >= self.context)[:, None]  # the oldest step makes room
        states = torch.where(full[..., None], states.roll(-1, 1), states)
        actions = torch.where(full[..., None], actions.roll(-1, 1), actions)
        place = elapsed.clamp_max(self.context - 1)
        worlds = torch.arange(len(observed), device=observed.device)
        states[worlds, place] = observed
        times = (elapsed - place)[:, None] + torch.arange(self.context, device=observed.device)
        mean, std = self.actions(self.target_return.expand(times.shape), states, actions, times)
        chosen = self._sample(mean[worlds, place], std[worlds, place], deterministic)
        actions[worlds, place] = chosen
        unscaled = self.unscale_action(chosen.cpu().numpy().reshape(-1, *(self.action_space.shape or ())))
        after = tuple(part.cpu().numpy() for part in (states, actions, elapsed + 1))
        return (unscaled if several else unscaled[0]), after

    def _memory(
        self,
        observed: Tensor,
        state: tuple[np.ndarray[Any, Any], ...] | None,
        episode_start: np.ndarray[Any, Any] | None,
    ) -> tuple[Tensor, ...]:
        """States and actions of the last ``context`` steps of every world, and how many steps it has done."""
        count = len(observed)
        fresh = (
            observed.new_zeros(count, self.context, observed.shape[1]),
            observed.new_zeros(count, self.context, spaces.flatdim(self.action_space)),
            torch.zeros(count, dtype=torch.int64, device=observed.device),
        )
        if state is None:
            return fresh
        held = tuple(torch.as_tensor(part, device=observed.device) for part in state)
        if episode_start is None:
            return tuple(part.clone() for part in held)
        begins = torch.as_tensor(episode_start, dtype=torch.bool, device=observed.device)

        def either(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(begins.view(-1, *[1] * (old.ndim - 1)), new, old)

        return tuple(either(new, old) for new, old in zip(fresh, held, strict=True))
