"""How the critic learns to estimate the amount of noise in a state.

Half of a batch are states of the forward process, with the amount of noise that was really added. That alone
makes a critic that is easily fooled: agents reach states that the process never does, and states of one class
never come with another. So the other half are such states, some of them made by agents, and their targets are
computed: the amount of noise that explains the state best, given the training images.
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
"""At most so many evenly spaced images are used to explain states."""

NATURAL = 0.75
"""The width of the Gaussian around an image, as a share of the distance between neighbouring images."""

ANY_CLASS = 0.2
"""The share of states that come without a class."""

MAX_FACTOR = 1.5
"""States outside of the forward process are scaled by up to this factor."""


class NoiseEstimator:
    """The amount of noise that explains a state best: the posterior mean of σ, with all images equally
    likely.

    Each image x stands for a Gaussian around it, about as wide as images of its kind differ; a state is then
    normally distributed around ``√(1 − σ²) x``.

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
        """σ ``(B,)`` of ``states (B, *shape)`` if they are of ``classes (B,)``; -1 is any class."""
        x = states.flatten(1)
        kept = (1 - self.amounts.square()).clamp_min(0).sqrt()  # (K,)
        own, size = x.square().sum(1), self.images.square().sum(1)
        shared = x @ self.images.T  # (B, N)
        allowed = (classes[:, None] < 0) | (classes[:, None] == self.labels)
        likelihoods = []
        for amount, keep in zip(self.amounts, kept, strict=True):
            variance = amount.square() + keep.square() * self.natural**2
            squared = own[:, None] - 2 * keep * shared + keep.square() * size
            log = -squared / (2 * variance) - x.shape[1] / 2 * variance.log()
            likelihoods.append(log.masked_fill(~allowed, -torch.inf).logsumexp(1))
        posterior = torch.stack(likelihoods, dim=1).softmax(1)
        return posterior @ self.amounts


def _typical_gap(images: Tensor) -> float:
    """The median distance of images ``(N, d)`` to the nearest other one, root mean square a dimension."""
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
    generated: tuple[Tensor, Tensor] | None = None,
) -> Iterator[Progress]:
    """Train ``state.model``, which is ``critic``, on images as ``states (N, *shape)`` with ``labels (N,)``.

    :param generated: states ``(M, *shape)`` that agents made, and the classes ``(M,)`` that were asked for,
        -1 for any.
    """
    estimate = NoiseEstimator(states, labels)
    critic.requires_grad_(True).train()
    while state.step < state.total:
        watch = Stopwatch()
        noisy, classes, amounts = _of_the_process(states, labels, batch_size // 2, state.generator)
        others, asked = _off_process(states, labels, batch_size - batch_size // 2, state.generator, generated)
        inputs, targets = torch.cat([noisy, others]), torch.cat([amounts, estimate(others, asked)])
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
    """States of the forward process, the classes that come with them (-1: any), and their σ."""
    rows = _draw(count, len(states), generator, states)
    amounts = torch.rand(count, generator=generator).to(states)
    noise = torch.randn(count, *states.shape[1:], generator=generator).to(states)
    any_class = (torch.rand(count, generator=generator) < ANY_CLASS).to(states.device)
    return mixed(states[rows], noise, amounts), labels[rows].masked_fill(any_class, -1), amounts


def _off_process(
    states: Tensor,
    labels: Tensor,
    count: int,
    generator: torch.Generator,
    generated: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """States that the forward process doesn't reach, and the classes that come with them (-1: any).

    Half of them are ``generated`` ones if there are any. The others are mixtures of two images, scaled up or
    down, with some noise, and any class.
    """
    made = 0 if generated is None else count // 2
    first, second = (_draw(count, len(states), generator, states) for _ in range(2))
    share, factor, amounts = torch.rand(3, count, generator=generator).to(states)
    shape = (-1, *[1] * (states.ndim - 1))
    # Half of them are single images, which mostly come with another class than theirs.
    share = (2 * share).clamp_max(1).view(shape)
    between = share * states[first] + (1 - share) * states[second]
    noise = torch.randn(between.shape, generator=generator).to(states)
    found = MAX_FACTOR * factor.sqrt().view(shape) * mixed(between, noise, amounts.square())
    asked = labels[_draw(count, len(labels), generator, states)]
    asked = asked.masked_fill((torch.rand(count, generator=generator) < ANY_CLASS).to(states.device), -1)
    if generated is not None:
        rows = _draw(made, len(generated[0]), generator, states)
        found[:made], asked[:made] = generated[0][rows], generated[1][rows]
    return found, asked


@torch.inference_mode()
def evaluate_critic(critic: Critic, states: Tensor, labels: Tensor, seed: int = 0) -> dict[str, float]:
    """How good a critic is on images it didn't learn from, as ``states (N, *shape)`` with ``labels (N,)``.

    :returns: ``critic_error``, the mean absolute error of σ on the forward process; ``critic_clean`` and
        ``critic_noise``, the median quality of images and of noise; ``critic_other``, that of images given
        the next class instead of theirs.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(states), device=states.device).repeat(max(1024 // len(states), 1))
    amounts = torch.rand(len(rows), generator=generator).to(states)
    noise = torch.randn(len(rows), *states.shape[1:], generator=generator).to(states)

    def quality(inputs: Tensor, classes: Tensor) -> Tensor:
        return 1 - critic(inputs, functional.one_hot(classes, critic.classes).to(inputs))

    estimated = 1 - quality(mixed(states[rows], noise, amounts), labels[rows])
    return {
        "critic_error": float((estimated - amounts).abs().mean()),
        "critic_clean": float(quality(states, labels).median()),
        "critic_noise": float(quality(noise, labels[rows]).median()),
        "critic_other": float(quality(states, (labels + 1) % critic.classes).median()),
    }
