"""How good generated images are: alike as a crowd, believable, varied, and no copies of training images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from latent_common.image_source import ImageSource, evenly_spaced
from latent_env.autoencoders.sample_features import SampleClassifier, features_of

NEIGHBOURS = 3
"""An image's surroundings reach to its so manieth neighbour (Kynkäänniemi et al. 2019)."""

MOST_COMPARED = 1024
"""Of more real images, so many evenly spaced ones are compared with."""

CLOSE = 0.05
"""A sample is as close as a copy if so few held-out images lie closer to a training image."""


def frechet_distance(some: Tensor, others: Tensor) -> float:
    """The Fréchet distance between Gaussians fitted to features ``(N, F)`` and ``(M, F)``, squared as usual.

    ``|m - m'|² + tr(S + S' - 2 (S S')^½)``; the trace of the root comes from the symmetric ``S^½ S' S^½``,
    whose eigenvalues are those of ``S S'``.
    """
    gap = (some.mean(0) - others.mean(0)).square().sum()
    first, second = _covariance(some), _covariance(others)
    values, vectors = torch.linalg.eigh(first)
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    return float((gap + first.trace() + second.trace() - 2 * shared).clamp_min(0))


def precision_and_recall(real: Tensor, made: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """The share of ``made (M, F)`` that lies among ``real (N, F)``, and the share of real that lies among
    made.
    """
    return _covered(made, real, neighbours), _covered(real, made, neighbours)


def nearest_distances(images: Tensor, known: Tensor) -> Tensor:
    """How far each of ``images (N, C, H, W)`` in [0, 1] is from the nearest of ``known``: root mean square,
    ``(N,)``.
    """
    flat = known.flatten(1)
    parts = [torch.cdist(part.flatten(1), flat).amin(1) for part in images.split(256)]
    return torch.cat(parts) / flat.shape[1] ** 0.5


def evaluate_samples(
    classifier: SampleClassifier, made: Tensor, train: ImageSource, held_out: Tensor
) -> Mapping[str, float]:
    """How ``made (M, C, H, W)`` in [0, 1] compare with normal images that no model was trained on.

    :param train: training images ``(N, C, H, W)`` uint8.
    :param held_out: normal images of validation ``(K, C, H, W)`` uint8, two at least.
    :returns: ``sample_frechet`` of the samples and ``sample_frechet_real`` of as many training images, the
        least that can be hoped for, both against the held-out images; ``sample_precision`` and
        ``sample_recall``; ``sample_nearest`` and ``sample_nearest_real``, the median distance of samples
        and of held-out images to the nearest training image, and ``sample_copies``, the share of samples
        that is as close as a copy.
    """
    known = train[:].float() / 255
    truth = held_out.float() / 255
    real, seen, new = (
        features_of(classifier, images)
        for images in (truth, evenly_spaced(train, min(len(made), MOST_COMPARED)).float() / 255, made)
    )
    precision, recall = precision_and_recall(real, new)
    usual, own = nearest_distances(truth, known), nearest_distances(made, known)
    return {
        "sample_frechet": frechet_distance(real, new),
        "sample_frechet_real": frechet_distance(real, seen),
        "sample_precision": precision,
        "sample_recall": recall,
        "sample_nearest": float(own.median()),
        "sample_nearest_real": float(usual.median()),
        "sample_copies": float((own < usual.quantile(CLOSE)).float().mean()),
    }


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return centred.T @ centred / max(len(features) - 1, 1)


def _covered(points: Tensor, crowd: Tensor, neighbours: int) -> float:
    """The share of ``points (N, F)`` within the surroundings of some point of ``crowd (M, F)``."""
    among = torch.cdist(crowd, crowd)
    reach = among.kthvalue(min(neighbours + 1, len(crowd)), dim=1).values  # each is its own nearest
    return float((torch.cdist(points, crowd) <= reach).any(1).double().mean())
