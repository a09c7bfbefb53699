"""The arguments of ``LatentDenoise-v0``, checked, and the dynamics they describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from latent_common.errors import UserError
from latent_common.machine import resolve_device
from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.denoise.process import ForwardProcess
from latent_env.denoise.quality import Quality
from latent_env.denoise.spaces import SPACES
from latent_env.denoise.world import DenoiseWorld, load_denoise_world
from latent_env.settings import LONGEST_EPISODE, check_count, check_number
from latent_env.worlds.store import SPLITS, TRAIN

DEFAULT_REWARD: dict[str, float] = {"critic": 1.0}
STARTS = ("full", "drawn")

SLACK = 1.5
"""Full strength at every step goes so many times as far as the default ``max_delta`` has to reach."""

QUANTILE, NOISE_QUANTILE = 0.999, 3.3
"""The default ``max_delta`` has to reach from this quantile of the noise to that of the images' numbers."""


@dataclass(frozen=True)
class DenoiseSettings:
    """The arguments of the environment, as JSON values; its manual explains each."""

    space: str = "latent"
    conditional: bool = True
    reward: Mapping[str, float] | None = None
    schedule: str = "cosine"
    start: str = "full"
    threshold: float | None = 0.8
    corridor: float = 0.5
    horizon: int = 8
    max_delta: float | None = None
    time_aware: bool = False
    split: str = TRAIN

    def __post_init__(self) -> None:
        check_count("horizon", self.horizon, LONGEST_EPISODE)
        for name in ("conditional", "time_aware"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name}={getattr(self, name)!r} must be True or False")
        for name, choices in (("space", SPACES), ("start", STARTS), ("split", SPLITS)):
            if getattr(self, name) not in choices:
                raise UserError(f"{name}={getattr(self, name)!r} is unknown: choose {' or '.join(choices)}")
        optional = [name for name in ("threshold", "max_delta") if getattr(self, name) is not None]
        for name in ("corridor", *optional):
            check_number(name, getattr(self, name))
        for name in ("corridor", "max_delta"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name}={value:g} must be above 0")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise UserError(f"threshold={self.threshold:g} must be above 0 and at most 1, or None for no end")
        named = isinstance(self.reward, Mapping) and all(isinstance(key, str) for key in self.reward)
        if self.reward is not None and not named:
            raise UserError(
                f"reward={self.reward!r} must map names of terms to weights, for example {{'critic': 1.0}}"
            )
        for name, weight in (self.reward or {}).items():
            check_number(f"reward[{name!r}]", weight)
        ForwardProcess(self.schedule)  # which checks its name

    def dynamics(self, world: DenoiseWorld, num_worlds: int) -> DenoiseDynamics:
        """The dynamics of ``num_worlds`` episodes side by side in ``world``."""
        process = ForwardProcess(self.schedule)
        weights = DEFAULT_REWARD if self.reward is None else self.reward
        return DenoiseDynamics(
            world,
            process,
            Quality(weights, world, process, self.corridor),
            default_max_delta(world, self.horizon) if self.max_delta is None else self.max_delta,
            self.horizon,
            num_worlds,
            threshold=self.threshold,
            drawn=self.start == "drawn",
            conditional=self.conditional,
            time_aware=self.time_aware,
        )

    def load(self, artifacts: str, device: str, num_worlds: int) -> DenoiseDynamics:
        """The dynamics of ``num_worlds`` episodes in the world ``artifacts``, loaded onto ``device``."""
        world = load_denoise_world(artifacts, self.space, resolve_device(device), self.split)
        return self.dynamics(world, num_worlds)


def default_max_delta(world: DenoiseWorld, horizon: int) -> float:
    """The ``max_delta`` with which ``horizon`` steps suffice from anywhere in the noise to any image."""
    flat = world.states.flatten().abs()
    largest = flat.kthvalue(max(int(QUANTILE * flat.numel()), 1)).values
    return SLACK * (float(largest) + NOISE_QUANTILE) / horizon
