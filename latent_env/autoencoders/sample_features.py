"""Features that generated images are compared in: those of a small classifier trained on the same data set.

Published Fréchet distances use a network that learned from ImageNet. This classifier learns from the normal
training images alone: to tell by how much an image was rotated (0, 90, 180 or 270 degrees), and whether it
was blurred, cut into quarters that were swapped, or neither. So it needs no labels and no download, and its
features depend on shapes and on sharpness. Distances are comparable on one data set only, never with
published ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from latent_common.image_source import ImageSource, evenly_spaced, images_at_once
from latent_common.progress import progress_bar
from latent_common.training_state import TrainingState

FEATURES = 32
STEPS, BATCH, LEARNING_RATE = 300, 32, 2e-3
MOST_IMAGES = 4096
DAMAGES = 3
TURNS = 4


class SampleClassifier(nn.Module):
    """Predicts by which of 12 changes an image was changed, or which of ``outputs`` classes it has."""

    def __init__(self, channels: int, outputs: int = TURNS * DAMAGES) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for wide in (16, 32, FEATURES):
            layers += [nn.Conv2d(before, wide, 3, stride=2, padding=1), nn.SiLU()]
            before = wide
        self.body = nn.Sequential(*layers)
        self.mix = nn.Linear(4 * FEATURES, FEATURES)
        self.out = nn.Linear(FEATURES, outputs)

    def features(self, images: Tensor) -> Tensor:
        """What the last layer reads, ``(B, FEATURES)``, of images ``(B, C, H, W)`` in [0, 1].

        It is pooled to a coarse grid, so that shapes count.
        """
        coarse = functional.adaptive_avg_pool2d(self.body(images * 2 - 1), 2).flatten(1)
        mixed: Tensor = torch.tanh(self.mix(coarse))
        return mixed

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, outputs)`` for images ``(B, C, H, W)`` in [0, 1]."""
        logits: Tensor = self.out(self.features(images))
        return logits


def changed(images: Tensor, kinds: Tensor) -> Tensor:
    """Images ``(B, C, H, W)``, each changed by its kind in ``kinds (B,)``: damage · 4 + rotation."""
    side = images.shape[-1] // 2
    swapped = images.roll((side, side), dims=(2, 3))
    blurred = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    damaged = torch.stack([images, blurred, swapped])
    damaged = damaged[(kinds // TURNS).to(images.device), torch.arange(len(images), device=images.device)]
    turned = torch.stack([damaged.rot90(turns, (2, 3)) for turns in range(TURNS)])
    return turned[(kinds % TURNS).to(images.device), torch.arange(len(images), device=images.device)]


def train_classifier(images: ImageSource, seed: int, steps: int = STEPS) -> SampleClassifier:
    """A classifier trained on normal images ``(N, C, H, W)`` uint8; the same one for the same seed."""
    known = evenly_spaced(images, MOST_IMAGES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SampleClassifier(known.shape[1]).to(known.device)
    state = TrainingState(model, LEARNING_RATE, steps, seed)
    with progress_bar("sample classifier", steps) as bar:
        while state.step < steps:
            rows = torch.randint(len(known), (BATCH,), generator=state.generator)
            kinds = torch.randint(TURNS * DAMAGES, (BATCH,), generator=state.generator)
            batch = changed(known[rows.to(known.device)].float() / 255, kinds)
            state.minimise(functional.cross_entropy(model(batch), kinds.to(batch.device)))
            bar.update()
    return model.requires_grad_(False).eval()


@torch.inference_mode()
def features_of(model: SampleClassifier, images: Tensor) -> Tensor:
    """Features ``(N, FEATURES)`` of images ``(N, C, H, W)`` in [0, 1], double precision, on the CPU."""
    parts = images.split(images_at_once(images.shape[-1]))
    return torch.cat([model.features(part).cpu().double() for part in parts])
