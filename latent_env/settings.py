"""The arguments of the environment, checked, and the dynamics they describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from detectors.errors import UserError
from latent_env.dynamics import Dynamics
from latent_env.perturbations import make_perturbation
from latent_env.rewards import DEFAULT_REWARD, Reward
from latent_env.shell import Shell
from latent_env.worlds import World, load_world, resolve_device


@dataclass(frozen=True)
class Settings:
    """Everything but the number of worlds, as JSON values; the environment's manual explains each."""

    perturbation: str = "auto"
    max_delta: float | None = None
    reward: Mapping[str, float] | None = None
    horizon: int = 4
    time_aware: bool = False
    shell_quantile: float = 0.95
    shell_ratio: float = 4.0
    shell_band: float = 0.2

    def __post_init__(self) -> None:
        if isinstance(self.horizon, bool) or not isinstance(self.horizon, int) or self.horizon < 1:
            raise UserError(f"horizon={self.horizon!r} must be a whole number of at least 1")

    def dynamics(self, world: World, num_worlds: int) -> Dynamics:
        """The batched dynamics of ``num_worlds`` worlds made of the parts in ``world``."""
        if num_worlds < 1:
            raise UserError(f"the number of worlds must be at least 1, not {num_worlds}")
        autoencoder = world.autoencoder
        return Dynamics(
            world,
            make_perturbation(self.perturbation, autoencoder, self.max_delta),
            Reward(DEFAULT_REWARD if self.reward is None else self.reward),
            Shell.around_normals(autoencoder, self.shell_quantile, self.shell_ratio, self.shell_band),
            self.horizon,
            num_worlds,
            self.time_aware,
        )

    def load(self, artifacts: str, device: str, num_worlds: int) -> Dynamics:
        """The same, with the parts loaded from ``artifacts`` onto ``device``."""
        return self.dynamics(load_world(artifacts, resolve_device(device)), num_worlds)
