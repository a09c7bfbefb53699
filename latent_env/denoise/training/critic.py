"""How a critic learns how much noise there is in a state.

Half of what it sees are states of the forward process with the noise that was really added. That alone makes
a critic that is easily fooled: an artist goes where the process never does, and the wrong class is never seen
with the question whether it is the right one. So the other half are such states, those that artists made
among them, and their answer is computed: the amount of noise that best explains them, given the training
images.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from latent_common.image_source import evenly_spaced_positions
from latent_common.training_state import Progress, Stopwatch, TrainingState
from latent_env.denoise.critic import Critic
from latent_env.denoise.process import mixed

LEVELS = 16
MOST_IMAGES = 1024
"""Of more images, so many evenly spaced ones explain as much."""

NATURAL = 0.75
"""Within this share of the distance between neighbouring images, a state differs only as images do."""

UNNAMED = 0.2
"""The share of states that the critic is asked about without a class."""

LARGEST_STRETCH = 1.5


class NoiseEstimator:
    """What amount of noise explains any state best: the posterior mean of σ, all images equally likely.

    The images stand for their surroundings: each is a Gaussian as wide as images are natural variations of
    each other, ``√(1 − σ²) x`` and noise are spread around it.

    :param states: ``(N, *shape)`` the training images as states.
    :param labels: ``(N,)`` their classes.
    """

    def __init__(self, states: Tensor, labels: Tensor) -> None:
        rows = evenly_spaced_positions(len(states), MOST_IMAGES).to(states.device)
        self.images, self.labels = states[rows].flatten(1), labels[rows]
        self.amounts = torch.linspace(0, 1, LEVELS + 1, device=states.device)
        self.natural = NATURAL * _typical_gap(self.images)

    @torch.inference_mode()
    def __call__(self, states: Tensor, classes: Tensor) -> Tensor:
        """σ ``(B,)`` of ``states (B, *shape)`` as pictures of ``classes (B,)``; -1 is any class."""
        x = states.flatten(1)
        kept = (1 - self.amounts.square()).clamp_min(0).sqrt()  # (K,)
        own, size = x.square().sum(1), self.images.square().sum(1)
        shared = x @ self.images.T  # (B, N)
        allowed = (classes[:, None] < 0) | (classes[:, None] == self.labels)
        likelihoods = []
        for amount, keep in zip(self.amounts, kept, strict=True):
            spread = amount.square() + keep.square() * self.natural**2
            squared = own[:, None] - 2 * keep * shared + keep.square() * size
            log = -squared / (2 * spread) - x.shape[1] / 2 * spread.log()
            likelihoods.append(log.masked_fill(~allowed, -torch.inf).logsumexp(1))
        posterior = torch.stack(likelihoods, dim=1).softmax(1)
        return posterior @ self.amounts


def _typical_gap(images: Tensor) -> float:
    """The median distance of images ``(N, d)`` to their nearest neighbours, root mean square a dimension."""
    if len(images) < 2:
        return 0.1
    gaps = torch.cdist(images, images).fill_diagonal_(torch.inf).amin(1)
    return max(float(gaps.median()) / images.shape[1] ** 0.5, 1e-2)


def train_critic(
    state: TrainingState,
    critic: Critic,
    states: Tensor,
    labels: Tensor,
    batch_size: int,
    artists: tuple[Tensor, Tensor] | None = None,
) -> Iterator[Progress]:
    """Train ``state.model``, which is ``critic``, on images as ``states (N, *shape)`` with ``labels (N,)``.

    :param artists: states ``(M, *shape)`` that artists made, and the classes ``(M,)`` that they were asked
        for, -1 for any.
    """
    explain = NoiseEstimator(states, labels)
    critic.requires_grad_(True).train()
    while state.step < state.total:
        watch = Stopwatch()
        noisy, classes, amounts = _of_the_process(states, labels, batch_size // 2, state.generator)
        strange, asked = _elsewhere(states, labels, batch_size - batch_size // 2, state.generator, artists)
        inputs, targets = torch.cat([noisy, strange]), torch.cat([amounts, explain(strange, asked)])
        asked = torch.cat([classes, asked])
        wanted = functional.one_hot(asked.clamp_min(0), critic.classes) * (asked >= 0)[:, None]
        watch.lap("env")
        loss = functional.mse_loss(critic(inputs, wanted.to(inputs)), targets)
        watch.lap("policy")
        rate = state.minimise(loss)
        watch.lap("update")
        yield Progress(state.step, state.total, {"total": loss.detach()}, rate, watch.seconds)
    critic.requires_grad_(False).eval()


def _draw(count: int, most: int, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randint(most, (count,), generator=generator).to(like.device)


def _of_the_process(
    states: Tensor, labels: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """States of the forward process, the classes to name with them (-1: none), and their noise."""
    rows = _draw(count, len(states), generator, states)
    amounts = torch.rand(count, generator=generator).to(states)
    noise = torch.randn(count, *states.shape[1:], generator=generator).to(states)
    unnamed = (torch.rand(count, generator=generator) < UNNAMED).to(states.device)
    return mixed(states[rows], noise, amounts), labels[rows].masked_fill(unnamed, -1), amounts


def _elsewhere(
    states: Tensor,
    labels: Tensor,
    count: int,
    generator: torch.Generator,
    artists: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """States that the process doesn't lead to, half of them by artists if there are any, and the classes
    asked for.

    The others are mixtures of two images, stretched or shrunk, with some noise, of any class.
    """
    made = 0 if artists is None else count // 2
    first, second = (_draw(count, len(states), generator, states) for _ in range(2))
    share, stretch, amounts = torch.rand(3, count, generator=generator).to(states)
    shape = (-1, *[1] * (states.ndim - 1))
    # Half of them are no mixture: one image as it is, to be asked about as one of another class.
    share = (2 * share).clamp_max(1).view(shape)
    between = share * states[first] + (1 - share) * states[second]
    noise = torch.randn(between.shape, generator=generator).to(states)
    strange = LARGEST_STRETCH * stretch.sqrt().view(shape) * mixed(between, noise, amounts.square())
    asked = labels[_draw(count, len(labels), generator, states)]
    asked = asked.masked_fill((torch.rand(count, generator=generator) < UNNAMED).to(states.device), -1)
    if artists is not None:
        rows = _draw(made, len(artists[0]), generator, states)
        strange[:made], asked[:made] = artists[0][rows], artists[1][rows]
    return strange, asked


@torch.inference_mode()
def evaluate_critic(critic: Critic, states: Tensor, labels: Tensor, seed: int = 0) -> dict[str, float]:
    """How good a critic is on images as ``states (N, *shape)`` that it hasn't seen, with ``labels (N,)``.

    ``critic_error`` is the mean absolute error of σ on the forward process, ``critic_clean`` and
    ``critic_noise`` the median quality of images and of noise, ``critic_other`` that of images as those of
    the next class.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(states), device=states.device).repeat(max(1024 // len(states), 1))
    amounts = torch.rand(len(rows), generator=generator).to(states)
    noise = torch.randn(len(rows), *states.shape[1:], generator=generator).to(states)

    def quality(shown: Tensor, classes: Tensor) -> Tensor:
        return 1 - critic(shown, functional.one_hot(classes, critic.classes).to(shown))

    seen = 1 - quality(mixed(states[rows], noise, amounts), labels[rows])
    return {
        "critic_error": float((seen - amounts).abs().mean()),
        "critic_clean": float(quality(states, labels).median()),
        "critic_noise": float(quality(noise, labels[rows]).median()),
        "critic_other": float(quality(states, (labels + 1) % critic.classes).median()),
    }
