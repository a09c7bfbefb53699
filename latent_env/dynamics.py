"""Episodes in N worlds at once, in PyTorch: reset and step.

Nothing here knows of Gymnasium or files, and nothing in a step waits for the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from latent_env.observation import AUTO, IMAGE, ImageObserver, Observer
from latent_env.perturbations.base import Perturbation
from latent_env.perturbations.image_edit import ImageEditor
from latent_env.random_streams import Streams
from latent_env.rendering import Picture, panel
from latent_env.rewards.base import MOST_ASKED
from latent_env.rewards.reward import Reward
from latent_env.shell import Shell
from latent_env.transition import Transition, initial_transition
from latent_env.worlds.world import World

T = TypeVar("T", bound="Batch")


class Batch(Protocol):
    """What is known of N episodes after a step or a reset."""

    @property
    def sources(self) -> Tensor:
        """``(N,)``: the index of the image that each episode started from."""

    def merge(self, worlds: Tensor, other: Any) -> Any:
        """The batch itself in ``worlds (N,)`` bool, the ``other`` one elsewhere."""


class StepResult(NamedTuple, Generic[T]):
    """The outcome of a step in N worlds, before any world is reset."""

    observations: Tensor
    """``(N, observation_size)``"""
    rewards: Tensor
    """``(N,)``"""
    terminated: Tensor
    """``(N,)`` bool: whether the horizon is reached, or the task was done earlier."""
    reward_terms: dict[str, Tensor]
    """Every term before weighting, ``(N,)``."""
    transition: T
    """What led there."""


class Parts(Protocol):
    """What every kind of episode needs of its world."""

    @property
    def device(self) -> torch.device:
        """The device of all its tensors."""

    @property
    def images(self) -> Tensor:
        """``(N, C, H, W)`` uint8: the images that episodes start from."""


class Weighted(Protocol):
    """A reward that is a weighted sum of named terms."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each term, by name."""


class Episodes(ABC, Generic[T]):
    """N episodes of one kind side by side: their clocks, their random streams, and what adapters need.

    An episode doesn't depend on the other episodes of the batch, except through reward terms that say so.
    """

    world: Parts
    perturbation: Perturbation
    reward: Weighted
    last: T
    """The last transition (or state) of every world, for pictures and rollouts."""
    image_shape: tuple[int, int, int] | None = None
    """The shape of observations that are images of uint8; None where they are numbers."""

    def __init__(self, horizon: int, num_worlds: int, time_aware: bool, device: torch.device) -> None:
        self.horizon, self.num_worlds, self.time_aware = horizon, num_worlds, time_aware
        self.streams = Streams(num_worlds, device)
        self.elapsed = torch.zeros(num_worlds, dtype=torch.int64, device=device)
        self._terms: Mapping[str, Tensor] = {}  # of the last step of every world, before weighting

    @property
    @abstractmethod
    def observation_size(self) -> int:
        """How many numbers an observation has."""

    @property
    @abstractmethod
    def observation_bound(self) -> float:
        """No number of an observation is larger than this."""

    @property
    def observation_shares(self) -> int:
        """How many numbers at the end of an observation lie from 0 to 1."""
        return int(self.time_aware)

    @property
    def sources(self) -> Tensor:
        """``(N,)``: the index of the image that each episode started from."""
        return self.last.sources

    @property
    def image_classes(self) -> Tensor | None:
        """``(M,)``: the class of every image that episodes may start from; None where they have none."""
        return None

    @abstractmethod
    def facts(self) -> dict[str, Tensor]:
        """What is known of every world, ``(N,)`` each: the same names after a reset and after a step."""

    def info(self) -> dict[str, Tensor]:
        """The ``info`` of every world, ``(N,)`` each: the same names after a reset and after a step.

        It holds :meth:`facts`, and as ``reward_terms/<name>`` every term of the last step before weighting,
        which is 0 after a reset.
        """
        stepped, nothing = self.elapsed > 0, torch.zeros_like(self.elapsed, dtype=torch.float32)
        terms = {name: self._terms.get(name, nothing) for name in self.reward.weights}
        return self.facts() | {f"reward_terms/{name}": term.where(stepped, 0) for name, term in terms.items()}

    @torch.inference_mode()
    def reset_tensor(
        self,
        worlds: Tensor | None = None,
        seeds: Tensor | None = None,
        sources: Tensor | None = None,
        among: Tensor | None = None,
    ) -> Tensor:
        """Start new episodes and return all observations ``(N, observation_size)``.

        :param worlds: ``(N,)`` bool, where; None is everywhere.
        :param seeds: ``(N,)`` int64, which start the worlds' random streams anew; without, the streams go on.
        :param sources: ``(N,)`` indices of images to start from, instead of drawing them.
        :param among: ``(K,)`` indices of the images to draw from; None is all.
        """
        everywhere = worlds is None
        if worlds is None:
            worlds = torch.ones_like(self.elapsed, dtype=torch.bool)
        self._rewind(worlds, seeds)
        if sources is None:
            drawn = self.streams.integers(len(self.world.images if among is None else among))
            sources = drawn if among is None else among[drawn]
        fresh = self._begin(sources)
        self.last = fresh if everywhere else fresh.merge(worlds, self.last)
        return self.observe()

    @abstractmethod
    def _begin(self, sources: Tensor) -> T:
        """The start of episodes from images ``sources (N,)``."""

    @abstractmethod
    def step_tensor(self, actions: Tensor, worlds: Tensor | None = None) -> StepResult[T]:
        """Take ``actions (N, action_size)`` in [-1, 1] in all worlds, or only in ``worlds (N,)`` bool."""

    @abstractmethod
    def observe(self) -> Tensor:
        """The observations ``(N, observation_size)``."""

    @abstractmethod
    def picture(self, world: int = 0) -> Picture:
        """What happened so far in one world, in labelled tiles: ``(H, W, 3)`` uint8."""

    def _rewind(self, worlds: Tensor, seeds: Tensor | None) -> None:
        """Set clocks and random streams of ``worlds (N,)`` bool to the beginning of an episode."""
        streams = self.streams
        if seeds is None:
            streams.episodes = streams.episodes + worlds
        else:
            streams.seeds = torch.where(worlds, seeds, streams.seeds)
            streams.episodes = streams.episodes.masked_fill(worlds, 0)
        streams.steps = streams.steps.masked_fill(worlds, 0)
        self.elapsed = self.elapsed.masked_fill(worlds, 0)

    def _advance(self, stepped: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Move the clocks of the worlds ``stepped (N,)`` bool on, and keep their ``terms``, ``(N,)`` each."""
        self.elapsed = self.elapsed + stepped
        self.streams.steps = self.streams.steps + stepped
        earlier = self._terms or terms
        self._terms = {name: term.where(stepped, earlier[name]) for name, term in terms.items()}

    def _with_time(self, observations: Tensor, elapsed: Tensor) -> Tensor:
        """``observations (N, d)``, with the share of the episode that is left appended if ``time_aware``."""
        if not self.time_aware:
            return observations
        left = 1 - elapsed[:, None].to(observations) / self.horizon
        return torch.cat([observations, left], dim=1)


class Dynamics(Episodes[Transition]):
    """N episodes of ``LatentAug-v0``: an agent changes latents, and every step is paid.

    Episodes always last ``horizon`` steps. That is the task's own end, so it is ``terminated``.
    """

    def __init__(
        self,
        world: World,
        perturbation: Perturbation,
        reward: Reward,
        shell: Shell,
        horizon: int,
        num_worlds: int,
        time_aware: bool = False,
        observation: str = AUTO,
    ) -> None:
        super().__init__(horizon, num_worlds, time_aware, world.device)
        self.world: World = world
        self.reward: Reward = reward
        self.perturbation, self.shell = perturbation, shell
        self.editor = perturbation if isinstance(perturbation, ImageEditor) else None
        nowhere = torch.zeros_like(self.elapsed)
        self.last = initial_transition(world, shell, nowhere, self.streams.episode_uniform())
        asked = reward.asked(self.last)
        self._numbers_asked = 0 if asked is None else asked.shape[1]
        self._pictures: ImageObserver | None = None
        if observation == IMAGE:
            observation, numbers = AUTO, self._numbers_asked + time_aware
            self._pictures = ImageObserver(world.autoencoder.channels, world.autoencoder.size, numbers)
            self.image_shape = self._pictures.shape
        self.observer = Observer(observation, world.autoencoder.latent_shape)

    @property
    def observation_size(self) -> int:
        """How many numbers an observation has: of the latent, of what terms ask for, and of the time."""
        return self.observer.size + self._numbers_asked + int(self.time_aware)

    @property
    def observation_bound(self) -> float:
        """No number of an observation is larger: the starting latents' largest plus the outer radius."""
        bound = float(self.world.latents.abs().max()) + self.shell.outer + 1e-3
        return max(bound, MOST_ASKED) if self._numbers_asked else bound

    def facts(self) -> dict[str, Tensor]:
        """``source (N,)``, and ``distance (N,)`` of the latent from its start."""
        return {"source": self.sources, "distance": self.last.distance}

    def _rewind(self, worlds: Tensor, seeds: Tensor | None) -> None:
        super()._rewind(worlds, seeds)
        if seeds is not None:
            self.reward.forget(worlds)
        self.reward.begin(worlds)

    def _begin(self, sources: Tensor) -> Transition:
        begun = initial_transition(self.world, self.shell, sources, self.streams.episode_uniform())
        if self._pictures is not None:
            begun.image = begun.start_image  # which nothing has changed yet, so nothing has to be decoded
        return begun

    def imagine(self, actions: Tensor) -> Transition:
        """The transition that ``actions (N, action_size)`` would cause; changes nothing."""
        sources, draws, latent = self.last.sources, self.last.draws, self.last.latent
        if torch.is_grad_enabled():  # tensors born in inference mode can't take part in a graph
            sources, draws, latent = sources.clone(), draws.clone(), latent.clone()
        actions = actions.nan_to_num(0.0).clamp(-1, 1)
        if self.editor:
            delta, edit = self.editor.edit(actions, self.streams, self.last)
        else:
            delta, edit = self.perturbation(actions, self.streams, latent), None
        moved = self.shell.project(latent + delta, self.world.latents[sources])
        return Transition(self.world, self.shell, sources, draws, latent, moved, edit)

    @torch.inference_mode()
    def step_tensor(self, actions: Tensor, worlds: Tensor | None = None) -> StepResult[Transition]:
        """Take ``actions (N, action_size)`` in [-1, 1] in all worlds, or only in ``worlds (N,)`` bool.

        A number that is NaN counts as 0, so that it spoils no other world. What is returned of the other
        worlds means nothing, and their state doesn't change.
        """
        transition = self.imagine(actions)
        rewards, terms = self.reward(transition)
        self.last = transition if worlds is None else transition.merge(worlds, self.last)
        stepped = torch.ones_like(self.elapsed, dtype=torch.bool) if worlds is None else worlds
        self.reward.remember(transition, stepped)
        self._advance(stepped, terms)
        return StepResult(self.observe(), rewards, self.elapsed >= self.horizon, terms, transition)

    def observe(self) -> Tensor:
        """The observations ``(N, observation_size)``, or ``(N, *image_shape)`` uint8."""
        asked = self.reward.asked(self.last)
        if self._pictures is not None:
            shares = self.last.latent.new_zeros(self.num_worlds, 0) if asked is None else asked / MOST_ASKED
            return self._pictures(self.last.image, self._with_time((shares + 1) / 2, self.elapsed))
        seen = [self.observer(self.last.latent), *([] if asked is None else [asked])]
        return self._with_time(torch.cat(seen, 1), self.elapsed)

    def picture(self, world: int = 0) -> Picture:
        """Original, decoded and augmented image, their difference and the heat map: ``(H, W, 3)`` uint8."""
        return panel(self.last, world)
