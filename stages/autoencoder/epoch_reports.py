"""Reports on an autoencoder after every epoch: losses on training and validation images, AUROC, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectors.metrics import image_AUROC
from detectors.metrics.ssim import structural_similarity
from detectors.reconstruction import ReconstructionDetector
from latent_common.artifacts import read_json, write_json
from latent_common.image_source import evenly_spaced, images_at_once
from latent_env.autoencoders.memory_autoencoder import MemoryAutoencoder
from latent_env.autoencoders.training import (
    peak_signal_to_noise,
    reconstruction_losses,
)
from latent_env.rendering import Picture, side_by_side, stack, to_rgb
from latent_env.training.run_folder import Run
from stages.autoencoder.plots import over_epochs

EPOCHS = "epochs.json"
MOST_REPORTS = 50
"""On a small data set an epoch is over at once: then a report covers several of them."""

MOST_IMAGES = 256
SHOWN, TILE = 8, 96


def report_every(images: int, batch_size: int, steps: int) -> int:
    """Training steps between two reports: an epoch, or so many epochs that ``MOST_REPORTS`` are made."""
    epoch = -(-images // batch_size)
    return epoch * max(-(-steps // (epoch * MOST_REPORTS)), 1)


@dataclass(frozen=True)
class Watched:
    """Images ``(N, C, H, W)`` uint8 that a training is watched with; none of the test split."""

    train: Tensor
    valid: Tensor
    """Normal images of the validation split."""
    abnormal: Tensor | None
    """Abnormal images of the validation split, where it has any."""

    def parts(self) -> dict[str, Tensor]:
        """All of them by name."""
        found = {"train": self.train, "valid": self.valid}
        return found if self.abnormal is None else {**found, "abnormal": self.abnormal}


class EpochReports:
    """Measures and shows ``model`` while it learns, and keeps what it measured in the folder of ``run``.

    :param weights: of the losses that the variant adds.
    :param steps_per_epoch: how many training steps make an epoch.
    :param pooling: how the error at pixels becomes an image's score.
    """

    def __init__(
        self,
        run: Run,
        model: MemoryAutoencoder,
        watched: Watched,
        weights: Mapping[str, float],
        steps_per_epoch: int,
        pooling: str,
    ) -> None:
        self.run, self.model, self.watched = run, model, watched
        self.weights, self.steps_per_epoch = weights, steps_per_epoch
        self.error = ReconstructionDetector(model.channels, model.size, pooling=pooling)

    @torch.inference_mode()
    def report(self, step: int) -> dict[str, float]:
        """Measure and show the model as it is after ``step`` steps; returns scalars for TensorBoard."""
        measured: dict[str, Any] = {}
        scores = {}
        for name, images in self.watched.parts().items():
            measured[name], scores[name] = self._measure(images)
        if "abnormal" in scores:
            both = torch.cat([scores["valid"], scores["abnormal"]])
            labels = np.repeat([0, 1], [len(scores["valid"]), len(scores["abnormal"])])
            measured["image_AUROC"] = image_AUROC(both.numpy(), labels)
        self._keep({"step": step, "epoch": step / self.steps_per_epoch, **measured})
        epoch = round(step / self.steps_per_epoch)
        self.run.picture("epochs/reconstructions", self._picture(), step, f"epoch_{epoch:04d}")
        return _flat(measured)

    def history(self) -> list[dict[str, Any]]:
        """What was measured so far, one entry a report, in order."""
        path = self.run.path / EPOCHS
        found: list[dict[str, Any]] = read_json(path) if path.is_file() else []
        return found

    def finish(self, step: int) -> dict[str, float]:
        """Report once more unless ``step`` was reported, and draw the curves; returns the last scalars."""
        history = self.history()
        if not history or history[-1]["step"] != step:
            self.run.log(self.report(step), step)
            history = self.history()
        epochs = [seen["epoch"] for seen in history]
        losses = {name: [seen[name]["loss"] for seen in history] for name in ("train", "valid")}
        self.run.picture("plots/losses", over_epochs(epochs, losses, "losses, normal images", "loss"), step)
        if "image_AUROC" in history[-1]:
            areas = {"validation": [seen["image_AUROC"] for seen in history]}
            picture = over_epochs(epochs, areas, "AUROC of the reconstruction error", "image AUROC")
            self.run.picture("plots/auroc", picture, step)
        return _flat({key: value for key, value in history[-1].items() if key not in ("step", "epoch")})

    def _measure(self, images: Tensor) -> tuple[dict[str, float], Tensor]:
        """Mean losses and quality of the model on images, and the error score ``(N,)`` of each; nothing is
        sampled.
        """
        sums: dict[str, float] = {}
        scores = []
        for part in images.split(images_at_once(self.model.size)):
            floats = part.float() / 255
            encoding = self.model.encoding(floats)
            decoded, addresses = self.model.decode_with_weights(encoding.mean)
            added = self.model.regularisers(encoding, addresses)
            error = sum(reconstruction_losses(floats, decoded).values(), torch.zeros(()).to(floats))
            values = {"reconstruction": error, **added}
            weighted = [self.weights.get(name, 0.0) * value for name, value in added.items()]
            values["loss"] = sum(weighted, error)
            values["psnr"] = peak_signal_to_noise(floats, decoded).mean()
            values["ssim"] = structural_similarity(floats, decoded).mean()
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(part)
            scores.append(self.error.to(floats.device)(floats, decoded).score.cpu())
        return {name: total / len(images) for name, total in sums.items()}, torch.cat(scores)

    def _keep(self, report: dict[str, Any]) -> None:
        # A stopped command goes back a little, to its last checkpoint.
        earlier = [before for before in self.history() if before["step"] < report["step"]]
        write_json(self.run.path / EPOCHS, [*earlier, report])

    def _picture(self) -> Picture:
        """Images of each kind above what the model makes of them."""
        rows = []
        for name, images in self.watched.parts().items():
            chosen = evenly_spaced(images, SHOWN).float() / 255
            decoded = self.model(chosen)
            blank = [torch.zeros_like(chosen[0])] * (SHOWN - len(chosen))
            rows.append(_row([*chosen, *blank], name))
            rows.append(_row([*decoded, *blank], "decoded"))
        return stack(rows)


def _row(images: list[Tensor], caption: str) -> Picture:
    return side_by_side([to_rgb(image) for image in images], [caption] * len(images), TILE)


def _flat(measured: Mapping[str, Any]) -> dict[str, float]:
    """``{"valid": {"loss": 1}}`` as ``{"valid/loss": 1}``; AUROC is one of validation."""
    found: dict[str, float] = {}
    for part, values in measured.items():
        if isinstance(values, Mapping):
            found |= {f"{part}/{name}": float(value) for name, value in values.items()}
        else:
            found[f"valid/{part}"] = float(values)
    return found
