"""A memory autoencoder (ae, vae, memae or memvae): how a command trains it, and what it shows of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conf.schema.autoencoders import MemoryAutoencoderConfig
from detectors.reconstruction import POOLINGS, ReconstructionDetector
from detectors.training.loop import score
from latent_common.errors import UserError
from latent_common.image_source import ImageSource, evenly_spaced, images_at_once
from latent_common.progress import say
from latent_common.training_state import Progress, TrainingState
from latent_env.autoencoders import FrozenAutoencoder, MemoryAutoencoder
from latent_env.autoencoders.memory_autoencoder import as_memory_autoencoder
from latent_env.autoencoders.sample_features import train_classifier
from latent_env.autoencoders.sample_quality import MOST_COMPARED, evaluate_samples
from latent_env.autoencoders.sampling import generate, interpolate
from latent_env.autoencoders.training import train_autoencoder
from latent_env.data import Split
from latent_env.data.placement import StreamedImages
from latent_env.rendering import Picture, side_by_side, stack, to_rgb
from latent_env.training.loop import follow
from latent_env.training.run_folder import Run
from latent_env.visibility import measure_visibility
from latent_env.worlds.artifacts import save_autoencoder
from stages.autoencoder.base import AutoencoderPlan
from stages.autoencoder.epoch_reports import MOST_IMAGES, EpochReports, Watched, report_every
from stages.autoencoder.plots import error_distributions, memory_use
from stages.seeds import derived_seed

COLUMNS, ROWS, TILE = 8, 4, 96
MOST_IMAGES_COMPARED, MOST_NUMBERS_COMPARED = 8192, 2**27
"""At most so many training images, evenly spaced, tell which prototypes are used and what a copy is, and so
many numbers in them."""

VARIANTS = ("ae", "vae", "memae", "memvae")

GENERATING = 11
"""The purpose that samples' random numbers are drawn for."""

MATTERS = 0.01
"""A prototype matters if it ever is this share of what is retrieved."""


def check_config(config: MemoryAutoencoderConfig) -> None:
    """Refuse unknown poolings, and keys that make another variant than the one chosen."""
    found = ("mem" if config.items else "") + ("vae" if config.variational else "ae")
    if config.name in VARIANTS and config.name != found:
        raise UserError(
            f"autoencoder={config.name} with autoencoder.items={config.items} and "
            f"autoencoder.variational={str(config.variational).lower()} is another variant: "
            f"choose autoencoder={found}, or leave these keys as they are"
        )
    if config.pooling not in POOLINGS:
        raise UserError(
            f"autoencoder.pooling={config.pooling} is unknown: choose one of {', '.join(POOLINGS)}"
        )


@dataclass(frozen=True)
class MemoryPlan(AutoencoderPlan):
    """How one of the four variants is made, trained and shown."""

    config: MemoryAutoencoderConfig

    def untrained(self) -> MemoryAutoencoder:
        """The autoencoder before it has learned anything."""
        config, dataset = self.config, self.data.dataset
        check_config(config)
        # There are no more flat latents to begin with than images.
        items = min(config.items, len(self.data.images)) if config.latent == "flat" else config.items
        return self.context.build(
            lambda: MemoryAutoencoder(
                dataset.channels,
                dataset.size,
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
        ).to(self.context.device)

    def start_training(self, model: MemoryAutoencoder) -> tuple[TrainingState, Iterator[Progress]]:
        """The state of a training of ``model`` from its beginning, and its steps."""
        config, context = self.config, self.context
        state = TrainingState(model, config.learning_rate, config.steps, context.seed, context.precision)
        warmup = int(config.warmup * config.steps)
        images, augmentation, weights = self.data.images, self.data.augmentation, self._loss_weights()
        return state, train_autoencoder(
            state, model, images, config.batch_size, augmentation, weights, warmup
        )

    def reports(self, run: Run, model: MemoryAutoencoder) -> EpochReports:
        """What measures and shows ``model`` after every epoch."""
        dataset, images = self.data.dataset, self.data.images
        if dataset.valid.labels.all():
            raise UserError(
                f"{dataset.name}: the valid split has no normal images to watch the training with: "
                "move some there, or choose autoencoder=conv"
            )
        if not dataset.valid.labels.any():
            say(f"{dataset.name}: the valid split has no anomalies, so there is no AUROC over epochs")
        normal, abnormal = (self._validation(label, MOST_IMAGES) for label in (0, 1))
        watched = Watched(evenly_spaced(images, MOST_IMAGES), normal, abnormal if len(abnormal) else None)
        steps_per_epoch = -(-len(images) // self.config.batch_size)
        return EpochReports(run, model, watched, self._loss_weights(), steps_per_epoch, self.config.pooling)

    def _train(self, run: Run) -> FrozenAutoencoder:
        config, images = self.config, self.data.images
        model = self.untrained()
        state, training = self.start_training(model)
        reports = self.reports(run, model)
        run.begin()
        every = report_every(len(images), config.batch_size, config.steps)
        follow(run, "autoencoder", training, state, lambda: reports.report(state.step), every)
        last = reports.finish(state.step)
        frozen = measure_visibility(FrozenAutoencoder(model).calibrate(images), images)
        save_autoencoder(run.path, frozen)
        figures = self._show(run, frozen, reports.watched)
        run.finish({**{name.replace("/", "_"): value for name, value in last.items()}, **figures})
        return frozen

    def _loss_weights(self) -> dict[str, float]:
        return {"kl": self.config.kl, "entropy": self.config.entropy}

    def _validation(self, label: int, most: int) -> Tensor:
        """Validation images ``(N, C, H, W)`` uint8 of one label: of very many, some evenly spaced."""
        valid = self.data.dataset.valid
        rows = np.flatnonzero(valid.labels == label)
        picks = np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(np.int64)
        return torch.from_numpy(np.array(valid.images[rows[picks]])).to(self.context.device)

    def _show(self, run: Run, frozen: FrozenAutoencoder, watched: Watched) -> dict[str, float]:
        """Pictures of what the trained model reconstructs and makes; returns figures for ``metrics.json``."""
        config, images, seed = self.config, self.data.images, self.context.seed
        figures: dict[str, float] = {}
        show_errors(run, frozen, self.data.dataset.valid, config.pooling, config.steps)
        if config.items:
            figures |= show_memory(run, frozen, images, config.steps)
        generator = torch.Generator().manual_seed(derived_seed(seed, GENERATING))
        made = generate(frozen, config.generated, generator)
        run.picture("samples/generated", _sheet(made[: COLUMNS * ROWS]), config.steps)
        pairs = watched.valid[: 2 * ROWS].float() / 255
        half = len(pairs) // 2
        if half:
            between = interpolate(frozen, pairs[:half], pairs[half : 2 * half], COLUMNS)
            run.picture("samples/interpolations", _sheet(between.flatten(0, 1)), config.steps)
        if len(watched.valid) > 1:
            classifier = train_classifier(images, seed)
            held_out = self._validation(0, MOST_COMPARED)
            quality = evaluate_samples(classifier, made, compared_images(images), held_out)
            run.log({key.replace("_", "/", 1): value for key, value in quality.items()}, config.steps)
            figures |= quality
        return figures


def compared_images(images: ImageSource) -> Tensor:
    """Training images ``(N, C, H, W)`` uint8: of very many, or very large ones, some evenly spaced."""
    fitting = MOST_NUMBERS_COMPARED // math.prod(images.shape[1:])
    return evenly_spaced(images, max(min(MOST_IMAGES_COMPARED, fitting), 2))


def show_errors(run: Run, frozen: FrozenAutoencoder, valid: Split, pooling: str, step: int) -> None:
    """The distribution of errors on all of validation, where it has anomalies."""
    if not valid.labels.any():
        return
    error = ReconstructionDetector(frozen.channels, frozen.size, pooling=pooling).to(frozen.mean.device)
    source = StreamedImages(valid.images, frozen.mean.device)
    found = score(error, lambda batch: (batch, frozen(batch)), source, frozen.size, keep_maps=False)
    run.picture("plots/errors", error_distributions(found.score.numpy(), valid.labels, "validation"), step)


@torch.inference_mode()
def show_memory(run: Run, frozen: FrozenAutoencoder, images: ImageSource, step: int) -> dict[str, float]:
    """How often each prototype is used for normal training images, and how many never are."""
    model = as_memory_autoencoder(frozen.model)
    assert model is not None
    assert model.memory is not None
    compared = compared_images(images)
    total = torch.zeros(model.memory.places * model.items, dtype=torch.float64)
    most = torch.zeros(model.memory.places * model.items)
    tokens = 0
    for part in compared.split(images_at_once(model.size)):
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
