"""What an agent made, as pictures, histograms and an embedding."""

from __future__ import annotations

import numpy as np
import torch

from agents.rollout import Augmented
from latent_env.data import Dataset
from latent_env.dynamics import Dynamics
from latent_env.rendering import Picture, contact_sheet, panel, stack
from latent_env.runs import Run
from latent_env.shell import ANOMALY
from latent_env.worlds import World


def show_samples(run: Run, dynamics: Dynamics, augmented: Augmented, asked_for: int, number: int) -> None:
    """Panels of the last step, a contact sheet, histograms and shares, for round ``number``."""
    run.picture("augmented/panels", panels(dynamics), number, f"panels_round_{number}")
    run.log({"augmented/decided": len(augmented) / asked_for}, number)
    if not len(augmented):
        return
    anomalies = (augmented.labels == ANOMALY).float().mean()
    run.log({"augmented/anomalies": anomalies, "augmented/reward": augmented.reward.mean()}, number)
    run.picture("augmented/samples", sheet(augmented), number, f"samples_round_{number}")
    run.writer.add_histogram("augmented/delta", augmented.delta, number)
    run.writer.add_histogram("augmented/reward", augmented.reward, number)


def panels(dynamics: Dynamics, most: int = 6) -> Picture:
    """The last step of some worlds, from the largest visible change to the smallest."""
    changed = dynamics.last.mask.flatten(1).sum(1).argsort(descending=True, stable=True).tolist()
    picks = np.linspace(0, len(changed) - 1, min(most, len(changed))).astype(int)
    return stack([panel(dynamics.last, changed[pick]) for pick in picks])


def sheet(augmented: Augmented, most: int = 24) -> Picture:
    """A contact sheet of samples spread over the set, anomalies outlined."""
    picks = torch.linspace(0, len(augmented) - 1, min(most, len(augmented))).long()
    labels = ["normal" if label != ANOMALY else "anomaly" for label in augmented.labels[picks]]
    rewards = [f"{float(reward):.2f}" for reward in augmented.reward[picks]]
    captions = [f"{label} {reward}" for label, reward in zip(labels, rewards, strict=True)]
    return contact_sheet(augmented.images[picks], augmented.masks[picks], captions)


def show_embedding(run: Run, world: World, dataset: Dataset, augmented: Augmented, most: int = 150) -> None:
    """Latents of normal, augmented and anomalous images for TensorBoard's projector."""
    groups = {
        "normal": dataset.train.images,
        "augmented": augmented.images[augmented.labels == ANOMALY].numpy(),
        "anomalous": dataset.test.images[dataset.test.labels == ANOMALY],
    }
    chosen, names = [], []
    for name, images in groups.items():
        picks = np.linspace(0, len(images) - 1, min(most, len(images))).astype(int)
        chosen.append(images[picks])
        names += [name] * len(picks)
    pictures = torch.from_numpy(np.concatenate(chosen))
    latents = world.autoencoder.in_batches(pictures).flatten(1)
    run.writer.add_embedding(latents.cpu(), names, pictures.float() / 255, tag="latents")
