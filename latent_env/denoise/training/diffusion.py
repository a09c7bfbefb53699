"""The baseline of denoising: a plain diffusion model, trained by regression."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from latent_common.training_state import Progress, Stopwatch, TrainingState
from latent_env.denoise.process import ForwardProcess, mixed


class Diffusion(nn.Module):
    """Estimates the clean state behind a noisy one; its layers are like those of an agent's policy.

    :param shape: of a state.
    :param classes: how many classes there are; a one-hot vector of zeros means any class.
    :param hidden: the units of each hidden layer.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        sizes = [math.prod(self.shape) + classes + 1, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-1], math.prod(self.shape)))

    def forward(self, states: Tensor, wanted: Tensor, amounts: Tensor) -> Tensor:
        """The clean states ``(B, *shape)`` behind ``states``, of which ``amounts (B,)`` are noise."""
        inputs = torch.cat([states.flatten(1), wanted, amounts[:, None]], dim=1)
        guessed: Tensor = self.net(inputs).view(-1, *self.shape)
        return guessed

    @torch.inference_mode()
    def sample(self, noise: Tensor, wanted: Tensor, process: ForwardProcess, steps: int) -> Tensor:
        """States ``(N, *shape)`` from ``noise`` in so many deterministic steps along the process."""
        amounts = process.amount(torch.linspace(1, 0, steps + 1)).to(noise)
        amounts[0], state = 1.0, noise
        for now, then in pairwise(amounts):
            clean = self(state, wanted, now.expand(len(state)))
            left = (state - (1 - now.square()).clamp_min(0).sqrt() * clean) / now
            state = mixed(clean, left, then.expand(len(state)))
        return state


def train_diffusion(
    state: TrainingState,
    model: Diffusion,
    process: ForwardProcess,
    states: Tensor,
    wanted: Tensor,
    batch_size: int,
) -> Iterator[Progress]:
    """Train ``state.model``, which is ``model``, on clean ``states (N, *shape)``, ``wanted (N, classes)``."""
    model.train()
    while state.step < state.total:
        watch = Stopwatch()
        rows = torch.randint(len(states), (batch_size,), generator=state.generator).to(states.device)
        times = torch.rand(batch_size, generator=state.generator).to(states)
        clean = states[rows]
        noise = torch.randn(clean.shape, generator=state.generator).to(states)
        watch.lap("env")
        guessed = model(process.noisy(clean, noise, times), wanted[rows], process.amount(times))
        loss = functional.mse_loss(guessed, clean)
        watch.lap("policy")
        rate = state.minimise(loss)
        watch.lap("update")
        yield Progress(state.step, state.total, {"total": loss.detach()}, rate, watch.seconds)
    model.requires_grad_(False).eval()
