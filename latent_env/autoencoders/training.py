"""How an autoencoder learns to reconstruct normal images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from detectors.images import ImageSource, spread_over
from detectors.training_state import Progress, Stopwatch, TrainingState
from latent_env.autoencoders.conv import ConvAutoencoder

START_IMAGES = 128
"""So many show a new autoencoder what images look like."""

LATENT_NOISE = 0.1
"""Noise on the latent while training, in its standard deviations: what lies near a latent must decode
to something alike, or a change Δz would leave the decoder's known ground at once."""


def reconstruction_losses(images: Tensor, decoded: Tensor) -> dict[str, Tensor]:
    """Squared, absolute and edge error of ``decoded`` against ``images``, both ``(B, C, H, W)``."""
    error = decoded - images
    # The same error weighs more where it moves an edge: plain squared error only blurs it.
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return {"squared": 10 * error.square().mean(), "absolute": error.abs().mean(), "edges": edges}


def train_autoencoder(
    state: TrainingState,
    model: ConvAutoencoder,
    images: ImageSource,
    batch_size: int,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> Iterator[Progress]:
    """Train ``state.model``, which is ``model``, on ``images (N, C, H, W)`` uint8.

    :param augment: changes batches ``(B, C, H, W)`` in [0, 1] at random.
    """
    if state.step == 0:
        model.start_from(spread_over(images, START_IMAGES).float() / 255)
    model.train()
    while state.step < state.total:
        watch = Stopwatch()
        index = torch.randint(len(images), (batch_size,), generator=state.generator)
        batch = images[index.to(images.device)].float() / 255
        if augment is not None:
            batch = augment(batch, state.generator)
        watch.lap("env")
        latents = model.encode(batch)
        noise = torch.randn(latents.shape, generator=state.generator).to(latents)
        spread = latents.detach().std(0, correction=0)
        losses = reconstruction_losses(batch, model.decode(latents + LATENT_NOISE * spread * noise))
        total = torch.stack(list(losses.values())).sum()
        watch.lap("policy")
        rate = state.minimise(total)
        watch.lap("update")
        reported = {name: loss.detach() for name, loss in {**losses, "total": total}.items()}
        yield Progress(state.step, state.total, reported, rate, watch.seconds)
    model.eval()


def peak_signal_to_noise(images: Tensor, decoded: Tensor) -> Tensor:
    """PSNR in dB of every image, ``(B,)``, for images ``(B, C, H, W)`` in [0, 1]."""
    return -10 * functional.mse_loss(decoded, images, reduction="none").flatten(1).mean(1).log10()
