"""What happened in a step, and what a detector restores images to: rows of labelled tiles."""

from __future__ import annotations

import torch

from detectors.blocks.tokens import at_size
from detectors.rdna import RdnaDetector
from detectors.training.batches import Batch
from latent_env.rendering.tiles import Picture, heat, side_by_side, stack, to_rgb
from latent_env.transition import Transition

CAPTIONS = ("original", "decoded", "augmented", "difference", "heat map")


@torch.inference_mode()
def panel(transition: Transition, world: int = 0, tile: int | None = None) -> Picture:
    """What happened in one world: five labelled tiles, ``(H, W, 3)`` uint8."""
    step = transition.select(torch.tensor([world], device=transition.latent.device))
    detection = step.detection
    change = (step.image - step.start_image).abs().mean(1)[0]
    tiles = [
        to_rgb(step.start_image[0]),
        to_rgb(step.decoded[0]),
        to_rgb(step.image[0]),
        heat(change * 8),  # full brightness at an eighth of the range: lesions are faint
        heat(at_size(detection.map, step.image.shape[-1])[0, 0].sigmoid()),
    ]
    score = float(detection.score[0].sigmoid())
    captions = [*CAPTIONS[:-1], f"heat map, p={score:.2f}"]
    return side_by_side(tiles, captions, tile)


@torch.inference_mode()
def restorations(detector: RdnaDetector, batch: Batch) -> Picture:
    """Images of a training batch, what the detector restores them to, their masks and maps: one row each."""
    restored, detection = detector.outputs(batch.images)
    rows = []
    captions = ("image", "reconstruction", "true mask", "map")
    parts = (batch.images, restored, batch.masks, detection.map.sigmoid())
    for image, normal, mask, drawn in zip(*parts, strict=True):
        rows.append(side_by_side([to_rgb(image), to_rgb(normal), heat(mask[0]), heat(drawn[0])], captions))
    return stack(rows)
