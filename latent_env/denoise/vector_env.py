"""``LatentDenoise-v0``: a batch of worlds as a Gymnasium vector environment."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from gymnasium.vector import AutoresetMode

from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.denoise.settings import DenoiseSettings
from latent_env.vector_env import LatentVectorEnv


class LatentDenoiseVectorEnv(LatentVectorEnv):
    """``num_envs`` worlds of ``LatentDenoise-v0``; :class:`latent_env.LatentDenoiseEnv` has the manual."""

    def __init__(
        self,
        num_envs: int = 1,
        artifacts: str = "digits",
        space: str = "latent",
        conditional: bool = True,
        reward: Mapping[str, float] | None = None,
        schedule: str = "cosine",
        start: str = "full",
        threshold: float | None = 0.8,
        corridor: float = 0.5,
        horizon: int = 8,
        max_delta: float | None = None,
        time_aware: bool = False,
        device: str = "auto",
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
    ) -> None:
        settings = DenoiseSettings(
            space,
            conditional,
            reward,
            schedule,
            start,
            threshold,
            corridor,
            horizon,
            max_delta,
            time_aware,
        )
        super().__init__(
            partial(settings.load, artifacts, device),
            num_envs,
            render_mode,
            autoreset_mode,
            max_episode_steps,
        )
        self.dynamics: DenoiseDynamics
