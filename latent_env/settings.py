"""The arguments of the environment, checked, and the dynamics they describe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from latent_common.errors import UserError
from latent_common.machine import resolve_device
from latent_common.precision import FULL, check_precision
from latent_env.compilation import compiled
from latent_env.dynamics import Dynamics
from latent_env.observation import AUTO, check_observation
from latent_env.perturbations.factory import make_perturbation
from latent_env.perturbations.local_edit import BLENDINGS, BOTH, EDITS, OBJECT, PLACES, SOFT
from latent_env.rewards.reward import Reward, default_reward
from latent_env.shell import Shell
from latent_env.worlds.store import SPLITS, TRAIN, load_world
from latent_env.worlds.world import World

LONGEST_EPISODE = 10_000
"""An episode has at most so many steps."""


def check_count(name: str, value: object, most: int | None = None) -> None:
    """Raise a ``UserError`` unless ``value`` is a whole number from 1, to ``most`` if that is given."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name}={value!r} must be a whole number of at least 1")
    if most is not None and value > most:
        raise UserError(f"{name}={value!r} is more than the {most:,} that are possible")


def check_number(name: str, value: object) -> None:
    """Raise a ``UserError`` unless ``value`` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{name}={value!r} must be a finite number")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise a ``UserError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise UserError(f"{name}={value!r} must be one of {', '.join(choices)}")


@dataclass(frozen=True)
class Settings:
    """The arguments of the environment, as JSON values; its manual explains each."""

    perturbation: str = "auto"
    max_delta: float | None = None
    place: str = OBJECT
    blending: str = SOFT
    edits: str = BOTH
    reward: Mapping[str, float] | None = None
    horizon: int = 1
    time_aware: bool = False
    observation: str = AUTO
    shell_quantile: float = 0.95
    shell_ratio: float | None = None
    shell_band: float = 0.2
    precision: str = FULL
    compiled: bool = False
    split: str = TRAIN

    def __post_init__(self) -> None:
        check_count("horizon", self.horizon, LONGEST_EPISODE)
        check_precision(self.precision)
        check_observation(self.observation)
        if not isinstance(self.perturbation, str):
            raise UserError(f"perturbation={self.perturbation!r} must be a name")
        check_choice("place", self.place, PLACES)
        check_choice("blending", self.blending, BLENDINGS)
        check_choice("edits", self.edits, EDITS)
        check_choice("split", self.split, SPLITS)
        for name in ("time_aware", "compiled"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name}={getattr(self, name)!r} must be True or False")
        optional = [name for name in ("max_delta", "shell_ratio") if getattr(self, name) is not None]
        for name in ("shell_quantile", "shell_band", *optional):
            check_number(name, getattr(self, name))
        named = isinstance(self.reward, Mapping) and all(isinstance(key, str) for key in self.reward)
        if self.reward is not None and not named:
            raise UserError(
                f"reward={self.reward!r} must map names of terms to weights, for example {{'boundary': 1.0}}"
            )

    def dynamics(self, world: World, num_worlds: int) -> Dynamics:
        """The dynamics of ``num_worlds`` episodes side by side in ``world``."""
        autoencoder = world.autoencoder
        if world.precision != self.precision:
            world = replace(world, precision=self.precision)
        return Dynamics(
            compiled(world, num_worlds) if self.compiled else world,
            make_perturbation(
                self.perturbation, world, self.max_delta, self.place, self.blending, self.edits
            ),
            Reward(default_reward(world) if self.reward is None else self.reward),
            Shell.around_normals(autoencoder, self.shell_quantile, self.shell_ratio, self.shell_band),
            self.horizon,
            num_worlds,
            self.time_aware,
            self.observation,
        )

    def load(self, artifacts: str, device: str, num_worlds: int) -> Dynamics:
        """The dynamics of ``num_worlds`` episodes in the world ``artifacts``, loaded onto ``device``."""
        return self.dynamics(load_world(artifacts, resolve_device(device), self.split), num_worlds)
