"""A linear probe on whitened tokens: the Mahalanobis distance, and what labelled anomalies add to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from detectors.base import LATENT
from detectors.blocks.last_layer import LastLayerInput
from detectors.blocks.tokens import TOP_TOKENS
from detectors.distances.whitened import AT_ONCE, WhitenedDetector
from detectors.training.samples import Samples, SampleSource
from latent_common.image_source import ImageSource

FREE = 100.0
"""The distance counts in units so much smaller that its weight is hardly held back."""

TOLERANCE = 1e-8
"""Of the fit's gradient: the same weights come out on every processor."""


class ProbeDetector(WhitenedDetector):
    """The distance of a token from normal ones at its position, and a direction that anomalies lie in.

    Tokens are whitened by the Gaussian of their position. A logistic regression then tells normal ones from
    those of labelled anomalies by their distance and their channels. Its weights of channels are held
    towards 0, the more the fewer anomalies are labelled: without any, the distance alone is left.
    """

    weights: Tensor
    bias: Tensor

    def __init__(self, latent_shape: Sequence[int], reads: str = LATENT) -> None:
        super().__init__(latent_shape, reads)
        inputs = latent_shape[0] + 1
        # Of the distance, and of every channel.
        self.register_buffer("weights", torch.tensor([1.0] + [0.0] * (inputs - 1)))
        self.register_buffer("bias", torch.zeros(()))

    def distances(self, latents: Tensor) -> Tensor:
        """How anomalous each token of ``latents (B, *latent_shape)`` is, ``(B, T)``, as a logit."""
        return self.inputs(latents) @ self.weights + self.bias

    @torch.no_grad()
    def learn(self, normal: ImageSource, sources: Sequence[SampleSource], strength: float) -> None:
        """Find the weights, from scratch.

        :param normal: the latents ``(N, *latent_shape)`` that :meth:`fit` saw.
        :param sources: anomalies, with a share of their own each, and masks on the grid of tokens.
        :param strength: how much weights of channels are held towards 0.
        """
        self.weights.zero_()
        self.weights[0], self.bias[...] = 1.0, 0.0
        counting = [source for source in sources if source.share > 0 and source.samples.labels.any()]
        positives = [part for source in counting for part in self._anomalous_tokens(source)]
        if not positives:
            return
        negatives = self.standardised(self.normal_tokens(normal))
        rows = [negatives, *(tokens for tokens, _ in positives)]
        shares = [torch.full((len(negatives),), 1 / len(negatives)), *(share for _, share in positives)]
        shares[1:] = [share / sum(float(each.sum()) for each in shares[1:]) for share in shares[1:]]
        inputs = torch.cat(rows).double().cpu().numpy()
        labels = np.repeat([0, 1], [len(negatives), len(inputs) - len(negatives)])
        weights, bias = _regression(inputs, labels, torch.cat(shares).double().numpy(), strength)
        if weights[0] <= 0:  # anomalies nearer than normal tokens tell nothing of others: the distance stays
            return
        self.weights.copy_(torch.from_numpy(weights))
        self.bias.fill_(bias)

    def last_layer_input(self, latents: Tensor) -> LastLayerInput:
        """What the regression reads of ``latents (B, *latent_shape)``, as maps ``(B, C + 1, h, w)``."""
        maps = self.input_maps(latents)
        return LastLayerInput(maps, torch.zeros_like(maps[:, :1]))

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """The weights ``(C + 1, 1, 1)`` and the bias ``()``."""
        return self.weights[:, None, None], self.bias

    def score_count(self, positions: int) -> int:
        """How many of a map's ``positions`` are averaged to a score."""
        return min(TOP_TOKENS, positions)

    def _anomalous_tokens(self, source: SampleSource) -> Iterator[tuple[Tensor, Tensor]]:
        """For some anomalies at a time, their tokens ``(K, C + 1)`` and how much each counts ``(K,)``.

        Where it isn't known which tokens are anomalous, those are taken that lie furthest from normal.
        """
        anomalies = source.samples.of(1)
        for part in torch.arange(len(anomalies.labels)).split(AT_ONCE):
            samples = anomalies.at(part)
            inputs = self.inputs(samples.images.float())
            marks = self._marks(samples, inputs[..., 0])
            share = source.share / (len(anomalies.labels) * marks.sum(1, keepdim=True))
            yield inputs[marks], share.expand(marks.shape)[marks].cpu()

    def _marks(self, samples: Samples, distances: Tensor) -> Tensor:
        """Which tokens of samples with these ``distances (B, T)`` are anomalous, ``(B, T)`` bool."""
        furthest = distances.topk(self.score_count(distances.shape[1]), dim=1).indices
        guessed = torch.zeros_like(distances, dtype=torch.bool).scatter_(1, furthest, True)
        masks = samples.masks.flatten(1)
        known = samples.marked & masks.any(1)
        return torch.where(known[:, None], masks, guessed)


def _regression(
    inputs: np.ndarray, labels: np.ndarray, shares: np.ndarray, strength: float
) -> tuple[np.ndarray, float]:
    """Weights ``(C + 1,)`` and bias of a logistic regression that hardly holds back the first weight."""
    from sklearn.linear_model import LogisticRegression  # it takes a second to import

    scaled = inputs.copy()
    scaled[:, 0] *= FREE
    model = LogisticRegression(C=1 / (2 * strength), solver="newton-cholesky", tol=TOLERANCE, max_iter=100)
    model.fit(scaled, labels, sample_weight=shares)
    weights = model.coef_[0].copy()
    weights[0] *= FREE
    return weights, float(model.intercept_[0])
