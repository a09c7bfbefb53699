"""``LatentDenoise-v0``: a batch of worlds as a Gymnasium vector environment."""

from __future__ import annotations

from functools import partial
from typing import Any

from gymnasium.vector import AutoresetMode, VectorEnv

from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.denoise.settings import DenoiseSettings
from latent_env.vector_env import Floats, LatentVectorEnv


# Some libraries tell environments by their direct bases, so Gymnasium's class is one of them.
class LatentDenoiseVectorEnv(LatentVectorEnv, VectorEnv[Floats, Floats, Any]):
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
