"""How good generated images are, measured by a classifier that learned their classes from real ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from latent_common.image_source import ImageSource, evenly_spaced, images_at_once
from latent_common.training_state import Progress, Stopwatch, TrainingState
from latent_env.autoencoders.sample_features import SampleClassifier, features_of
from latent_env.autoencoders.sample_quality import frechet_distance

MOST_COMPARED = 1024
"""At most so many images are compared."""

SHIFT = 1
"""Training images are shifted by up to so many pixels, so that the classifier doesn't rely on single ones."""


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
    """The classes ``(N,)`` that ``model`` predicts for ``images (N, C, H, W)`` in [0, 1]."""
    return torch.cat([model(part).argmax(1) for part in images.split(images_at_once(images.shape[-1]))])


def evaluate_images(
    model: SampleClassifier, images: Tensor, classes: Tensor, real: Tensor, real_classes: Tensor
) -> dict[str, float]:
    """How generated ``images (N, C, H, W)`` in [0, 1] compare with ``real (K, C, H, W)`` ones.

    :param classes: ``(N,)``, the classes that were asked for.
    :param real_classes: ``(K,)``, those of the real images.
    :returns: ``accuracy``, the share of images whose predicted class is the one asked for; ``frechet``, the
        Fréchet distance in the model's features; ``diversity``, the mean distance between images of a class
        in these features, over that of real images: 0 if they are all the same, 1 if they are as varied.
    """
    made, truth = features_of(model, images), features_of(model, real)
    numbers = range(int(real_classes.max()) + 1)
    own = [_mean_distance(made[classes.cpu() == number]) for number in numbers]
    of_real = [_mean_distance(truth[real_classes.cpu() == number]) for number in numbers]
    shares = [ours / theirs for ours, theirs in zip(own, of_real, strict=True) if theirs > 0]
    return {
        "accuracy": float((predicted(model, images) == classes).double().mean()),
        "frechet": frechet_distance(truth, evenly_spaced(made, MOST_COMPARED)),
        "diversity": sum(shares) / max(len(shares), 1),
    }


def _mean_distance(features: Tensor) -> float:
    """The mean distance between features ``(N, F)``; 0 of fewer than two."""
    if len(features) < 2:
        return 0.0
    return float(torch.pdist(features[:MOST_COMPARED]).mean())
