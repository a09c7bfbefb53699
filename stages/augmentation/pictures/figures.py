"""What an agent made, as pictures, histograms and an embedding."""

from __future__ import annotations

import numpy as np
import torch

from agents.diversity import describe_set
from agents.rollout import Augmented
from latent_env.data import Dataset
from latent_env.dynamics import Dynamics
from latent_env.rendering import Picture, panel, stack
from latent_env.shell import ANOMALY
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from latent_env.worlds.world import World
from stages.augmentation.pictures.sheets import Examples, sample_sheets

MOST_DIMENSIONS = 4096
"""The projector reads text: of larger latents it gets the mean of all tokens."""


def show_samples(
    run: Run,
    dynamics: Dynamics,
    augmented: Augmented,
    examples: Examples | None,
    asked_for: int,
    number: int,
) -> None:
    """Panels of the last step, contact sheets, histograms and shares, for round ``number``.

    ``examples`` are real anomalies to compare samples with.
    """
    run.picture("augmented/panels", panels(dynamics), number, f"panels_round_{number}")
    run.log({"augmented/decided": len(augmented) / asked_for}, number)
    if not len(augmented):
        return
    anomalies = (augmented.labels == ANOMALY).float().mean()
    run.log({"augmented/anomalies": anomalies, "augmented/reward": augmented.reward.mean()}, number)
    variety = describe_set(augmented, dynamics.shell.inner)
    run.log({f"augmented/{name}": value for name, value in variety.items()}, number)
    for kind, picture in sample_sheets(augmented, dynamics.world.images, examples).items():
        run.picture(f"augmented/{kind}", picture, number, f"samples_round_{number}_{kind}")
    run.writer.add_histogram("augmented/delta", augmented.delta, number)
    run.writer.add_histogram("augmented/reward", augmented.reward, number)


def panels(dynamics: Dynamics, most: int = 6) -> Picture:
    """The last step of some worlds, from the largest visible change to the smallest."""
    changed = dynamics.last.mask.flatten(1).sum(1).argsort(descending=True, stable=True).tolist()
    picks = np.linspace(0, len(changed) - 1, min(most, len(changed))).astype(int)
    return stack([panel(dynamics.last, changed[pick]) for pick in picks])


def show_embedding(
    run: Run, world: World, features: FeatureCache, dataset: Dataset, augmented: Augmented, most: int = 150
) -> None:
    """Latents of normal, augmented and anomalous images for TensorBoard's projector."""
    rows = [
        np.arange(len(dataset.train)),
        np.flatnonzero((augmented.labels == ANOMALY).numpy()),
        np.flatnonzero(dataset.test.labels == ANOMALY),
    ]
    normal, made, anomalous = (
        part[np.linspace(0, len(part) - 1, min(most, len(part))).astype(int)] for part in rows
    )
    images = [dataset.train.images[normal], augmented.images[made].numpy(), dataset.test.images[anomalous]]
    pictures = torch.from_numpy(np.concatenate(images))
    if world.reads_latents:  # all of them are known
        train, test = features.latents("train"), features.latents("test")
        changed = world.latents[augmented.source[made].to(world.device)].cpu() + augmented.delta[made]
        known = [train[torch.from_numpy(normal)].cpu(), changed, test[torch.from_numpy(anomalous)].cpu()]
        latents = torch.cat([part.float() for part in known])
    elif world.reads_features:
        latents = features.encode(pictures, "features, embedding").cpu().float()
    else:
        latents = world.autoencoder.encode_all(pictures).cpu()
    if latents.flatten(1).shape[1] > MOST_DIMENSIONS:
        latents = latents.mean((2, 3))
    names = ["normal"] * len(normal) + ["augmented"] * len(made) + ["anomalous"] * len(anomalous)
    run.embedding("latents", latents.flatten(1), names, pictures.float() / 255)
