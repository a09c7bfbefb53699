"""The reward term ``boundary``: how undecided the detector is."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_env.rewards.base import RewardTerm, mean_less_disagreement, reward_terms
from latent_env.transition import Transition


@reward_terms.register("boundary")
class Boundary(RewardTerm):
    """1 where the detector is undecided, 0 where it is sure: ``4p(1 − p)`` of its anomaly probability p.

    A low score alone is not rewarded: changes that are no anomalies have low scores too. With a reward
    ensemble it is the mean of its detectors less their disagreement.
    """

    uses_detectors = True
    needs = ("detections",)

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [-½, 1]."""
        probability = torch.stack([detection.score for detection in transition.detections]).sigmoid()
        return mean_less_disagreement(4 * probability * (1 - probability))
