"""Joint training of the two networks of RDNA, each against a discriminator of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.metrics.ssim import similarity_map
from detectors.rdna import RdnaDetector, RdnaOutput
from detectors.training.batches import Batch, BatchSource
from detectors.training.discriminators import Discriminator, adversarial_loss
from detectors.training.loop import detector_losses
from latent_common.training_state import (
    Progress,
    Stopwatch,
    TrainingState,
    below,
    one_cycle,
    optimizer_tensors,
    restore_optimizer,
)

DISCRIMINATORS, DISCRIMINATOR_OPTIMIZER = "discriminators", "discriminator_optimizer"


class Discriminators(nn.Module):
    """The two discriminators: of restored images, and of maps together with their images."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        # Half as wide as the networks they train is enough: theirs is the easier task.
        narrow = max(width // 2, 4)
        self.restorations = Discriminator(channels, narrow)
        self.maps = Discriminator(channels + 1, narrow)

    def named(self) -> dict[str, Discriminator]:
        """Both by name."""
        return {"restorations": self.restorations, "maps": self.maps}


class AdversarialState(TrainingState):
    """A training run with discriminators, which learn beside the model and are kept in the same file."""

    def __init__(
        self, model: nn.Module, discriminators: Discriminators, learning_rate: float, total: int, seed: int
    ) -> None:
        super().__init__(model, learning_rate, total, seed)
        self.discriminators = discriminators
        # With little momentum: the images that they learn about change at every step.
        self.discriminator_optimizer = torch.optim.AdamW(
            discriminators.parameters(), lr=learning_rate, betas=(0.5, 0.99)
        )

    def train_discriminators(self, losses: Mapping[str, Tensor]) -> None:
        """One step of both discriminators down their losses, at the model's learning rate."""
        for group in self.discriminator_optimizer.param_groups:
            group["lr"] = one_cycle(self.step, self.total, self.peak)
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        self.discriminator_optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is needed to go on later."""
        kept = {
            f"{DISCRIMINATORS}.{name}": tensor for name, tensor in self.discriminators.state_dict().items()
        }
        return (
            super().tensors()
            | kept
            | optimizer_tensors(self.discriminator_optimizer, DISCRIMINATOR_OPTIMIZER)
        )

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to where :meth:`tensors` was called."""
        super().restore(tensors)
        self.discriminators.load_state_dict(dict(below(tensors, DISCRIMINATORS)))
        restore_optimizer(self.discriminator_optimizer, tensors, DISCRIMINATOR_OPTIMIZER)


def train_rdna(
    state: TrainingState,
    detector: RdnaDetector,
    sampler: BatchSource,
    batch_size: int,
    adversarial_weight: float,
) -> Iterator[Progress]:
    """Train ``state.model``, which is ``detector``, from where ``state`` stands; yields every step.

    :param sampler: of batches with :attr:`Batch.clean`.
    :param adversarial_weight: the gradient of the discriminators of an :class:`AdversarialState`, as a share
        of that of the losses of restored images and maps. A plain state has no discriminators.
    """
    state.model.train()
    discriminators = state.discriminators if isinstance(state, AdversarialState) else None
    while state.step < state.total:
        watch = Stopwatch()
        batch = sampler.batch(batch_size, state.generator)
        watch.lap("env")
        made = detector.outputs(batch.images)
        restoration = restoration_losses(made.restored, batch)
        detection = detector_losses(made.detection, batch)
        losses = {**restoration, **detection}
        total = torch.stack(list(losses.values())).sum()
        reported = {name: loss.detach() for name, loss in {**losses, "total": total}.items()}
        measured: dict[str, Tensor] = {}
        if discriminators is not None:
            total = total + adversarial_losses(
                discriminators, made, batch, restoration, detection, adversarial_weight, state.generator
            )
        watch.lap("policy")
        rate = state.minimise(total)
        if isinstance(state, AdversarialState):
            own = discriminator_losses(state.discriminators, made, batch, state.generator)
            state.train_discriminators(own)
            for name, discriminator in state.discriminators.named().items():
                reported[f"discriminator_of_{name}"] = own[name].detach()
                measured[f"balance/accuracy_on_{name}"] = discriminator.accuracy.clone()
                measured[f"balance/instance_noise_on_{name}"] = discriminator.instance_noise.clone()
                measured[f"balance/weight_on_{name}"] = discriminator.weight
        watch.lap("update")
        yield Progress(state.step, state.total, reported, rate, watch.seconds, measured)
    state.model.eval()


def restoration_losses(restored: Tensor, batch: Batch) -> dict[str, Tensor]:
    """The losses of restored images ``(B, C, H, W)``: squared error and structural similarity.

    Pixels count only where it is known what a normal image would show, see :func:`known_pixels`.
    """
    assert batch.clean is not None
    known, unlike = known_pixels(batch), 1 - similarity_map(restored, batch.clean)
    window = known.shape[-1] - unlike.shape[-1] + 1
    all_known = -functional.max_pool2d(-known, window, stride=1)
    return {
        "squared": 10 * _mean((restored - batch.clean).square(), known),
        "structure": _mean(unlike, all_known),
    }


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean of ``values (B, C, h, w)`` where ``where (B, 1, h, w)`` is 1, not 0."""
    return (values * where).sum() / (where.sum() * values.shape[1]).clamp_min(1)


def known_pixels(batch: Batch) -> Tensor:
    """Where ``batch.clean`` shows a normal image, ``(B, 1, H, W)``, 0 or 1.

    It doesn't at the anomalies of labelled images, which were made of no normal image.
    """
    unknown = ((batch.labels > 0) & (batch.sources < 0))[:, None, None, None]
    outside = (1 - batch.masks) * batch.marked[:, None, None, None]
    return torch.where(unknown, outside, torch.ones_like(batch.masks))


def adversarial_losses(
    discriminators: Discriminators,
    made: RdnaOutput,
    batch: Batch,
    restoration: Mapping[str, Tensor],
    detection: Mapping[str, Tensor],
    adversarial_weight: float,
    generator: torch.Generator,
) -> Tensor:
    """What the discriminators add to the losses of ``restoration`` and ``detection``."""
    of_images, of_maps = discriminators.restorations, discriminators.maps
    weights = [adversarial_weight * each.weight for each in (of_images, of_maps)]

    def image_logits(restored: Tensor) -> Tensor:
        return of_images(of_images.with_instance_noise(restored, generator))

    def map_logits(logits: Tensor) -> Tensor:
        shown = beside_images(batch.images, of_maps.with_instance_noise(logits.sigmoid(), generator))
        return of_maps(shown[batch.marked])

    of_restored = adversarial_loss(made.restored, sum_of(restoration), image_logits, weights[0])
    return of_restored + adversarial_loss(made.detection.map, sum_of(detection), map_logits, weights[1])


def discriminator_losses(
    discriminators: Discriminators, made: RdnaOutput, batch: Batch, generator: torch.Generator
) -> dict[str, Tensor]:
    """The losses of both discriminators: real images and masks against restored images and maps."""
    assert batch.clean is not None
    whole = known_pixels(batch).flatten(1).all(1)
    images = (batch.clean[whole], made.restored.detach()[whole])
    maps = (batch.masks, made.detection.map.detach().sigmoid())
    of_images = [discriminators.restorations.with_instance_noise(each, generator) for each in images]
    of_maps = [
        beside_images(batch.images, discriminators.maps.with_instance_noise(each, generator))[batch.marked]
        for each in maps
    ]
    return {
        "restorations": discriminators.restorations.loss(*of_images),
        "maps": discriminators.maps.loss(*of_maps),
    }


def beside_images(images: Tensor, maps: Tensor) -> Tensor:
    """Maps ``(B, 1, H, W)`` beside their images: ``(B, C + 1, H, W)``."""
    return torch.cat([images, maps], dim=1)


def sum_of(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of all losses, ``()``."""
    return torch.stack(list(losses.values())).sum()
