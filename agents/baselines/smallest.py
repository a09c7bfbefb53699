"""Small networks that learn the smallest changes a detector still tells apart, as PLAD and DHAG do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from agents.scripted import Actions
from latent_common.errors import UserError
from latent_env.dynamics import Dynamics
from latent_env.transition import Transition

MOST_INPUTS = 64
"""A perturbator reads latents up to this size as they are, and a random projection of larger ones."""


class Perturbator(nn.Module):
    """From a flattened latent ``(N, d)`` to an action ``(N, k)``."""

    projection: Tensor

    def __init__(self, dimensions: int, action_size: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("projection", _projection(dimensions))
        first, last = nn.Linear(self.projection.shape[1], hidden), nn.Linear(hidden, action_size)
        for layer in (first, last):
            # Wide enough that the first actions differ from each other and can be seen: a change that
            # the decoder doesn't show has no gradient to learn from.
            nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(first, nn.Tanh(), last)

    def forward(self, latents: Tensor) -> Tensor:
        """Actions ``(N, k)`` in [-1, 1] for ``latents (N, d)``."""
        actions: Tensor = self.layers(latents @ self.projection).tanh()
        return actions


def _projection(dimensions: int) -> Tensor:
    """``(d, at most 64)``: the same for all, so that perturbators differ in what they learn alone."""
    if dimensions <= MOST_INPUTS:
        return torch.eye(dimensions)
    generator = torch.Generator().manual_seed(0)
    return torch.randn((dimensions, MOST_INPUTS), generator=generator) / math.sqrt(dimensions)


class SmallestAgent:
    """Lets one of several perturbators, drawn at random, choose each world's action.

    :param size_weight: what a change costs, for each inner radius of the shell from the start.
    :param repulsion_weight: what it costs that two perturbators change the same latent alike.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        seed: int,
        perturbators: int,
        hidden: int,
        size_weight: float,
        repulsion_weight: float,
    ) -> None:
        if perturbators < 1 or hidden < 1:
            raise UserError(f"agent.perturbators={perturbators} and agent.hidden={hidden} must be at least 1")
        if size_weight < 0 or repulsion_weight < 0:
            raise UserError(
                f"agent.size_weight={size_weight:g} and agent.repulsion_weight={repulsion_weight:g} "
                "must be at least 0"
            )
        self.dynamics, self.size_weight, self.repulsion_weight = dynamics, size_weight, repulsion_weight
        self.dimensions = dynamics.world.autoencoder.latent_dimensions
        sizes = (self.dimensions, dynamics.perturbation.action_size, hidden)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = nn.ModuleList(Perturbator(*sizes) for _ in range(perturbators))
        self.perturbators = made.to(dynamics.world.device)
        self.seed, self.rng = seed, np.random.default_rng(seed)

    @torch.no_grad()
    def predict(self, observation: npt.NDArray[np.float32], *_: Any, **__: Any) -> tuple[Actions, None]:
        """Actions ``(N, k)`` for observations ``(N, d)``, or ``(N, d + 1)`` with the time left."""
        return self._drawn(self._propose(torch.from_numpy(observation)), self.rng).cpu().numpy(), None

    def learn(self, steps: int, learning_rate: float) -> Iterator[dict[str, Tensor]]:
        """Take ``steps`` gradient steps on the worlds; after each, its losses.

        The worlds go on with the perturbators' own actions, so that these learn from the latents they
        will meet: an episode's later latents are no longer those of images.
        """
        dynamics, rng = self.dynamics, np.random.default_rng(self.seed)
        optimizer = torch.optim.Adam(self.perturbators.parameters(), learning_rate)
        worlds = torch.arange(dynamics.num_worlds, device=dynamics.world.device)
        observation = dynamics.reset_tensor(seeds=worlds + self.seed)
        for _step in range(steps):
            with torch.enable_grad():
                proposed = self._propose(observation.clone())  # one born in inference mode has no gradient
                played = self._drawn(proposed, rng)
                losses = self._losses(proposed, played)
                optimizer.zero_grad()
                losses["total"].backward()
            optimizer.step()
            result = dynamics.step_tensor(played.detach())
            observation = result.observations
            if bool(result.terminated.any()):
                observation = dynamics.reset_tensor(result.terminated)
            yield {name: loss.detach() for name, loss in losses.items()}

    def _propose(self, observation: Tensor) -> Tensor:
        """What every perturbator would do, ``(P, N, k)``."""
        latents = observation[:, : self.dimensions].to(self.dynamics.world.device)
        return torch.stack([perturbator(latents) for perturbator in self.perturbators])

    def _drawn(self, proposed: Tensor, rng: np.random.Generator) -> Tensor:
        """Of ``proposed (P, N, k)``, one perturbator's action for each world, ``(N, k)``."""
        chosen = torch.from_numpy(rng.integers(len(proposed), size=proposed.shape[1]))
        worlds = torch.arange(proposed.shape[1], device=proposed.device)
        return proposed[chosen.to(proposed.device), worlds]

    def _losses(self, proposed: Tensor, played: Tensor) -> dict[str, Tensor]:
        """How far from told apart, how large and how alike the changes are, and the weighted sum.

        The detector judges only what is ``played (N, k)``: that is what takes long. Size and likeness are
        those of all that is ``proposed (P, N, k)``.
        """
        made = [self.dynamics.imagine(actions) for actions in proposed]
        told_apart = functional.softplus(-self.dynamics.imagine(played).score).mean()
        size = torch.stack([self._size(*each) for each in zip(proposed, made, strict=True)]).mean()
        alike = self._alike(made)
        total = told_apart + self.size_weight * size + self.repulsion_weight * alike
        return {"told_apart": told_apart, "size": size, "alike": alike, "total": total}

    def _size(self, actions: Tensor, made: Transition) -> Tensor:
        """``(N,)``: how far ``actions (N, k)`` alone would lead from the start, in inner radii.

        Not where the shell pulls it back to: there, no change is any smaller than another.
        """
        moved = made.previous + self.dynamics.perturbation(actions, self.dynamics.streams, made.previous)
        return self.dynamics.shell.distance(moved, made.start_latent) / self.dynamics.shell.inner

    def _alike(self, made: list[Transition]) -> Tensor:
        """1 where any two perturbators lead to the same latent, towards 0 where these are radii apart."""
        shell = self.dynamics.shell
        pairs = [shell.distance(a.latent, b.latent) for a, b in itertools.combinations(made, 2)]
        if not pairs:
            return made[0].latent.new_zeros(())
        return torch.exp(-torch.stack(pairs) / shell.inner).mean()
