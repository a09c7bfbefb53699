"""Playing with actions: one step of a run's own environment, and all that is known of it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detectors.base import Detection
from detectors.blocks.tokens import at_size
from latent_common.machine import resolve_device
from latent_env.dynamics import Dynamics
from latent_env.perturbations.base import Coordinate, coordinates_of
from latent_env.prediction.detector import AnomalyDetector
from latent_env.prediction.pixels import read_pixels
from latent_env.rendering import Picture, heat, outlined, tile_side, to_rgb
from latent_env.rendering.tiles import resized
from latent_env.shell import ANOMALY, NORMAL, UNDECIDED, Shell
from latent_env.transition import Transition
from latent_env.worlds.store import load_world
from latent_env.worlds.world import World
from stages.app.environment import Environment, read_environment
from stages.augmentation.pictures.sheets import BRIGHTER
from stages.predict.pictures import overlaid

SEED = 0
"""Every step begins an episode with this seed, so that the same action does the same twice."""

LABELS = {
    NORMAL: ("a normal variation", ""),
    ANOMALY: ("an anomaly", ""),
    UNDECIDED: ("undecided", ": too strong for a normal variation, too weak or too faint for an anomaly"),
}
"""What samples are called, by their label, and why."""

Choice = float | str
"""What a person gives for a number of an action: a degree, or one of its choices."""


class Tile(NamedTuple):
    """A picture with what stands below it."""

    caption: str
    picture: Picture


class Term(NamedTuple):
    """One term of the reward."""

    name: str
    weight: float
    value: float
    """Before weighting."""


class Verdict(NamedTuple):
    """What the detector says of an image."""

    score: float
    """From 0 to 1."""
    is_anomaly: bool


@dataclass(frozen=True)
class Played:
    """What one action made of an image."""

    tiles: list[Tile]
    label: int
    """What the sample would be to a detector that learns from it."""
    distance: float
    """How far the latent moved, by the shell's measure."""
    shell: Shell
    before: Verdict
    after: Verdict
    reward: float
    terms: list[Term]


@dataclass(frozen=True, eq=False)
class Playground:
    """The environment that a run's agent acted in, for one action at a time.

    :param detector: what says when a score is an anomaly; without, that is a probability above .5.
    """

    environment: Environment
    world: World
    dynamics: Dynamics
    detector: AnomalyDetector | None
    _alone: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, folder: Path, device: str, detector: AnomalyDetector | None) -> Playground:
        """The environment of the run in ``folder``.

        :raises UserError: if the folder holds no world, or its environment can't be made.
        """
        environment = read_environment(folder)
        world = replace(load_world(str(folder), resolve_device(device)), decodes_all=False)
        playground = cls(environment, world, environment.dynamics(world), detector)
        playground.play(0, playground.nothing)  # what can't work together is told here
        return playground

    def with_image(self, file: Path) -> Playground:
        """A playground with one more image to start from, the last: that in ``file``.

        :raises UserError: if it can't be read.
        """
        autoencoder = self.world.autoencoder
        pixels = read_pixels(file, autoencoder.size, autoencoder.channels, file.name).pixels
        world = self.world.with_start(torch.from_numpy(np.array(pixels)))
        return Playground(self.environment, world, self.environment.dynamics(world), self.detector)

    @property
    def images(self) -> int:
        """How many images there are to start from."""
        return len(self.world.images)

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """What each number of an action stands for."""
        return coordinates_of(self.dynamics.perturbation)

    @property
    def nothing(self) -> list[float]:
        """The action that changes nothing."""
        found: list[float] = self.dynamics.perturbation.null_action.tolist()
        return found

    def random(self, seed: int) -> list[float]:
        """An action of random numbers."""
        drawn: list[float] = np.random.default_rng(seed).uniform(-1, 1, len(self.nothing)).tolist()
        return drawn

    def play(self, source: int, action: Sequence[float]) -> Played:
        """Take ``action`` on the image number ``source``: the first step of an episode.

        :raises UserError: if a term of the reward fails.
        """
        device = self.world.device
        with self._alone, torch.inference_mode():
            seeds = torch.tensor([SEED], device=device)
            self.dynamics.reset_tensor(seeds=seeds, sources=torch.tensor([source], device=device))
            start = self.dynamics.last
            result = self.dynamics.step_tensor(torch.tensor([list(action)], device=device).float())
            return self._seen(start, result.transition, float(result.rewards[0]), result.reward_terms)

    def _seen(self, start: Transition, step: Transition, reward: float, terms: dict[str, Tensor]) -> Played:
        weights = self.dynamics.reward.weights
        before, map_before = self._judged(start.detection, step)
        after, map_after = self._judged(step.detection, step)
        original, made = to_rgb(step.start_image[0]), to_rgb(step.image[0])
        side = tile_side(original.shape[0])
        change = (step.image - step.start_image).abs().mean(1)[0]
        tiles = [
            Tile("original", resized(original, side)),
            Tile("augmented", resized(made, side)),
            Tile("augmented, outlined", outlined(made, step.mask[0, 0].cpu().numpy(), side)),
            Tile(f"difference, {BRIGHTER} times as bright", resized(heat(change * BRIGHTER), side)),
            Tile("detector before", _with_map(original, map_before, side)),
            Tile("detector after", _with_map(made, map_after, side)),
        ]
        return Played(
            tiles=tiles,
            label=int(step.label[0]),
            distance=float(step.distance[0]),
            shell=step.shell,
            before=before,
            after=after,
            reward=reward,
            terms=[Term(name, weights[name], float(value[0])) for name, value in terms.items()],
        )

    def _judged(self, detection: Detection, step: Transition) -> tuple[Verdict, NDArray[np.float32]]:
        """Verdict and map ``(size, size)``, from 0 to 1."""
        raw = float(detection.score[0])
        drawn = at_size(detection.map, step.start_image.shape[-1])[0, 0]
        if self.detector is None:
            score = float(detection.score[0].sigmoid())
            return Verdict(score, score > 0.5), drawn.sigmoid().cpu().numpy()
        decision, threshold = self.detector.decision, self.detector.threshold
        score = float(decision.scaled([raw], threshold)[0])
        return Verdict(score, raw > threshold.score), decision.scaled_maps(drawn.cpu().numpy(), threshold)


def numbers(coordinates: Sequence[Coordinate], given: Sequence[Choice]) -> list[float]:
    """The action that choices and degrees stand for: a choice is the middle of its part of the range."""
    return [_number(coordinate, value) for coordinate, value in zip(coordinates, given, strict=True)]


def _number(coordinate: Coordinate, value: Choice) -> float:
    if isinstance(value, str):
        return (2 * coordinate.choices.index(value) + 1) / len(coordinate.choices) - 1
    return float(value)


def shown(coordinates: Sequence[Coordinate], action: Sequence[float]) -> list[Choice]:
    """The choices and degrees that an action stands for."""
    return [_shown(coordinate, number) for coordinate, number in zip(coordinates, action, strict=True)]


def _shown(coordinate: Coordinate, number: float) -> Choice:
    if not coordinate.choices:
        return round(number, 2)
    count = len(coordinate.choices)
    return coordinate.choices[min(int((number + 1) / 2 * count), count - 1)]


def _with_map(picture: Picture, drawn: NDArray[np.float32], side: int) -> Picture:
    """A picture with a map laid over it, at ``side`` pixels."""
    return np.asarray(overlaid(Image.fromarray(resized(picture, side)), drawn, (side, side)))
