"""Maximum a posteriori policy optimisation: off-policy, in two steps that a KL divergence bounds.

Abdolmaleki et al., "Maximum a posteriori policy optimisation" (2018) and "Relative entropy regularized policy
iteration" (2018), on Stable-Baselines3's off-policy loop and replay buffer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.type_aliases import RolloutReturn
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional

DUAL_LEARNING_RATE = 1e-2
"""Learning rate of the temperature and of the penalties: they have to keep up with actor and critics."""


class Actor(nn.Module):
    """A diagonal Gaussian over actions for every state; its means lie in [-1, 1]."""

    def __init__(
        self, inputs: int, actions: int, hidden: Sequence[int], init_std: float, min_std: float
    ) -> None:
        super().__init__()
        self.min_std = min_std
        self.body = nn.Sequential(*create_mlp(inputs, -1, list(hidden), nn.ELU))
        width = hidden[-1] if hidden else inputs
        self.mean, self.std = nn.Linear(width, actions), nn.Linear(width, actions)
        nn.init.normal_(self.mean.weight, std=0.01)
        nn.init.zeros_(self.mean.bias)
        nn.init.zeros_(self.std.weight)
        # softplus(bias) + min_std is the initial standard deviation
        beyond = max(init_std - min_std, 1e-3)
        nn.init.constant_(self.std.bias, math.log(math.expm1(beyond)))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations ``(B, k)`` for ``states (B, d)``."""
        hidden = self.body(states)
        return self.mean(hidden).tanh(), functional.softplus(self.std(hidden)) + self.min_std


class Critics(nn.Module):
    """Two estimates of an action's value, of which the lower one counts."""

    def __init__(self, inputs: int, actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(*create_mlp(inputs + actions, 1, list(hidden), nn.ELU)) for _ in range(2)
        )

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Values ``(2, ...)`` of ``actions (..., k)`` in ``states (..., d)``."""
        both = torch.cat([states, actions], dim=-1)
        return torch.stack([net(both).squeeze(-1) for net in self.nets])

    def lower(self, states: Tensor, actions: Tensor) -> Tensor:
        """The lower of the two, ``(...)``."""
        return self(states, actions).amin(0)


class MPOPolicy(BasePolicy):
    """Actor and critics, their target networks, and the three dual variables."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Any,  # noqa: ARG002 - SB3 hands it to every policy
        net_arch: Sequence[int] = (128, 128),
        init_std: float = 0.5,
        min_std: float = 0.05,
        **_: Any,
    ) -> None:
        super().__init__(observation_space, action_space, squash_output=True)  # predict scales to the space
        inputs, actions = spaces.flatdim(observation_space), spaces.flatdim(action_space)
        self.actor = Actor(inputs, actions, net_arch, init_std, min_std)
        self.critics = Critics(inputs, actions, net_arch)
        self.target_actor = deepcopy(self.actor).requires_grad_(False)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        self.log_temperature = nn.Parameter(torch.tensor(0.0))
        self.log_penalty_mean = nn.Parameter(torch.tensor(0.0))
        self.log_penalty_std = nn.Parameter(torch.tensor(0.0))

    def duals(self) -> list[nn.Parameter]:
        """The dual variables: the temperature, and the penalties of mean and standard deviation."""
        return [self.log_temperature, self.log_penalty_mean, self.log_penalty_std]

    def forward(self, observation: Tensor, deterministic: bool = False) -> Tensor:
        """Actions ``(B, k)`` in [-1, 1]."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        mean, std = self.actor(observation.flatten(1).float())
        return mean if deterministic else torch.normal(mean, std).clamp(-1, 1)

    def update_targets(self) -> None:
        """Copy actor and critics to the target networks."""
        self.target_actor.load_state_dict(self.actor.state_dict())
        self.target_critics.load_state_dict(self.critics.state_dict())


class MPO(OffPolicyAlgorithm):
    """Every update first finds which actions would be better, then makes the policy more likely to take them.

    *E-step*: of ``candidates`` actions that the target policy proposes in a state, those with a higher value
    get more weight, ``w ∝ exp(Q / η)``. The temperature η keeps the weights within a KL divergence of
    ``epsilon`` of equal ones. *M-step*: the policy maximises the weighted likelihood of these actions. Its
    mean and its standard deviation are each held near the target policy's: a KL divergence above
    ``epsilon_mean`` or ``epsilon_std`` (per dimension) has a penalty that rises until it is below. The
    critics learn the value of the target policy by one-step temporal differences.

    Interface, log and files are those of Stable-Baselines3's off-policy learners.

    :param target_period: gradient steps between two updates of the target networks.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": MPOPolicy}
    policy: MPOPolicy

    def __init__(
        self,
        policy: str | type[MPOPolicy],
        env: Any,
        learning_rate: float = 1e-3,
        buffer_size: int = 100_000,
        learning_starts: int = 1000,
        batch_size: int = 256,
        gamma: float = 0.99,
        train_freq: int = 16,
        gradient_steps: int = 16,
        candidates: int = 16,
        epsilon: float = 0.1,
        epsilon_mean: float = 0.01,
        epsilon_std: float = 1e-4,
        target_period: int = 50,
        max_grad_norm: float = 1.0,
        _init_setup_model: bool = True,
        **settings: Any,
    ) -> None:
        self.candidates, self.target_period = candidates, target_period
        self.epsilon, self.epsilon_mean = epsilon, epsilon_mean
        self.epsilon_std, self.max_grad_norm = epsilon_std, max_grad_norm
        self._n_updates = 0
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            support_multi_env=True,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
            **settings,
        )
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        rate = self.lr_schedule(1)
        self.actor_optimizer = torch.optim.Adam(self.policy.actor.parameters(), lr=rate)
        self.critic_optimizer = torch.optim.Adam(self.policy.critics.parameters(), lr=rate)
        self.dual_optimizer = torch.optim.Adam(self.policy.duals(), lr=DUAL_LEARNING_RATE)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor_optimizer", "critic_optimizer", "dual_optimizer"], []

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take gradient steps on transitions from the replay buffer."""
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor_optimizer, self.critic_optimizer])
        found: dict[str, Tensor] = {}
        for _step in range(gradient_steps):
            drawn = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            states = drawn.observations.flatten(1).float()
            following = drawn.next_observations.flatten(1).float()
            found = self._learn_values(
                states, drawn.actions, drawn.rewards.flatten(), drawn.dones.flatten(), following
            )
            found |= self._learn_actions(states)
            self._n_updates += 1
            if self._n_updates % self.target_period == 0:
                self.policy.update_targets()
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, value in found.items():
            self.logger.record(f"train/{name}", value.item())

    def collect_rollouts(self, *args: Any, **settings: Any) -> RolloutReturn:
        """Let SB3 collect a rollout, and log once: else every world that ends would write a log."""
        made = super().collect_rollouts(*args, **{**settings, "log_interval": None})
        self.dump_logs()
        return made

    def _learn_values(
        self, states: Tensor, actions: Tensor, rewards: Tensor, dones: Tensor, following: Tensor
    ) -> dict[str, Tensor]:
        """One step of the critics towards the reward plus the target policy's discounted value after it."""
        policy = self.policy
        with torch.no_grad():
            _, _, taken = self._candidates(following)
            after = policy.target_critics.lower(following.expand(len(taken), -1, -1), taken).mean(0)
            wanted = rewards + self.gamma * (1 - dones) * after
        loss = functional.mse_loss(policy.critics(states, actions), wanted.expand(2, -1))
        self._step(self.critic_optimizer, loss, policy.critics)
        return {"critic_loss": loss.detach()}

    def _candidates(self, states: Tensor) -> tuple[Independent[Normal], Tensor, Tensor]:
        """The target policy's distribution in ``states (B, d)``, and actions ``(S, B, k)`` drawn from it.

        The actions come twice: as they were drawn, and clamped to [-1, 1].
        """
        before = Independent(_normal(*self.policy.target_actor(states)), 1)
        proposed = before.sample((self.candidates,))
        return before, proposed, proposed.clamp(-1, 1)

    def _learn_actions(self, states: Tensor) -> dict[str, Tensor]:
        """The E-step and the M-step for ``states (B, d)``, and one step of the duals."""
        policy = self.policy
        with torch.no_grad():
            before, proposed, taken = self._candidates(states)
            values = policy.target_critics.lower(states.expand(len(taken), -1, -1), taken)  # (S, B)
        temperature = policy.log_temperature.exp()
        # log-mean-exp, whose derivative by the temperature is 0 where the KL of the weights is epsilon
        soft = (values / temperature).logsumexp(0) - math.log(len(values))
        temperature_loss = temperature * (self.epsilon + soft.mean())
        weights = (values / temperature.detach()).softmax(0)
        mean, std = policy.actor(states)
        old = before.base_dist
        # Mean and standard deviation are learned apart, each beside the target policy's other one.
        moved = Independent(_normal(mean, old.stddev), 1)
        widened = Independent(_normal(old.mean, std), 1)
        likelihood = moved.log_prob(proposed) + widened.log_prob(proposed)
        actor_loss = -(weights * likelihood).sum(0).mean()
        dimensions = mean.shape[1]
        kl = torch.stack([kl_divergence(before, changed).mean() / dimensions for changed in (moved, widened)])
        penalties = torch.stack([policy.log_penalty_mean, policy.log_penalty_std]).exp()
        allowed = kl.new_tensor([self.epsilon_mean, self.epsilon_std])
        self._step(
            self.actor_optimizer, actor_loss + dimensions * (penalties.detach() * kl).sum(), policy.actor
        )
        dual_loss = temperature_loss + (penalties * (allowed - kl.detach())).sum()
        self._step(self.dual_optimizer, dual_loss)
        return {
            "actor_loss": actor_loss.detach(),
            "temperature": temperature.detach(),
            "kl_mean": kl[0].detach(),
            "kl_std": kl[1].detach(),
            "penalty_mean": penalties[0].detach(),
            "penalty_std": penalties[1].detach(),
            "std": std.detach().mean(),
        }

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor, clipped: nn.Module | None = None) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clipped is not None:
            nn.utils.clip_grad_norm_(clipped.parameters(), self.max_grad_norm)
        optimizer.step()


def _normal(mean: Tensor, std: Tensor) -> Normal:
    """A Gaussian whose arguments aren't checked, which would wait for the device."""
    return Normal(mean, std, validate_args=False)
