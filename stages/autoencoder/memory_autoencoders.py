"""How a command trains one of the four forms of autoencoder, and what it shows of it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from conf.schema.autoencoders import MemoryAutoencoderConfig
from conf.schema.runs import AutoencoderRun
from detectors.reconstruction import POOLINGS, ReconstructionDetector
from detectors.training.loop import score
from latent_common.errors import UserError
from latent_common.image_source import ImageSource, at_once, spread_over
from latent_common.training_state import Progress, TrainingState
from latent_env.autoencoders import FrozenAutoencoder, MemoryAutoencoder
from latent_env.autoencoders.memory_autoencoder import as_form
from latent_env.autoencoders.sample_features import train_classifier
from latent_env.autoencoders.sample_quality import MOST_COMPARED, evaluate_samples
from latent_env.autoencoders.sampling import generate, interpolate
from latent_env.autoencoders.training import train_autoencoder
from latent_env.data.placement import StreamedImages
from latent_env.rendering import Picture, side_by_side, stack, to_rgb
from latent_env.training.run_folder import Run
from stages.autoencoder.epoch_reports import MOST_IMAGES, EpochReports, Watched, report_every
from stages.autoencoder.plots import error_distributions, memory_use
from stages.context import Job, say
from stages.seeds import derived_seed

COLUMNS, ROWS, TILE = 8, 4, 96
MOST_IMAGES_KNOWN, MOST_NUMBERS = 8192, 2**27
"""At most so many training images, evenly spaced, say which prototypes are used and what a copy is, and so
many numbers in them."""

FORMS = ("ae", "vae", "memae", "memvae")

GENERATING = 11
"""The purpose that samples' random numbers are drawn for."""

MATTERS = 0.01
"""A prototype matters if it ever is this share of what is retrieved."""


def check_form(config: MemoryAutoencoderConfig) -> None:
    """Complain about keys that make another form than the one that was chosen."""
    found = ("mem" if config.items else "") + ("vae" if config.variational else "ae")
    if config.name in FORMS and config.name != found:
        raise UserError(
            f"autoencoder={config.name} with autoencoder.items={config.items} and "
            f"autoencoder.variational={str(config.variational).lower()} is another form: "
            f"choose autoencoder={found}, or leave these keys as they are"
        )


def new_form(job: Job[AutoencoderRun], config: MemoryAutoencoderConfig) -> MemoryAutoencoder:
    """The autoencoder before it has learned anything."""
    check_form(config)
    for name in ("kl", "entropy"):
        if not getattr(config, name) >= 0:
            raise UserError(
                f"autoencoder.{name}={getattr(config, name)} must not be negative: it weighs a loss"
            )
    if not 0 <= config.warmup < 1:
        raise UserError(
            f"autoencoder.warmup={config.warmup:g} must lie from 0 to below 1: it is a share of the steps"
        )
    if config.pooled not in POOLINGS:
        raise UserError(f"autoencoder.pooled={config.pooled} is unknown: choose one of {', '.join(POOLINGS)}")
    channels, size = job.dataset.channels, job.dataset.size
    # There are no more flat latents to begin with than images.
    items = min(config.items, len(job.train_images)) if config.latent == "flat" else config.items
    return job.build(
        lambda: MemoryAutoencoder(
            channels,
            size,
            config.latent,
            config.latent_size,
            config.width,
            config.variational,
            items,
            config.heads,
            config.shared,
            config.join,
            config.shrinkage,
            config.temperature,
        )
    ).to(job.device)


def loss_weights(config: MemoryAutoencoderConfig) -> dict[str, float]:
    """The weights of the losses that forms add."""
    return {"kl": config.kl, "entropy": config.entropy}


def form_state(
    job: Job[AutoencoderRun], config: MemoryAutoencoderConfig, model: MemoryAutoencoder
) -> TrainingState:
    """A training run from its beginning."""
    return TrainingState(model, config.learning_rate, config.steps, job.config.seed, job.config.precision)


def form_training(
    job: Job[AutoencoderRun], config: MemoryAutoencoderConfig, state: TrainingState, model: MemoryAutoencoder
) -> Iterator[Progress]:
    """The training loop, which all forms share."""
    return train_autoencoder(
        state,
        model,
        job.train_images,
        config.batch_size,
        job.augmentation,
        loss_weights(config),
        warmup=int(config.warmup * config.steps),
    )


def epoch_reports(
    job: Job[AutoencoderRun], config: MemoryAutoencoderConfig, run: Run, model: MemoryAutoencoder
) -> EpochReports:
    """What looks at the model after every epoch."""
    valid = job.dataset.valid

    def of(label: int) -> Tensor:
        rows = np.flatnonzero(valid.labels == label)
        picks = np.linspace(0, len(rows) - 1, min(len(rows), MOST_IMAGES)).round().astype(np.int64)
        return job.tensor(np.array(valid.images[rows[picks]]))

    if valid.labels.all():
        raise UserError(
            f"{job.dataset.name}: the valid split has no normal images to watch the training with: "
            "move some there, or choose autoencoder=conv"
        )
    if not valid.labels.any():
        say(f"{job.dataset.name}: the valid split has no anomalies, so there is no AUROC over epochs")
    train = spread_over(job.train_images, MOST_IMAGES)
    watched = Watched(train, of(0), of(1) if valid.labels.any() else None)
    return EpochReports(
        run, model, watched, loss_weights(config), steps_per_epoch(job, config), config.pooled
    )


def steps_per_epoch(job: Job[AutoencoderRun], config: MemoryAutoencoderConfig) -> int:
    """Training steps in which as many images are seen as there are."""
    return -(-len(job.train_images) // config.batch_size)


def steps_between_reports(job: Job[AutoencoderRun], config: MemoryAutoencoderConfig) -> int:
    """Training steps from one look to the next."""
    return report_every(len(job.train_images), config.batch_size, config.steps)


def show_form(
    job: Job[AutoencoderRun],
    config: MemoryAutoencoderConfig,
    run: Run,
    frozen: FrozenAutoencoder,
    watched: Watched,
) -> dict[str, float]:
    """Pictures of what the trained model knows and makes; returns figures for ``metrics.json``."""
    generator = torch.Generator().manual_seed(derived_seed(job.config.seed, GENERATING))
    figures: dict[str, float] = {}
    show_errors(job, config, run, frozen)
    if config.items:
        figures |= show_memory(run, frozen, job.train_images, config.steps)
    made = generate(frozen, config.generated, generator)
    run.picture("samples/generated", _sheet(made[: COLUMNS * ROWS]), config.steps)
    pairs = watched.valid[: 2 * ROWS].float() / 255
    half = len(pairs) // 2
    if half:
        between = interpolate(frozen, pairs[:half], pairs[half : 2 * half], COLUMNS)
        run.picture("samples/interpolations", _sheet(between.flatten(0, 1)), config.steps)
    if len(watched.valid) > 1:
        classifier = train_classifier(job.train_images, job.config.seed)
        held_out = normal_validation(job)
        judged = evaluate_samples(classifier, made, known_images(job.train_images), held_out)
        run.log({key.replace("_", "/", 1): value for key, value in judged.items()}, config.steps)
        figures |= judged
    return figures


def known_images(images: ImageSource) -> Tensor:
    """Training images ``(N, C, H, W)`` uint8: of very many, or very large ones, some evenly spaced."""
    return spread_over(images, max(min(MOST_IMAGES_KNOWN, MOST_NUMBERS // math.prod(images.shape[1:])), 2))


def normal_validation(job: Job[AutoencoderRun]) -> Tensor:
    """Normal validation images ``(N, C, H, W)`` uint8: of very many, some evenly spaced."""
    rows = np.flatnonzero(job.dataset.valid.labels == 0)
    picks = np.linspace(0, len(rows) - 1, min(len(rows), MOST_COMPARED)).round().astype(np.int64)
    return job.tensor(np.array(job.dataset.valid.images[rows[picks]]))


def show_errors(
    job: Job[AutoencoderRun], config: MemoryAutoencoderConfig, run: Run, frozen: FrozenAutoencoder
) -> None:
    """The distribution of errors on all of validation, where it has anomalies."""
    valid = job.dataset.valid
    if not valid.labels.any():
        return
    error = ReconstructionDetector(frozen.channels, frozen.size, pooled=config.pooled).to(job.device)
    source = StreamedImages(valid.images, job.device)
    found = score(error, lambda batch: (batch, frozen(batch)), source, frozen.size, keep_maps=False)
    picture = error_distributions(found.score.numpy(), valid.labels, "validation")
    run.picture("plots/errors", picture, config.steps)


@torch.inference_mode()
def show_memory(run: Run, frozen: FrozenAutoencoder, images: ImageSource, step: int) -> dict[str, float]:
    """How often each prototype is used for normal training images, and how many never are."""
    model = as_form(frozen.model)
    assert model is not None
    assert model.memory is not None
    known = known_images(images)
    total = torch.zeros(model.memory.places * model.items, dtype=torch.float64)
    most = torch.zeros(model.memory.places * model.items)
    tokens = 0
    for part in known.split(at_once(model.size)):
        weights = model.memory_weights(part.float() / 255).cpu()  # (B, T, items)
        rows = weights if model.memory.places > 1 else weights.flatten(0, 1)[:, None]
        total += rows.double().sum(0).flatten()
        most = torch.maximum(most, rows.amax(0).flatten())
        tokens += len(rows)
    usage = (total / tokens).numpy()
    dead = int((most < MATTERS).sum())
    run.picture("plots/memory", memory_use(usage, dead), step)
    shares = total / total.sum()
    effective = float((-(shares * shares.clamp_min(1e-12).log()).sum()).exp())
    figures = {"memory_items": float(len(most)), "memory_dead": float(dead), "memory_effective": effective}
    run.log({key.replace("_", "/", 1): value for key, value in figures.items()}, step)
    return figures


def _sheet(images: Tensor) -> Picture:
    """Images ``(N, C, H, W)`` in rows of ``COLUMNS``."""
    missing = -len(images) % COLUMNS
    tiles = [to_rgb(image) for image in images] + [to_rgb(torch.zeros_like(images[0]))] * missing
    rows = [tiles[first : first + COLUMNS] for first in range(0, len(tiles), COLUMNS)]
    return stack([side_by_side(row, [""] * COLUMNS, TILE) for row in rows])
