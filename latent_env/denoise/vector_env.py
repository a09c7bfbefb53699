"""``LatentDenoise-v0``: a batch of worlds as a Gymnasium vector environment."""

from __future__ import annotations

from functools import partial
from typing import Any

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
        *,
        device: str = "auto",
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **settings: Any,
    ) -> None:
        load = partial(DenoiseSettings(**settings).load, artifacts, device)
        super().__init__(load, num_envs, render_mode, autoreset_mode, max_episode_steps)
        self.dynamics: DenoiseDynamics
