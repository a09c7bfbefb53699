"""Episodes of denoising in N worlds at once, in PyTorch: reset and step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_env.denoise.process import ForwardProcess, mixed
from latent_env.denoise.quality import Quality
from latent_env.denoise.spaces import DenseStep, dimensions
from latent_env.denoise.world import DenoiseWorld
from latent_env.dynamics import Episodes, StepResult
from latent_env.rendering import Picture, side_by_side, to_rgb

TILE = 96
"""Side of a tile in an episode's picture, in pixels."""

LARGEST_NOISE = 6.0
"""No normal number of a world's random stream is larger."""


@dataclass(frozen=True)
class EpisodeBatch:
    """The episodes of N worlds so far. The first dimension of all tensors is the world."""

    sources: Tensor
    """``(N,)``: the index of the image that each forward trajectory starts from."""
    clean: Tensor
    """``(N, *shape)``: these images as states."""
    noise: Tensor
    """``(N, *shape)``: the noise that the trajectories end in."""
    wanted: Tensor
    """``(N, classes)``: the class that is asked for, one-hot; zeros unless the task is conditional."""
    state: Tensor
    """``(N, *shape)``: the present states."""
    visited: Tensor
    """``(N, horizon + 1, *shape)``: all states since the start; zeros for steps to come."""
    qualities: dict[str, Tensor]
    """The named qualities of the present states, ``(N,)`` each."""

    def merge(self, worlds: Tensor, other: EpisodeBatch) -> EpisodeBatch:
        """These episodes in ``worlds (N,)`` bool, the ``other`` ones elsewhere."""

        def either(ours: Tensor, theirs: Tensor) -> Tensor:
            return torch.where(worlds.view(-1, *[1] * (ours.ndim - 1)), ours, theirs)

        return EpisodeBatch(
            either(self.sources, other.sources),
            either(self.clean, other.clean),
            either(self.noise, other.noise),
            either(self.wanted, other.wanted),
            either(self.state, other.state),
            either(self.visited, other.visited),
            {name: either(value, other.qualities[name]) for name, value in self.qualities.items()},
        )


class DenoiseDynamics(Episodes[EpisodeBatch]):
    """N episodes of ``LatentDenoise-v0``: an agent changes states, and is paid for how much cleaner they get.

    :param max_delta: how far a full action moves a number of the state.
    :param threshold: an episode ends when the critic's quality reaches it; None: only at the horizon.
    :param drawn: whether episodes start anywhere on the forward trajectory instead of in pure noise.
    :param conditional: whether an episode asks for the class of its image.
    """

    def __init__(
        self,
        world: DenoiseWorld,
        process: ForwardProcess,
        reward: Quality,
        max_delta: float,
        horizon: int,
        num_worlds: int,
        *,
        threshold: float | None,
        drawn: bool,
        conditional: bool,
        time_aware: bool,
    ) -> None:
        super().__init__(horizon, num_worlds, time_aware, world.device)
        self.world: DenoiseWorld = world
        self.reward: Quality = reward
        self.process, self.threshold = process, threshold
        self.drawn, self.conditional = drawn, conditional
        self.perturbation: DenseStep = DenseStep(tuple(world.space.latent_shape), max_delta, world.device)
        self.bound = float(world.states.abs().max()) + LARGEST_NOISE
        with torch.inference_mode():
            self.last = self._begin(torch.zeros_like(self.elapsed))

    @property
    def observation_size(self) -> int:
        """How many numbers an observation has: the state's, and those of class and time where it has them."""
        return dimensions(self.world.space) + self.observation_shares

    @property
    def observation_shares(self) -> int:
        """How many numbers at the end of an observation lie from 0 to 1: class and time."""
        return len(self.world.class_names) * int(self.conditional) + int(self.time_aware)

    @property
    def observation_bound(self) -> float:
        """No number of an observation is larger: states are clamped."""
        return self.bound + 1e-3  # a comparison in another precision must not fail

    @property
    def image_classes(self) -> Tensor:
        """``(M,)``: the class of every image that episodes may start from."""
        return self.world.labels

    @property
    def classes(self) -> Tensor:
        """``(N,)``: the classes of the images that the forward trajectories start from."""
        return self.world.labels[self.last.sources]

    def facts(self) -> dict[str, Tensor]:
        """``source``, ``class`` and ``quality``, which is the critic's: ``(N,)`` each."""
        return {"source": self.sources, "class": self.classes, "quality": self.last.qualities["critic"]}

    def _begin(self, sources: Tensor) -> EpisodeBatch:
        noise = self.streams.normal(*self.world.space.latent_shape)
        times = self.streams.uniform() if self.drawn else torch.ones_like(noise.flatten(1)[:, 0])
        # Pure noise is pure: the linear schedule leaves a trace of the image at its end.
        return self.begin_at(sources, noise, self.process.amount(times) if self.drawn else times)

    def begin_at(self, sources: Tensor, noise: Tensor, amounts: Tensor) -> EpisodeBatch:
        """Episodes that begin at images ``sources (B,)`` with ``amounts (B,)`` of ``noise`` added."""
        world = self.world
        clean = world.states[sources]
        state = mixed(clean, noise, amounts)
        wanted = world.one_hot(world.labels[sources]) * float(self.conditional)
        visited = state.new_zeros(len(state), self.horizon + 1, *state.shape[1:])
        visited[:, 0] = state
        episodes = EpisodeBatch(sources, clean, noise, wanted, state, visited, {})
        episodes.qualities.update(self.reward.terms(state, episodes))
        return episodes

    @torch.inference_mode()
    def step_tensor(self, actions: Tensor, worlds: Tensor | None = None) -> StepResult[EpisodeBatch]:
        """Take ``actions (N, action_size)`` in [-1, 1] in all worlds, or only in ``worlds (N,)`` bool.

        A number that is NaN counts as 0, so that it spoils no other world. What is returned of the other
        worlds means nothing, and their state doesn't change.
        """
        before = self.last
        moved = before.state + self.perturbation(
            actions.nan_to_num(0.0).clamp(-1, 1), self.streams, before.state
        )
        moved = moved.clamp(-self.bound, self.bound)
        qualities = self.reward.terms(moved, before)
        gained = {name: qualities[name] - before.qualities[name] for name in self.reward.weights}
        paid = [self.reward.weights[name] * gain for name, gain in gained.items()]
        rewards = torch.stack(paid).sum(0)
        stepped = torch.ones_like(self.elapsed, dtype=torch.bool) if worlds is None else worlds
        self._advance(stepped, gained)
        visited = before.visited.clone()
        visited[torch.arange(len(moved), device=moved.device), self.elapsed.clamp_max(self.horizon)] = moved
        after = EpisodeBatch(
            before.sources, before.clean, before.noise, before.wanted, moved, visited, qualities
        )
        self.last = after if worlds is None else after.merge(worlds, before)
        ended = (self.elapsed >= self.horizon) | self.done(qualities)
        return StepResult(self.observe(), rewards, ended, gained, after)

    def weighted_quality(self, qualities: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of ``qualities``, ``(B,)``: rewards are differences of it."""
        weighted = [weight * qualities[name] for name, weight in self.reward.weights.items()]
        return torch.stack(weighted).sum(0)

    def done(self, qualities: Mapping[str, Tensor]) -> Tensor:
        """Whether states of such ``qualities`` reach the threshold, ``(B,)`` bool."""
        found = qualities["critic"]
        if self.threshold is None:
            return torch.zeros_like(found, dtype=torch.bool)
        return found >= self.threshold

    def observe(self) -> Tensor:
        """The observations ``(N, observation_size)``."""
        return self.observation(self.last.state, self.last.wanted, self.elapsed)

    def observation(self, states: Tensor, wanted: Tensor, elapsed: Tensor) -> Tensor:
        """Observations ``(B, observation_size)`` of ``states (B, *shape)`` after ``elapsed (B,)`` steps."""
        parts = [states.flatten(1).clone()]
        if self.conditional:
            parts.append(wanted)
        return self._with_time(torch.cat(parts, dim=1), elapsed)

    @torch.inference_mode()
    def picture(self, world: int = 0, tile: int = TILE) -> Picture:
        """One world's episode so far, state by state, each with the critic's quality: ``(H, W, 3)`` uint8.

        There is room for ``horizon`` steps; those that haven't happened are black. The last tile is the image
        that the forward trajectory starts from, under the name of its class.
        """
        parts, source = self.world, self.sources[world]
        states = self.states_of(world)
        images = parts.space.decode_all(states)
        wanted = self.last.wanted[world : world + 1].expand(len(states), -1)
        qualities = [f"{float(quality):.2f}" for quality in self.reward.critic(states, wanted)]
        missing = self.horizon + 1 - len(images)
        tiles = [*images, *[torch.zeros_like(images[0])] * missing, parts.images[source]]
        name = parts.class_names[int(parts.labels[source])]
        captions = [*qualities, *[""] * missing, name[:12]]
        return side_by_side([to_rgb(image) for image in tiles], captions, tile)

    def states_of(self, world: int) -> Tensor:
        """The states of one world's episode so far, ``(steps + 1, *shape)``."""
        return self.last.visited[world, : int(self.elapsed[world]) + 1]
