"""A rollout buffer of Stable-Baselines3 that keeps its tensors on the policy's device."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

LEARNED_FROM = ("observations", "actions", "values", "log_probs", "advantages", "returns")
"""The fields of a step that ``train()`` reads, in the order of :class:`RolloutBufferSamples`."""


class DeviceRolloutBuffer(RolloutBuffer):
    """Steps ``(buffer_size, n_envs, ...)`` as tensors on ``device``.

    It takes tensors and arrays alike. Minibatches and advantages equal those of SB3's ``RolloutBuffer`` with
    the same seed.
    """

    def reset(self) -> None:
        """Empty the buffer."""
        steps = (self.buffer_size, self.n_envs)
        self._held: dict[str, Tensor] = {
            name: torch.zeros(*steps, *shape, device=self.device)
            for name, shape in {
                "observations": self.obs_shape,
                "actions": (self.action_dim,),
                "rewards": (),
                "episode_starts": (),
                "values": (),
                "log_probs": (),
                "advantages": (),
                "returns": (),
            }.items()
        }
        self.pos, self.full = 0, False
        self.generator_ready = False

    def add(
        self,
        obs: Any,
        action: Any,
        reward: Any,
        episode_start: Any,
        value: Tensor,
        log_prob: Tensor,
    ) -> None:
        """Append one step of all worlds; every argument leads with the world."""
        step = {
            "observations": obs,
            "actions": action,
            "rewards": reward,
            "episode_starts": episode_start,
            "values": value,
            "log_probs": log_prob,
        }
        for name, part in step.items():
            held = self._held[name][self.pos]
            held.copy_(torch.as_tensor(part).view_as(held))
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def compute_returns_and_advantage(self, last_values: Tensor, dones: Any) -> None:
        """Compute generalised advantages, and the returns that the critic learns, on the device.

        ``last_values (n_envs,)`` are the values after the last step, ``dones (n_envs,)`` tell where it ended
        an episode.
        """
        held = self._held
        goes_on = 1 - torch.as_tensor(dones).to(held["rewards"])
        following = last_values.detach().flatten()
        advantage = torch.zeros_like(following)
        for step in reversed(range(self.buffer_size)):
            error = held["rewards"][step] + self.gamma * following * goes_on - held["values"][step]
            advantage = error + self.gamma * self.gae_lambda * goes_on * advantage
            held["advantages"][step] = advantage
            goes_on, following = 1 - held["episode_starts"][step], held["values"][step]
        torch.add(held["advantages"], held["values"], out=held["returns"])

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Minibatches in random order, each step once."""
        assert self.full
        count = self.buffer_size * self.n_envs
        flat = [self._held[name].transpose(0, 1).flatten(0, 1) for name in LEARNED_FROM]
        # NumPy's global generator is what SB3 seeds: the same seed means the same minibatches as there.
        shuffled = np.random.permutation(count)  # noqa: NPY002
        order = torch.from_numpy(shuffled).to(self.device, non_blocking=True)
        for chosen in order.split(batch_size or count):
            yield RolloutBufferSamples(*(part[chosen] for part in flat))

    def __getattr__(self, name: str) -> Any:
        """The field ``name`` as an array: SB3's ``train()`` reads ``values`` and ``returns``."""
        held = self.__dict__.get("_held", {})
        if name in held:
            return held[name].cpu().numpy()
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
