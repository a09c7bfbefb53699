"""The reward term ``realism``: whether the autoencoder gives the new latent back."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_env.rewards.base import RewardTerm, reward_terms
from latent_env.transition import Transition


@reward_terms.register("realism")
class Realism(RewardTerm):
    """1 where decoding and encoding gives the latent back as well as on normal images, 0 far from that."""

    needs = ("cycle_error",)

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in (0, 1]."""
        normal = transition.world.autoencoder.cycle_error.clamp_min(1e-6)
        return torch.exp(1 - (transition.cycle_error / normal).clamp_min(1))
