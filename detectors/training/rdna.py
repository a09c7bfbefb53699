"""How a reconstruction and a discriminant network learn together, each against a discriminator of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.metrics.ssim import similarity_map
from detectors.rdna import Examination, RdnaDetector
from detectors.training.batches import Batch, BatchSource
from detectors.training.discriminators import Critic, adversarial_loss
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

CRITICS, CRITIC_OPTIMIZER = "critics", "critic_optimizer"


class Critics(nn.Module):
    """The two discriminators: of reconstructions, and of maps on the images that they belong to."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        # Half as wide as what they judge is enough: it is the easier task.
        narrow = max(width // 2, 4)
        self.restorations = Critic(channels, narrow)
        self.maps = Critic(channels + 1, narrow)

    def named(self) -> dict[str, Critic]:
        """Both by name."""
        return {"restorations": self.restorations, "maps": self.maps}


class AdversarialState(TrainingState):
    """A training run with discriminators, which learn beside the model and are kept with the rest."""

    def __init__(
        self, model: nn.Module, critics: Critics, learning_rate: float, total: int, seed: int
    ) -> None:
        super().__init__(model, learning_rate, total, seed)
        self.critics = critics
        # Without much momentum: what they learn about is never the same twice.
        self.critic_optimizer = torch.optim.AdamW(critics.parameters(), lr=learning_rate, betas=(0.5, 0.99))

    def teach(self, losses: Mapping[str, Tensor]) -> None:
        """One step of both discriminators down their losses, as large as the model's."""
        for group in self.critic_optimizer.param_groups:
            group["lr"] = one_cycle(self.step, self.total, self.peak)
        self.critic_optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        self.critic_optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that must be kept to go on later."""
        kept = {f"{CRITICS}.{name}": tensor for name, tensor in self.critics.state_dict().items()}
        return super().tensors() | kept | optimizer_tensors(self.critic_optimizer, CRITIC_OPTIMIZER)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to where :meth:`tensors` was called."""
        super().restore(tensors)
        self.critics.load_state_dict(dict(below(tensors, CRITICS)))
        restore_optimizer(self.critic_optimizer, tensors, CRITIC_OPTIMIZER)


def train_rdna(
    state: TrainingState, detector: RdnaDetector, sampler: BatchSource, batch_size: int, adversarial: float
) -> Iterator[Progress]:
    """Train ``state.model``, which is ``detector``, from where ``state`` stands; yields every step.

    :param diet: says what images would show if nothing were wrong with them.
    :param adversarial: how strongly the discriminators of an :class:`AdversarialState` pull at
        reconstructions and maps, as a share of what their losses do. A plain state has none.
    """
    state.model.train()
    critics = state.critics if isinstance(state, AdversarialState) else None
    while state.step < state.total:
        watch = Stopwatch()
        batch = sampler.batch(batch_size, state.generator)
        watch.lap("env")
        made = detector.examine(batch.images)
        restoring, judging = restoration_losses(made.restored, batch), detector_losses(made.detection, batch)
        losses = {**restoring, **judging}
        total = torch.stack(list(losses.values())).sum()
        reported = {name: loss.detach() for name, loss in {**losses, "total": total}.items()}
        measured: dict[str, Tensor] = {}
        if critics is not None:
            total = total + adversarial_losses(
                critics, made, batch, restoring, judging, adversarial, state.generator
            )
        watch.lap("policy")
        rate = state.minimise(total)
        if isinstance(state, AdversarialState):
            lessons = critic_losses(state.critics, made, batch, state.generator)
            state.teach(lessons)
            for name, critic in state.critics.named().items():
                reported[f"critic_of_{name}"] = lessons[name].detach()
                measured[f"balance/accuracy_on_{name}"] = critic.accuracy.clone()
                measured[f"balance/instance_noise_on_{name}"] = critic.instance_noise.clone()
                measured[f"balance/heeded_on_{name}"] = critic.heeded
        watch.lap("update")
        yield Progress(state.step, state.total, reported, rate, watch.seconds, measured)
    state.model.eval()


def restoration_losses(restored: Tensor, batch: Batch) -> dict[str, Tensor]:
    """The losses of reconstructions ``(B, C, H, W)``: squared error and structural similarity.

    Where nobody knows what a normal image would show, at the anomalies of images that were collected, there
    are none.
    """
    assert batch.clean is not None
    known, unlike = known_places(batch), 1 - similarity_map(restored, batch.clean)
    window = known.shape[-1] - unlike.shape[-1] + 1
    all_known = -functional.max_pool2d(-known, window, stride=1)
    return {
        "squared": 10 * _mean((restored - batch.clean).square(), known),
        "structure": _mean(unlike, all_known),
    }


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean of ``values (B, C, h, w)`` where ``where (B, 1, h, w)`` is 1, not 0."""
    return (values * where).sum() / (where.sum() * values.shape[1]).clamp_min(1)


def known_places(batch: Batch) -> Tensor:
    """Where ``batch.clean`` is what it says: ``(B, 1, H, W)``, 0 or 1."""
    unknown = ((batch.labels > 0) & (batch.sources < 0))[:, None, None, None]
    outside = (1 - batch.masks) * batch.marked[:, None, None, None]
    return torch.where(unknown, outside, torch.ones_like(batch.masks))


def adversarial_losses(
    critics: Critics,
    made: Examination,
    batch: Batch,
    restoring: Mapping[str, Tensor],
    judging: Mapping[str, Tensor],
    adversarial: float,
    generator: torch.Generator,
) -> Tensor:
    """What the discriminators add to the loss."""
    on_restored, on_maps = critics.restorations, critics.maps
    strengths = [adversarial * critic.heeded for critic in (on_restored, on_maps)]

    def normal(restored: Tensor) -> Tensor:
        return on_restored(on_restored.with_instance_noise(restored, generator))

    def fits(logits: Tensor) -> Tensor:
        seen = pictured(batch.images, on_maps.with_instance_noise(logits.sigmoid(), generator))
        return on_maps(seen[batch.marked])

    of_restored = adversarial_loss(made.restored, sum_of(restoring), normal, strengths[0])
    return of_restored + adversarial_loss(made.detection.map, sum_of(judging), fits, strengths[1])


def critic_losses(
    critics: Critics, made: Examination, batch: Batch, generator: torch.Generator
) -> dict[str, Tensor]:
    """The losses of both discriminators: true images and masks against those that were made."""
    assert batch.clean is not None
    whole = known_places(batch).flatten(1).all(1)
    images = (batch.clean[whole], made.restored.detach()[whole])
    maps = (batch.masks, made.detection.map.detach().sigmoid())
    of_images = [critics.restorations.with_instance_noise(each, generator) for each in images]
    of_maps = [
        pictured(batch.images, critics.maps.with_instance_noise(each, generator))[batch.marked]
        for each in maps
    ]
    return {"restorations": critics.restorations.loss(*of_images), "maps": critics.maps.loss(*of_maps)}


def pictured(images: Tensor, maps: Tensor) -> Tensor:
    """Maps ``(B, 1, H, W)`` beside their images: ``(B, C + 1, H, W)``."""
    return torch.cat([images, maps], dim=1)


def sum_of(losses: Mapping[str, Tensor]) -> Tensor:
    """All of them together."""
    return torch.stack(list(losses.values())).sum()
