"""The batched world of denoising in PyTorch: reset and step for N worlds at once."""

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
"""No number of a world's stream of normal noise is larger."""


@dataclass(frozen=True)
class EpisodeBatch:
    """Every world's picture in progress, and what it is about. All tensors lead with the worlds."""

    sources: Tensor
    """``(N,)``: which of the world's images the forward trajectory starts from."""
    clean: Tensor
    """``(N, *shape)``: that image as a state."""
    noise: Tensor
    """``(N, *shape)``: the noise that its trajectory ends in."""
    wanted: Tensor
    """``(N, classes)``: its class, one-hot; zeros unless the task is conditional."""
    state: Tensor
    """``(N, *shape)``: what the artist has made so far."""
    visited: Tensor
    """``(N, horizon + 1, *shape)``: the states of the episode, from its start; nothing yet is zeros."""
    qualities: dict[str, Tensor]
    """How good the state is, ``(N,)`` each."""

    def merge(self, worlds: Tensor, other: EpisodeBatch) -> EpisodeBatch:
        """The canvas itself in ``worlds (N,)`` bool, the ``other`` one elsewhere."""

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
    """N artists who turn noise into images, each paid for how much better a step made its state.

    :param threshold: the critic's quality from which on an image is done; None: only the horizon ends.
    :param drawn: whether episodes start anywhere on the forward trajectory, not always in pure noise.
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
    def sources(self) -> Tensor:
        """``(N,)``: which of the world's images the forward trajectory starts from."""
        return self.last.sources

    @property
    def observation_size(self) -> int:
        """The flattened state, the class where the task is conditional, and the time left where asked for."""
        return dimensions(self.world.space) + self.observation_shares

    @property
    def observation_shares(self) -> int:
        """Class and time lie from 0 to 1."""
        return len(self.world.class_names) * int(self.conditional) + int(self.time_aware)

    @property
    def observation_bound(self) -> float:
        """States are kept within it."""
        return self.bound + 1e-3  # a comparison in another precision must not fail

    @property
    def classes(self) -> Tensor:
        """``(N,)``: the classes of the images that the episodes are about."""
        return self.world.labels[self.last.sources]

    def start_facts(self) -> dict[str, Tensor]:
        """The image, its class, and the critic's word."""
        return {"source": self.sources, "class": self.classes, "quality": self.last.qualities["critic"]}

    def facts(self) -> dict[str, Tensor]:
        """The same."""
        return self.start_facts()

    @torch.inference_mode()
    def reset_tensor(
        self,
        worlds: Tensor | None = None,
        seeds: Tensor | None = None,
        sources: Tensor | None = None,
    ) -> Tensor:
        """Start new episodes in noise, and return all observations ``(N, observation_size)``."""
        everywhere = worlds is None
        if worlds is None:
            worlds = torch.ones_like(self.elapsed, dtype=torch.bool)
        self._rewind(worlds, seeds)
        drawn = self.streams.integers(len(self.world.images)) if sources is None else sources
        fresh = self._begin(drawn)
        self.last = fresh if everywhere else fresh.merge(worlds, self.last)
        return self.observe()

    def _begin(self, sources: Tensor) -> EpisodeBatch:
        noise = self.streams.normal(*self.world.space.latent_shape)
        times = self.streams.uniform() if self.drawn else torch.ones_like(noise.flatten(1)[:, 0])
        # Pure noise is pure: the linear schedule leaves a trace of the image at its end.
        return self.begin_at(sources, noise, self.process.amount(times) if self.drawn else times)

    def begin_at(self, sources: Tensor, noise: Tensor, amounts: Tensor) -> EpisodeBatch:
        """Where episodes begin: images ``sources (B,)`` on their way to ``noise``, ``amounts (B,)`` of it."""
        world = self.world
        clean = world.states[sources]
        state = mixed(clean, noise, amounts)
        wanted = world.one_hot(world.labels[sources]) * float(self.conditional)
        visited = state.new_zeros(len(state), self.horizon + 1, *state.shape[1:])
        visited[:, 0] = state
        canvas = EpisodeBatch(sources, clean, noise, wanted, state, visited, {})
        canvas.qualities.update(self.reward.terms(state, canvas))
        return canvas

    @torch.inference_mode()
    def step_tensor(self, actions: Tensor, worlds: Tensor | None = None) -> StepResult[EpisodeBatch]:
        """Take ``actions (N, action_size)`` in [-1, 1] in all worlds, or only in ``worlds (N,)`` bool.

        What is returned of the other worlds means nothing, and their state doesn't change.
        """
        before = self.last
        moved = before.state + self.perturbation(actions.clamp(-1, 1), self.streams, before.state)
        moved = moved.clamp(-self.bound, self.bound)
        qualities = self.reward.terms(moved, before)
        gained = {name: qualities[name] - before.qualities[name] for name in self.reward.weights}
        paid = [self.reward.weights[name] * gain for name, gain in gained.items()]
        rewards = torch.stack(paid).sum(0)
        stepped = torch.ones_like(self.elapsed, dtype=torch.bool) if worlds is None else worlds
        self._advance(stepped)
        visited = before.visited.clone()
        visited[torch.arange(len(moved), device=moved.device), self.elapsed.clamp_max(self.horizon)] = moved
        after = EpisodeBatch(
            before.sources, before.clean, before.noise, before.wanted, moved, visited, qualities
        )
        self.last = after if worlds is None else after.merge(worlds, before)
        ended = (self.elapsed >= self.horizon) | self.done(qualities)
        return StepResult(self.observe(), rewards, ended, gained, after)

    def weighted_quality(self, qualities: Mapping[str, Tensor]) -> Tensor:
        """``(B,)``: what rewards are differences of, for states of such ``qualities``."""
        weighted = [weight * qualities[name] for name, weight in self.reward.weights.items()]
        return torch.stack(weighted).sum(0)

    def done(self, qualities: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` bool: whether the critic takes a state of such ``qualities`` for an image."""
        seen = qualities["critic"]
        return torch.zeros_like(seen, dtype=torch.bool) if self.threshold is None else seen >= self.threshold

    def observe(self) -> Tensor:
        """The observations ``(N, observation_size)``."""
        return self.observation(self.last.state, self.last.wanted, self.elapsed)

    def observation(self, states: Tensor, wanted: Tensor, elapsed: Tensor) -> Tensor:
        """What an agent sees of ``states (B, *shape)``, ``(B, observation_size)``, so many steps on."""
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
        """The states that one world's episode went through so far, ``(steps + 1, *shape)``."""
        return self.last.visited[world, : int(self.elapsed[world]) + 1]
