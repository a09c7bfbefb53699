"""A policy whose mean's bias learns faster than the rest."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.nn import functional


class FastBias(nn.Linear):
    """A linear layer whose bias moves ``lr_scale`` times as far at every step of an optimiser."""

    def __init__(self, plain: nn.Linear, lr_scale: float) -> None:
        super().__init__(plain.in_features, plain.out_features)
        self.lr_scale = lr_scale
        with torch.no_grad():
            self.weight.copy_(plain.weight)
            self.bias.copy_(plain.bias / lr_scale)

    def forward(self, features: Tensor) -> Tensor:
        """The layer's output for ``features (N, D)``."""
        return functional.linear(features, self.weight, self.lr_scale * self.bias)


class SharedMeanPolicy(ActorCriticPolicy):
    """SB3's Gaussian policy; the bias of its mean learns ``mean_bias_lr_scale`` times as fast as the rest.

    The bias is what the means of all observations share. A latent has hundreds of numbers, and every image is
    met a few times only. At one learning rate for all, a network memorises what happened to pay for each
    image long before the shared mean has moved to where all images pay.
    """

    def __init__(self, *arguments: Any, mean_bias_lr_scale: float = 1.0, **settings: Any) -> None:
        self.mean_bias_lr_scale = mean_bias_lr_scale
        super().__init__(*arguments, **settings)

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        assert isinstance(self.action_net, nn.Linear)
        self.action_net = FastBias(self.action_net, self.mean_bias_lr_scale)
        rate = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.parameters(), **rate)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "mean_bias_lr_scale": self.mean_bias_lr_scale}
