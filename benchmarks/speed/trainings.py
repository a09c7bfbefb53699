"""Training of autoencoder and detector: our loops, a loop over a ``DataLoader``, and the bare step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.speed.timing import Rates, Work, in_turns
from detectors.base import Detector
from detectors.synthetic.image_synthesis import ImageSynthesis
from detectors.training.batches import Batch, BatchSampler
from detectors.training.loop import detector_losses, train_detector
from detectors.transformer import TransformerDetector
from latent_common.machine import resolve_device
from latent_common.training_state import TrainingState
from latent_env.autoencoders.conv import ConvAutoencoder
from latent_env.autoencoders.training import reconstruction_losses, train_autoencoder
from latent_env.worlds.store import load_world
from latent_env.worlds.world import World

M = TypeVar("M", bound=nn.Module)

BARE, OURS, LOADER = "bare step", "ours", "DataLoader"
BATCH, IMAGES, WORKERS = 32, 512, 2
SYNTHESIS = {"cutpaste": 1.0, "perlin": 1.0}
ENDLESS = 10**9


def autoencoder_ways(world: World) -> dict[str, Work]:
    """The autoencoder of ``world`` learning from scratch; each way has its own."""
    images = many(world.images)
    model: object = world.autoencoder.model
    assert isinstance(model, ConvAutoencoder)

    def loss(model: ConvAutoencoder, batch: Tensor) -> Tensor:
        decoded = model.decode(model.encode(batch))
        return torch.stack(list(reconstruction_losses(batch, decoded).values())).sum()

    bare, ours, other = (trainable(model) for _ in range(3))
    resident = images[:BATCH].float() / 255
    state = TrainingState(ours, 1e-3, ENDLESS, 0)
    return {
        BARE: bare_steps(bare, lambda: loss(bare, resident)),
        OURS: one_step(train_autoencoder(state, ours, images, BATCH)),
        LOADER: loader_loop(other, images, lambda batch: loss(other, batch)),
    }


def detector_ways(world: World) -> dict[str, Work]:
    """The detector of ``world`` learning from scratch, beside the frozen autoencoder that it needs."""
    images = many(world.images)
    synthesis = ImageSynthesis(SYNTHESIS)
    assert isinstance(world.detector, TransformerDetector)
    bare, ours, other = (trainable(world.detector) for _ in range(3))
    resident = BatchSampler(images, synthesis).batch(BATCH, torch.Generator().manual_seed(0))

    def loss(detector: Detector, batch: Batch) -> Tensor:
        with torch.no_grad():
            seen = world.detector_inputs(batch.images)
        return torch.stack(list(detector_losses(detector(*seen), batch).values())).sum()

    def with_anomalies(clean: Tensor) -> Batch:
        """The images of a loader, half of them with synthetic anomalies, as our sampler makes them."""
        half = len(clean) // 2
        changed = synthesis(clean[half:], torch.default_generator)
        labels = torch.arange(len(clean), device=clean.device) >= half
        masks = torch.cat([torch.zeros_like(changed.masks), changed.masks])
        sources = torch.zeros_like(labels, dtype=torch.int64)
        pictures = torch.cat([clean[:half], changed.images])
        return Batch(pictures, masks, labels.float(), sources, torch.ones_like(labels))

    state = TrainingState(ours, 1e-3, ENDLESS, 0)
    sampler = BatchSampler(images, synthesis)
    return {
        BARE: bare_steps(bare, lambda: loss(bare, resident)),
        OURS: one_step(
            train_detector(state, ours, sampler, lambda batch: world.detector_inputs(batch.images), BATCH)
        ),
        LOADER: loader_loop(other, images, lambda batch: loss(other, with_anomalies(batch))),
    }


def many(images: Tensor) -> Tensor:
    """``images (N, C, H, W)`` repeated until they are as many as a small data set has."""
    return images.repeat(-(-IMAGES // len(images)), 1, 1, 1)[:IMAGES]


def trainable(model: M) -> M:
    """A copy that can be trained."""
    return copy.deepcopy(model).requires_grad_(True).train()


def bare_steps(model: nn.Module, loss: Callable[[], Tensor]) -> Work:
    """Forward, backward and optimiser on a batch that is in memory already."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def work() -> int:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()
        return BATCH

    return work


def one_step(training: Iterator[object]) -> Work:
    """A training loop of ours, one step a call."""

    def work() -> int:
        next(training)
        return BATCH

    return work


def loader_loop(model: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor]) -> Work:
    """A ``DataLoader`` with workers whose batches are sent to the device, one epoch a call."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    device = images.device
    loader = DataLoader(
        TensorDataset(images.cpu()),
        BATCH,
        shuffle=True,
        num_workers=WORKERS,
        collate_fn=as_floats,
        pin_memory=device.type == "cuda",
    )

    def work() -> int:
        seen = 0
        for batch in loader:
            optimizer.zero_grad(set_to_none=True)
            loss(batch.to(device)).backward()
            optimizer.step()
            seen += len(batch)
        return seen

    return work


def as_floats(rows: list[tuple[Tensor]]) -> Tensor:
    """A batch ``(B, C, H, W)`` in [0, 1], collated in a worker."""
    return torch.stack([row[0] for row in rows]).float() / 255


def measure(world: str, device: str, repeats: int, seconds: float) -> dict[str, Rates]:
    """Images a second of every way, by model."""
    loaded = load_world(world, resolve_device(device))
    ways = {"autoencoder": partial(autoencoder_ways, loaded), "detector": partial(detector_ways, loaded)}
    return {model: in_turns(make(), repeats, seconds, f"{model}, {world}") for model, make in ways.items()}
