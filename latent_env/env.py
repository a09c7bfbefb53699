"""One world as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from latent_common.errors import UserError
from latent_env.dynamics import Dynamics, Episodes
from latent_env.rendering import Window, has_screen
from latent_env.reset_options import LARGEST_SEED, check_seed, checked_start
from latent_env.settings import Settings

RENDER_MODES = ["rgb_array", "human"]
RENDER_FPS = 4


def make_spaces(dynamics: Episodes[Any]) -> tuple[spaces.Box, spaces.Box]:
    """The observation and the action space of one world."""
    actions = spaces.Box(-1.0, 1.0, (dynamics.perturbation.action_size,), np.float32)
    if dynamics.image_shape:
        return spaces.Box(0, 255, dynamics.image_shape, np.uint8), actions
    low = np.full(dynamics.observation_size, -dynamics.observation_bound, dtype=np.float32)
    high = -low
    shares = dynamics.observation_size - dynamics.observation_shares
    low[shares:], high[shares:] = 0.0, 1.0
    return spaces.Box(low, high, dtype=np.float32), actions


def check_render_mode(render_mode: str | None) -> None:
    """Raise a ``UserError`` for an unknown render mode."""
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise UserError(f"render_mode={render_mode!r} must be None or one of {RENDER_MODES}")


def first_of(values: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The first world's number of each of ``values (N,)``, as a Python number."""
    return {name: value[0].item() for name, value in values.items()}


class LatentEnv(gym.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """One world of any kind of episode, as Gymnasium expects it; its subclasses have the manuals."""

    metadata = dict(render_modes=RENDER_MODES, render_fps=RENDER_FPS)  # noqa: C408, RUF012

    def __init__(self, dynamics: Episodes[Any], title: str, render_mode: str | None) -> None:
        self.dynamics, self.render_mode = dynamics, render_mode
        seen, actions = make_spaces(dynamics)
        self.observation_space = cast("spaces.Space[npt.NDArray[np.float32]]", seen)
        self.action_space = cast("spaces.Space[npt.NDArray[np.float32]]", actions)
        self._title, self._seeded, self._over = title, False, False
        self._window, self._spec = cast("Window | None", None), cast("EnvSpec | None", None)
        if not has_screen():  # gym.make reads the class's modes, so that "human" is refused in our words
            self.metadata = self.metadata | {"render_modes": RENDER_MODES[:1]}

    @property
    def spec(self) -> EnvSpec | None:
        """How the environment was made, with the horizon as the most steps an episode has."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = spec and replace(spec, max_episode_steps=self.dynamics.horizon)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Start an episode, from image ``i`` with ``options={"source": i}``.

        :returns: the observation, and ``info``.
        """
        among = checked_start(options, self.dynamics)
        if seed is not None:
            check_seed(seed)
        super().reset(seed=seed)
        dynamics = self.dynamics
        if seed is None and not self._seeded:
            seed = int(self.np_random.integers(LARGEST_SEED))
        self._seeded, self._over = True, False
        seeds = None if seed is None else torch.full_like(dynamics.elapsed, seed)
        observations = dynamics.reset_tensor(seeds=seeds, among=among)
        if self.render_mode == "human":
            self.render()
        return observations[0].cpu().numpy(), first_of(dynamics.info())

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take ``action (k,)``, numbers from -1 to 1.

        :returns: observation, reward, ``terminated``, ``truncated`` (never), ``info``.
        """
        dynamics = self.dynamics
        if not self._seeded:
            raise gym.error.ResetNeeded("call env.reset() before env.step()")
        if self._over:
            raise gym.error.ResetNeeded("the episode is over: call env.reset() before env.step()")
        result = dynamics.step_tensor(as_actions(action, dynamics, (dynamics.perturbation.action_size,)))
        if self.render_mode == "human":
            self.render()
        seen, self._over = result.observations[0].cpu().numpy(), bool(result.terminated[0])
        return seen, float(result.rewards[0]), self._over, False, first_of(dynamics.info())

    def render(self) -> npt.NDArray[np.uint8] | None:
        """What happened so far in labelled tiles: ``(H, W, 3)`` uint8, or None where a window shows it."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render mode: gym.make(…, render_mode='rgb_array')")
            return None
        picture = self.dynamics.picture()
        if self.render_mode == "rgb_array":
            return picture
        if self._window is None:
            self._window = Window(self._title)
        self._window.show(picture)
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None


# Some libraries tell environments by their direct bases, so Gymnasium's class is one of them.
class LatentAugEnv(LatentEnv, gym.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """An agent changes the latent of a normal image, and is paid for what the new image teaches a detector.

    ## Description
    A frozen autoencoder turns normal training images into latents ``z``. An episode starts from the latent of
    one image. Each action becomes a change Δz. The new latent is pulled back into a shell around the start
    and decoded; its difference from the decoded start is added to the real image where it can be seen. A
    detector scores the new image, and the reward says how much the image is worth as training data.

    Some detectors read the latent itself, such as those of worlds with pretrained features. Then nothing is
    decoded unless a reward term or a picture needs it.

    ## Action Space
    ``Box(-1, 1, (k,))``. The perturbation turns it into Δz:

    - ``dense``: one number a latent dimension, times ``max_delta``. By default full strength in all
      dimensions goes as far as a change must go to be seen.
    - ``principal``: coefficients of the leading principal directions (at most 32) of normal latents, times
      ``max_delta`` (default 1) standard deviations along each.
    - ``brush`` (spatial latents): a soft local stroke, ``[row, column, radius, strength, roughness,
      direction…]`` with up to 16 direction coefficients. ``max_delta`` is how far the token at the centre
      moves at full strength. By default that is as far as changes must go to be seen: half of uniformly
      random strokes are then twice as strong as the error of decoding normal images.
    - ``copy_paste`` (spatial latents, worlds with labelled anomalies): the brush's numbers, then ``[share,
      anomaly, replace, mirroring]``. ``share`` is how much of the change is a copied anomaly instead of a
      stroke (none up to -0.5, all from 0.5 on), ``anomaly`` which one (neighbours are similar), ``replace``
      whether only its difference from normal images is added (-1) or its tokens replace what was there (1),
      and ``mirroring`` how it is mirrored (a quarter of the range each: not, left and right, top and bottom,
      both). Row and column say where it is copied to, the strength scales it; ``max_delta`` is that of the
      strokes. Where the detector reads images, the detail that decoding loses is copied too, and only the
      labelled pixels change.
    - ``local_edit`` (spatial latents, detectors that read images): strokes that change brightness, colour or
      texture, ``[row, column, radius, strength, roughness, turn, stretch, direction…]``, and where the world
      has labelled anomalies ``[…, paste, anomaly, replace, mirrored, roam]``. With ``paste`` from 0 on, an
      anomaly is pasted in pixels instead, and encoded: turned by -180 to 180 degrees, by ``stretch`` half to
      twice as large, 0 to 1.5 times as strong. From 0 on, ``mirrored`` mirrors it left and right, and
      ``roam`` puts it at row and column instead of where it is in its own image.
    - ``auto``: ``dense`` for flat latents; for spatial ones ``local_edit`` where the autoencoder is a
      published generator and detectors read images, else ``copy_paste`` where the world has labelled
      anomalies, else ``brush``.

    ``coordinates_of(env.unwrapped.dynamics.perturbation)`` of :mod:`latent_env.perturbations.base` names each
    number of an action, and says what -1 and 1 mean.

    ## Observation Space
    ``Box(-b, b, (d,))``, float32: the latent ``z``, flattened and whitened, so that a unit is one standard
    deviation of normal images. Then follow with the term ``target`` what the episode asks for, up to 64
    numbers from -5 to 5, and with ``time_aware=True`` the share of the episode that is left, from 0 to 1.

    ``observation`` says what is seen instead of the whole latent:

    - ``latent``: all of it; its shape is ``env.unwrapped.dynamics.world.autoencoder.latent_shape``.
    - ``pooled`` (spatial latents): the mean of every square of tokens, channel by channel, of the smallest
      that give at most 512 numbers: 32 channels on a grid of 16×16 become 32×4×4.
    - ``auto``: ``pooled`` where a spatial latent has more than 1024 numbers, else ``latent``.
    - ``image``: ``Box(0, 255, (C, H, W))``, uint8: the augmented image, enlarged to 36 pixels or more a
      side, then a channel filled with each of the other numbers. It tells less than the latent.

    ## Rewards
    A weighted sum of named terms. By default ``target`` alone, with weight 1:

    - ``target``: how close the sample is to one anomaly of the world's reference set: 1 equal, 0 as far as
      the mean of all anomalies is, -1 far off or no anomaly. Every image is asked for one of them, which the
      observation describes. Half is for the look of the changed tokens, half for their place and size.
    - ``usefulness``: how much better a copy of the detector's last layer separates the reference set once it
      has learned the sample. 1 is the most that one step of learning could gain, below 0 is harm.
    - ``boundary``: ``4p(1 − p)`` of the detector's anomaly probability ``p``, which is 1 where the detector
      is undecided.
    - ``realism``: 1 where decoding and encoding gives ``z`` back as well as on normal images, else less.
    - ``episode_novelty``: ``1 − exp(−d / inner)``, with ``d`` the distance of ``z`` from the nearest of the
      episode's start and its last 32 latents, and ``inner`` the shell's inner radius.
    - ``novelty``: likewise, with the world's last 32 changes since the start, of earlier episodes too.
    - ``coverage``: as ``novelty``, with the last 512 changes of all worlds of the batch.
    - ``similarity``: how densely the anomalies of the reference set lie around the sample, in the features of
      the detector's last layer and, where masks are known, by their descriptors in the latent. 1 is where all
      of them coincide with it.
    - ``matching``: ``similarity``, less how densely the last 512 samples of all worlds lie around it, so that
      kinds of anomalies that are there already pay less.

    The reference set are labelled images that no detector was trained on. ``usefulness``, ``similarity`` and
    ``matching`` need one and a detector with a trained last layer, ``target`` one with masks unless latents
    are flat; without that the default is ``{"boundary": 1.0, "episode_novelty": 0.5, "realism": 0.5}``. Where
    the world has a reward ensemble, terms that depend on detectors are their mean less their disagreement.
    ``train_ppo.py`` pays for sets of samples, ``{"matching": 3.0, "coverage": 0.5}``.

    Choose terms with ``reward={"boundary": 1.0, "realism": 0.2}``. A term of your own is a class registered
    with ``latent_env.register_reward``; a name ``"my_module:my_term"`` imports ``my_module`` first. The same
    holds for perturbations and ``latent_env.register_perturbation``.

    ### What a step's pay depends on
    ``target``, ``boundary``, ``realism`` and ``similarity`` depend on the new latent and on the image that
    the episode started from, ``usefulness`` and ``episode_novelty`` on the episode's earlier samples too.
    ``novelty`` remembers earlier episodes of its world, ``coverage`` and ``matching`` those of the batch:
    there the same step pays less the second time, until a reset with a seed.

    ## Starting State
    The latent of a normal image drawn uniformly; ``reset(options={"source": 3})`` names one. What ``target``
    asks for is drawn for every episode, whichever image it starts from.

    ## Episode End
    ``terminated`` after ``horizon`` steps (default 1), always: the horizon is the task's own end. Never
    truncated, unless ``max_episode_steps`` is set lower. ``env.spec.max_episode_steps`` is the horizon; an
    environment made from ``env.spec`` is truncated at its last step too, as Gymnasium's time limit says.

    ## Information
    - ``source``: the index of the image that the episode started from.
    - ``distance``: how far the latent is from its start, as the shell measures it.
    - ``reward_terms/<name>``, such as ``reward_terms/boundary``: every term of the step before weighting.

    Keys and types are the same after a reset and after a step; a reset has distance and terms of 0.

    ## The Shell
    The distance of a latent from its start is the largest change of one token (a flat latent is one token).
    The inner radius is the quantile ``shell_quantile`` (default 0.95) of the distance between neighbouring
    normal latents. The outer radius is ``shell_ratio`` times the inner one (by default as far as the brush
    goes, at least 4), and no latent leaves it. A sample within the inner radius is labelled normal; beyond it
    an anomaly, if the change can be seen. Within the share ``shell_band`` (default 0.2) of the inner radius
    on both sides of it, and where the change can't be seen, it is undecided.

    ## Arguments
    ``gym.make("LatentAug-v0", artifacts="digits", perturbation="auto", max_delta=None, place="object",
    blending="soft", edits="both", reward=None, horizon=1, time_aware=False, observation="auto",
    shell_quantile=0.95, shell_ratio=None, shell_band=0.2, precision="float32", compiled=False, split="train",
    device="cpu", render_mode=None)``

    - ``artifacts``: ``"digits"`` (8×8 handwritten digits, flat latent), ``"phantom"`` (64×64 CT-like slices,
      spatial latent), or a folder that ``train_detector.py`` or ``train_ppo.py`` filled.
    - ``place``: where ``local_edit`` changes images: only on the ``"object"``, to which row and column lead
      if normal images show one in front of a plain background, or ``"anywhere"``.
    - ``blending``: of what it pastes: ``"soft"``, ``"poisson"`` without a seam, or ``"decoded"``.
    - ``edits``: what it does: ``"strokes"``, ``"pastes"`` of labelled anomalies, or ``"both"``.
    - ``precision``: what networks compute with, ``"float32"`` or ``"bfloat16"``, which is faster on GPUs and
      CPUs with AVX-512 BF16 or AMX; rewards change by some thousandths.
    - ``compiled``: whether ``torch.compile`` makes steps faster first: a minute, for GPUs.
    - ``split``: ``"test"`` lets episodes of built-in worlds start from images that nothing learned from.
    - ``device``: ``"cpu"``, ``"cuda"``, or ``"auto"`` for a GPU where there is one (the default of a batch).
    - ``render_mode``: ``"rgb_array"`` or ``"human"``, a window. A picture shows the original, the decoded and
      the augmented image, their difference, and the detector's heat map.

    ``gym.make_vec("LatentAug-v0", num_envs=64)`` makes a batch of worlds with one forward pass a step.

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
        super().__init__(Settings(**settings).load(artifacts, device, 1), "LatentAug-v0", render_mode)
        self.dynamics: Dynamics


def as_actions(
    actions: npt.NDArray[np.float32], dynamics: Episodes[Any], shape: tuple[int, ...]
) -> torch.Tensor:
    """NumPy actions, which must have ``shape``, as a tensor ``(num_worlds, k)`` on the worlds' device."""
    array = np.asarray(actions, dtype=np.float32)
    if array.shape != shape:
        raise UserError(f"an action of shape {array.shape} was given, {shape} was expected")
    if not np.isfinite(array).all():
        raise UserError("an action holds NaN or infinity: every number must lie from -1 to 1")
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(dynamics.world.device)
    return tensor.view(dynamics.num_worlds, -1)
