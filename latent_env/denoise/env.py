"""``LatentDenoise-v0``: one world as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from latent_env.denoise.dynamics import DenoiseDynamics
from latent_env.denoise.settings import DenoiseSettings
from latent_env.env import LatentEnv, check_render_mode


# Some libraries tell environments by their direct bases, so Gymnasium's class is one of them.
class LatentDenoiseEnv(LatentEnv, gym.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """An agent turns noise into an image, step by step, and is paid for how clean it gets.

    ## Description
    A forward process adds noise to images until nothing is left of them. An episode starts at its end and
    goes the other way: each action changes the state. A critic, which is a network trained to estimate the
    amount of noise, measures how good the state is and when the image is done. The state is the whitened
    latent of a frozen autoencoder, or the pixels.

    ## Action Space
    ``Box(-1, 1, (d,))``: one number a dimension of the state, times ``max_delta``. By default ``horizon``
    steps at two thirds of full strength reach any image from anywhere in the noise.

    ## Observation Space
    ``Box(-b, b, (d + classes,))``, float32: the state, flattened; with ``conditional=True`` the class that is
    asked for follows as a one-hot, with ``time_aware=True`` the share of the episode that is left.

    ## Rewards
    How much better the state got: a weighted sum of differences of named qualities. So the sum over an
    episode is the quality at its end less the quality at its start, and pure noise has (nearly) none.

    - ``critic`` (weight 1): 1 less the amount of noise that the critic estimates, from 0 to 1; given the
      class, where ``conditional``.
    - ``interpolate`` (0): the position of the state on the forward trajectory of its own image, between the
      two nearest points of it, from 0 (noise) to 1 (the image); -1 where the state is farther than
      ``corridor`` from the line between them, or they are no neighbours. From pure noise no agent can know
      which image that is: use it with ``start="drawn"``.

    Choose with ``reward={"critic": 1.0, "interpolate": 0.5}``.

    ## Starting State
    Noise: ``√(1 − σ²) x + σ ε`` with σ = 1, or, with ``start="drawn"``, at a time drawn uniformly on the
    forward process, whose ``schedule`` is ``"cosine"`` or ``"linear"``. The image ``x`` is drawn uniformly;
    ``reset(options={"source": 3})`` names one, ``reset(options={"class": 2})`` draws one of that class.

    ## Episode End
    ``terminated`` when the critic's quality reaches ``threshold`` (default 0.8; None: never), or after
    ``horizon`` steps (default 8): that is the task's own end too. Never truncated, unless
    ``max_episode_steps`` is set lower. ``env.spec.max_episode_steps`` is the horizon; an environment made
    from ``env.spec`` is truncated at its last step too, as Gymnasium's time limit says.

    ## Information
    - ``source``: the index of the image that the episode's noise was mixed with; ``class``: its class.
    - ``quality``: the critic's.
    - ``reward_terms/<name>``, such as ``reward_terms/critic``: every difference of the step before weighting.

    Keys and types are the same after a reset and after a step; a reset has terms of 0.

    ## Arguments
    ``gym.make("LatentDenoise-v0", artifacts="digits", space="latent", conditional=True, reward=None,
    schedule="cosine", start="full", threshold=0.8, corridor=0.5, horizon=8, max_delta=None,
    time_aware=False, split="train", device="cpu", render_mode=None)``

    - ``artifacts``: ``"digits"`` (8×8 handwritten digits of five classes), or a folder that
      ``train_ppo.py env=latent_denoise`` filled.
    - ``space``: ``"latent"`` or ``"pixel"``; each has a critic of its own.
    - ``split``: ``"test"`` takes images of built-in worlds that nothing learned from.
    - ``device``: ``"cpu"``, ``"cuda"`` or ``"auto"``, a GPU where there is one (a batch's default).

    ``gym.make_vec("LatentDenoise-v0", num_envs=64)`` makes a batch that shares one forward pass a step.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        artifacts: str = "digits",
        *,
        device: str = "cpu",
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        check_render_mode(render_mode)
        super().__init__(
            DenoiseSettings(**settings).load(artifacts, device, 1), "LatentDenoise-v0", render_mode
        )
        self.dynamics: DenoiseDynamics
