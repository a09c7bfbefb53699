"""The reward term ``boundary``: how undecided the detector is."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_env.rewards.base import RewardTerm, agreed, reward_terms
from latent_env.transition import Transition


@reward_terms.register("boundary")
class Boundary(RewardTerm):
    """1 where the detector is undecided, 0 where it is sure: ``4p(1 − p)``.

    Not "lowest score": that pays for changes which are no anomalies at all. Of several judges it is the
    mean less their disagreement.
    """

    judged = True
    needs = ("detections",)

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [-½, 1]."""
        probability = torch.stack([detection.score for detection in transition.detections]).sigmoid()
        return agreed(4 * probability * (1 - probability))
