"""The policy of learners on the batch of worlds: quick to learn what suits all images."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.nn import functional

QUICKER = 30.0
"""How many times as fast the part of an action learns that is the same for all images."""


class QuickBias(nn.Linear):
    """A linear layer whose bias moves ``QUICKER`` times as far at each step of an optimiser."""

    def forward(self, features: Tensor) -> Tensor:
        """Layer over ``features (N, D)``."""
        return functional.linear(features, self.weight, QUICKER * self.bias)


class QuickMeanPolicy(ActorCriticPolicy):
    """SB3's Gaussian policy, whose mean has a part that doesn't depend on the observation and learns faster.

    Every image is met a few times only, and a latent has hundreds of numbers: at one learning rate for all, a
    network learns by heart what happened to pay for each image, long before it has learned what pays for all.
    """

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        plain = self.action_net
        assert isinstance(plain, nn.Linear)
        self.action_net = QuickBias(plain.in_features, plain.out_features)
        with torch.no_grad():
            self.action_net.weight.copy_(plain.weight)
            self.action_net.bias.zero_()
        rate = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.parameters(), **rate)
