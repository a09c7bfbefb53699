"""How good generated images are: their distribution, precision, recall, and copies of training images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from latent_common.image_source import ImageSource, evenly_spaced
from latent_env.autoencoders.sample_features import SampleClassifier, features_of

NEIGHBOURS = 3
"""An image's neighbourhood reaches to its third nearest image (Kynkäänniemi et al. 2019)."""

MOST_COMPARED = 1024
"""At most so many evenly spaced real images are compared with."""

CLOSE = 0.05
"""A sample counts as a copy if it is closer to a training image than this share of held-out images are."""


def frechet_distance(some: Tensor, others: Tensor) -> float:
    """The squared Fréchet distance between Gaussians fitted to features ``(N, F)`` and ``(M, F)``.

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
    """The share of ``made (M, F)`` in neighbourhoods of ``real (N, F)``, and of real in those of made."""
    return _covered(made, real, neighbours), _covered(real, made, neighbours)


def nearest_distances(images: Tensor, known: Tensor) -> Tensor:
    """The distance of ``images (N, C, H, W)`` to the nearest of ``known``, root mean square: ``(N,)``."""
    flat = known.flatten(1)
    parts = [torch.cdist(part.flatten(1), flat).amin(1) for part in images.split(256)]
    return torch.cat(parts) / flat.shape[1] ** 0.5


def evaluate_samples(
    classifier: SampleClassifier, made: Tensor, train: ImageSource, held_out: Tensor
) -> Mapping[str, float]:
    """How samples ``made (M, C, H, W)`` in [0, 1] compare with normal images that no model was trained on.

    :param train: training images ``(N, C, H, W)`` uint8.
    :param held_out: normal validation images ``(K, C, H, W)`` uint8, at least two.
    :returns: ``sample_frechet`` of the samples and, as the best to be expected, ``sample_frechet_real`` of as
        many training images, both against the held-out images; ``sample_precision`` and ``sample_recall``;
        ``sample_nearest`` and ``sample_nearest_real``, the median distance of samples and of held-out images
        to the nearest training image; ``sample_copies``, the share of samples that count as copies.
    """
    known = train[:].float() / 255
    truth = held_out.float() / 255
    real, seen, new = (
        features_of(classifier, images)
        for images in (truth, evenly_spaced(train, min(len(made), MOST_COMPARED)).float() / 255, made)
    )
    precision, recall = precision_and_recall(real, new)
    of_held_out, of_made = nearest_distances(truth, known), nearest_distances(made, known)
    return {
        "sample_frechet": frechet_distance(real, new),
        "sample_frechet_real": frechet_distance(real, seen),
        "sample_precision": precision,
        "sample_recall": recall,
        "sample_nearest": float(of_made.median()),
        "sample_nearest_real": float(of_held_out.median()),
        "sample_copies": float((of_made < of_held_out.quantile(CLOSE)).float().mean()),
    }


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return centred.T @ centred / max(len(features) - 1, 1)


def _covered(points: Tensor, others: Tensor, neighbours: int) -> float:
    """The share of ``points (N, F)`` in the neighbourhood of some point of ``others (M, F)``."""
    among = torch.cdist(others, others)
    radius = among.kthvalue(min(neighbours + 1, len(others)), dim=1).values  # each is its own nearest
    return float((torch.cdist(points, others) <= radius).any(1).double().mean())
