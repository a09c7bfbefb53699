"""How an autoencoder learns to reconstruct normal images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from latent_common.image_source import ImageSource, evenly_spaced
from latent_common.training_state import Progress, Stopwatch, TrainingState
from latent_env.autoencoders.conv import ConvAutoencoder
from latent_env.autoencoders.generative import GenerativeAutoencoder
from latent_env.autoencoders.memory_autoencoder import MemoryAutoencoder, as_memory_autoencoder
from latent_env.autoencoders.pretrained import PretrainedAutoencoder

START_IMAGES = 128
"""A new autoencoder is initialised with so many images."""

LATENT_NOISE = 0.1
"""Noise on the latent while training, in its standard deviations: latents near each other must decode to
similar images, or the decoder would know nothing of changed ones."""


def reconstruction_losses(images: Tensor, decoded: Tensor) -> dict[str, Tensor]:
    """Squared, absolute and edge error of ``decoded`` against ``images``, both ``(B, C, H, W)``."""
    error = decoded - images
    # Squared error alone blurs edges, so an error counts more where it moves one.
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return {"squared": 10 * error.square().mean(), "absolute": error.abs().mean(), "edges": edges}


def train_autoencoder(
    state: TrainingState,
    model: ConvAutoencoder,
    images: ImageSource,
    batch_size: int,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    weights: Mapping[str, float] | None = None,
    warmup: int = 0,
) -> Iterator[Progress]:
    """Train ``state.model``, which is ``model``, on ``images (N, C, H, W)`` uint8.

    :param augment: changes batches ``(B, C, H, W)`` in [0, 1] at random.
    :param weights: of the losses that memory autoencoders add, ``kl`` and ``entropy``.
    :param warmup: after so many steps a memory is filled and used. Its prototypes are encodings, which say
        little before the encoder has learned something.
    """
    if state.step == 0:
        model.start_from(evenly_spaced(images, START_IMAGES).float() / 255)
    model.train()
    memory_autoencoder = as_memory_autoencoder(model)
    while state.step < state.total:
        watch = Stopwatch()
        if memory_autoencoder and memory_autoencoder.awaits_memory and state.step >= warmup:
            some = evenly_spaced(images, max(START_IMAGES, memory_autoencoder.items))
            memory_autoencoder.fill_memory(some, state.generator)
        index = torch.randint(len(images), (batch_size,), generator=state.generator)
        batch = images[index.to(images.device)].float() / 255
        if augment is not None:
            batch = augment(batch, state.generator)
        watch.lap("env")
        with state.autocast():
            decoded, added = _sampled_reconstruction(model, batch, state.generator)
        yield _learn(state, batch, decoded, watch, added, weights or {})
    model.eval()


def _sampled_reconstruction(
    model: ConvAutoencoder, batch: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """The reconstructions of ``batch (B, C, H, W)`` from disturbed latents, and the losses that it adds.

    A variational autoencoder draws latents from its own distribution; any other gets a fixed share of noise.
    """
    if not isinstance(model, MemoryAutoencoder):
        latents = model.encode(batch).float()
        return model.decode(_disturbed(latents, generator)), {}
    encoding = model.encoding(batch)
    if encoding.log_variance is None:
        latents = _disturbed(encoding.mean, generator)
    else:
        drawn = torch.randn(encoding.mean.shape, generator=generator).to(encoding.mean)
        latents = encoding.mean + (encoding.log_variance / 2).exp() * drawn
    decoded, weights = model.decode_with_weights(latents)
    return decoded, model.regularisers(encoding, weights)


def _disturbed(latents: Tensor, generator: torch.Generator) -> Tensor:
    scale = latents.detach().std(0, correction=0)
    return latents + scale * _noise(latents, generator)


def train_decoder(
    state: TrainingState,
    model: PretrainedAutoencoder | GenerativeAutoencoder,
    images: ImageSource,
    latents: ImageSource,
    batch_size: int,
    noise: float = LATENT_NOISE,
) -> Iterator[Progress]:
    """Train ``state.model``, the decoder of ``model``, to turn ``latents`` into ``images (N, C, H, W)``.

    :param noise: on latents, in their standard deviations.
    """
    state.model.train()
    while state.step < state.total:
        watch = Stopwatch()
        index = torch.randint(len(images), (batch_size,), generator=state.generator)
        batch = images[index.to(images.device)].float() / 255
        known = latents[index.to(latents.device)].float()
        watch.lap("env")
        decoded = model.decode(known + _noise(known, state.generator, noise))
        yield _learn(state, batch, decoded, watch)
    state.model.eval()


def _noise(latents: Tensor, generator: torch.Generator, scale: float = LATENT_NOISE) -> Tensor:
    return scale * torch.randn(latents.shape, generator=generator).to(latents)


def _learn(
    state: TrainingState,
    batch: Tensor,
    decoded: Tensor,
    watch: Stopwatch,
    added: Mapping[str, Tensor] | None = None,
    weights: Mapping[str, float] | None = None,
) -> Progress:
    """One optimiser step towards reconstructing ``batch``, with the losses ``added`` by their ``weights``."""
    losses = reconstruction_losses(batch, decoded)
    weighted = [(weights or {}).get(name, 0.0) * loss for name, loss in (added or {}).items()]
    total = torch.stack([*losses.values(), *weighted]).sum()
    losses |= added or {}
    watch.lap("policy")
    rate = state.minimise(total)
    watch.lap("update")
    reported = {name: loss.detach() for name, loss in {**losses, "total": total}.items()}
    return Progress(state.step, state.total, reported, rate, watch.seconds)


def peak_signal_to_noise(images: Tensor, decoded: Tensor) -> Tensor:
    """The PSNR in dB of every image, ``(B,)``; both are ``(B, C, H, W)`` in [0, 1]."""
    return -10 * functional.mse_loss(decoded, images, reduction="none").flatten(1).mean(1).log10()
