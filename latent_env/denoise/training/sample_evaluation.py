"""How good generated images are as pictures of their classes, in the eyes of a classifier of its own."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from latent_common.image_source import ImageSource, evenly_spaced, images_at_once
from latent_common.training_state import Progress, Stopwatch, TrainingState
from latent_env.autoencoders.sample_features import SampleClassifier, features_of
from latent_env.autoencoders.sample_quality import frechet_distance

MOST_JUDGED = 1024
SHIFT = 1
"""Pixels by which training images are moved about: a classifier shouldn't go by single ones."""


def train_labelled_classifier(
    state: TrainingState, model: SampleClassifier, images: ImageSource, labels: Tensor, batch_size: int
) -> Iterator[Progress]:
    """Train ``state.model``, which is ``model``, to tell the classes ``labels (N,)`` of ``images`` uint8."""
    model.train()
    while state.step < state.total:
        watch = Stopwatch()
        rows = torch.randint(len(images), (batch_size,), generator=state.generator).to(labels.device)
        across, down = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=state.generator).tolist()
        batch = (images[rows.to(images.device)].float() / 255).roll((across, down), dims=(2, 3))
        watch.lap("env")
        loss = functional.cross_entropy(model(batch), labels[rows])
        watch.lap("policy")
        rate = state.minimise(loss)
        watch.lap("update")
        yield Progress(state.step, state.total, {"total": loss.detach()}, rate, watch.seconds)
    model.requires_grad_(False).eval()


@torch.inference_mode()
def predicted(model: SampleClassifier, images: Tensor) -> Tensor:
    """The classes ``(N,)`` that ``model`` sees in ``images (N, C, H, W)`` in [0, 1]."""
    return torch.cat([model(part).argmax(1) for part in images.split(images_at_once(images.shape[-1]))])


def evaluate_images(
    model: SampleClassifier, images: Tensor, classes: Tensor, real: Tensor, real_classes: Tensor
) -> dict[str, float]:
    """How ``images (N, C, H, W)`` in [0, 1], meant to be of ``classes (N,)``, compare with ``real (K, ...)``.

    :returns: ``accuracy``, the share in which the model sees the class that was meant; ``frechet``, the
        distance of its features; ``diversity``, how far images of a class lie apart in them, relative to real
        ones: 0 if they are all the same, 1 if they are as varied.
    """
    made, truth = features_of(model, images), features_of(model, real)
    spread = [_spread(made[classes.cpu() == number]) for number in range(int(real_classes.max()) + 1)]
    usual = [_spread(truth[real_classes.cpu() == number]) for number in range(len(spread))]
    shares = [s / u for s, u in zip(spread, usual, strict=True) if u > 0]
    return {
        "accuracy": float((predicted(model, images) == classes).double().mean()),
        "frechet": frechet_distance(truth, evenly_spaced(made, MOST_JUDGED)),
        "diversity": sum(shares) / max(len(shares), 1),
    }


def _spread(features: Tensor) -> float:
    """The mean distance between features ``(N, F)``; 0 of fewer than two."""
    if len(features) < 2:
        return 0.0
    return float(torch.pdist(features[:MOST_JUDGED]).mean())
