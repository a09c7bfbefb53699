"""One world as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces

from latent_common.errors import UserError
from latent_env.dynamics import Dynamics, Episodes
from latent_env.rendering import Window
from latent_env.settings import Settings

RENDER_MODES = ["rgb_array", "human"]
RENDER_FPS = 4
LARGEST_SEED = 2**63 - 1


def make_spaces(dynamics: Episodes[Any]) -> tuple[spaces.Box, spaces.Box]:
    """The observation and the action space of one world."""
    bound = dynamics.observation_bound
    low = np.full(dynamics.observation_size, -bound, dtype=np.float32)
    high = -low
    shares = dynamics.observation_size - dynamics.observation_shares
    low[shares:], high[shares:] = 0.0, 1.0
    actions = spaces.Box(-1.0, 1.0, (dynamics.perturbation.action_size,), np.float32)
    return spaces.Box(low, high, dtype=np.float32), actions


def check_render_mode(render_mode: str | None) -> None:
    """Complain about a render mode that there isn't."""
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise UserError(f"render_mode={render_mode!r} must be None or one of {RENDER_MODES}")


def first_of(values: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The first world's number of each of ``values (N,)``, as Python has it."""
    return {name: value[0].item() for name, value in values.items()}


def checked_source(options: Mapping[str, Any] | None, count: int) -> int | None:
    """The starting image that ``reset(options={"source": i})`` asks for, if it does."""
    source = (options or {}).get("source")
    if source is None:
        return None
    if not isinstance(source, int | np.integer) or not 0 <= source < count:
        raise UserError(f"options['source']={source!r} must be a whole number from 0 to {count - 1}")
    return int(source)


class LatentEnv(gym.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """One world of any kind: Gymnasium's habits over a batch of one; its subclasses are the manuals."""

    metadata = dict(render_modes=RENDER_MODES, render_fps=RENDER_FPS)  # noqa: C408, RUF012

    def __init__(self, dynamics: Episodes[Any], title: str, render_mode: str | None) -> None:
        self.dynamics, self.render_mode = dynamics, render_mode
        observation_space, action_space = make_spaces(dynamics)
        self.observation_space = cast("spaces.Space[npt.NDArray[np.float32]]", observation_space)
        self.action_space = cast("spaces.Space[npt.NDArray[np.float32]]", action_space)
        self._title, self._seeded = title, False
        self._window: Window | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Start an episode; ``options={"source": i}`` makes it one of image ``i``."""
        super().reset(seed=seed)
        dynamics = self.dynamics
        source = checked_source(options, len(dynamics.world.images))
        if seed is None and not self._seeded:
            seed = int(self.np_random.integers(LARGEST_SEED))
        self._seeded = True
        like = dynamics.elapsed
        observation = dynamics.reset_tensor(
            seeds=None if seed is None else torch.full_like(like, seed & LARGEST_SEED),
            sources=None if source is None else torch.full_like(like, source),
        )
        if self.render_mode == "human":
            self.render()
        return observation[0].cpu().numpy(), first_of(dynamics.start_facts())

    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take ``action (k,)``."""
        dynamics = self.dynamics
        if not self._seeded:
            raise gym.error.ResetNeeded("call env.reset() before env.step()")
        result = dynamics.step_tensor(as_actions(action, dynamics, (dynamics.perturbation.action_size,)))
        info = {**first_of(dynamics.facts()), "reward_terms": first_of(result.reward_terms)}
        if self.render_mode == "human":
            self.render()
        observation = result.observations[0].cpu().numpy()
        return observation, float(result.rewards[0]), bool(result.terminated[0]), False, info

    def render(self) -> npt.NDArray[np.uint8] | None:
        """What happened so far in labelled tiles, ``(H, W, 3)``."""
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


class LatentAugEnv(LatentEnv):
    """An agent changes the latent of a normal image and is paid for what a detector can learn from it.

    ## Description
    A frozen autoencoder holds the latents ``z`` of normal training images. An episode starts from one
    of them. Each action becomes a change Δz; the new latent is pulled back into a shell around the
    start, decoded, and the *difference* to the decoded start is blended into the real image. A
    detector judges the outcome, and the reward says how much the image is worth as training material.
    A detector may also judge the latent itself (a world of pretrained features has such a one): then
    nothing is decoded unless a reward term or a picture asks for it.

    ## Action Space
    ``Box(-1, 1, (k,))``. The perturbation turns it into Δz:

    - ``dense``: one number a latent dimension, times ``max_delta`` (by default so much that full
      strength in all of them reaches as far as the brush does).
    - ``principal``: coefficients of the leading (up to 32) principal directions of normal latents,
      times ``max_delta`` (default 1) standard deviations along each.
    - ``brush`` (spatial latents): ``[row, column, radius, strength, roughness, direction…]`` of a soft
      local stroke; up to 16 direction coefficients. ``max_delta`` is how far the token at the centre
      moves at full strength (by default as far as changes must go to be seen: for half of uniformly
      random strokes to be twice as strong as what decoding gets wrong in normal images).
    - ``copy_paste`` (spatial latents, worlds that bring labelled anomalies): the brush's numbers, and then
      ``[share, example, surroundings, mirrored]``: how much of the change is a graft instead of a stroke
      (nothing up to -0.5, all from 0.5 on), of which anomaly (neighbours are alike), whether only what
      differs from normal images is added (-1) or its tokens replace what was there (1), and how it is
      mirrored (a quarter of the range each: not, left and right, top and bottom, both). Row and column
      say where it comes to lie, the strength how much of it there is. ``max_delta`` is that of the
      strokes. Where the detector reads images, what decoding loses of the anomaly's picture comes along,
      and of the image only its labelled pixels change.
    - ``auto``: ``dense`` where the latent is flat; else ``copy_paste`` where there are labelled anomalies, or
      ``brush``.

    ## Observation Space
    ``Box(-b, b, (d,))``, float32: the latent ``z``, flattened and whitened (a unit is one standard
    deviation of the normal images); ``env.unwrapped.dynamics.world.autoencoder.latent_shape`` is its
    shape before flattening. With ``time_aware=True`` the share of the episode left is appended.

    ## Rewards
    A weighted sum of named terms, each reported before weighting in ``info["reward_terms"]``:

    - ``boundary`` (weight 1): ``4p(1-p)`` of the detector's anomaly probability ``p``: 1 where it is
      undecided.
    - ``novelty`` (0.5): ``1 - exp(-d / inner)``, with ``d`` the distance from the world's last 32
      changes and ``inner`` the shell's inner radius.
    - ``realism`` (0.5): near 1 where ``E(D(z))`` gives ``z`` back as well as on normal images.
    - ``usefulness`` (0): how much better a copy of the detector's last layer tells the world's *trial*
      apart (labelled images that lie beside it) after it has learned the sample; 1 is the most that one
      step of learning could gain, negative is harm.
    - ``resemblance`` (0): how densely the trial's anomalies lie around the sample, by what the detector's
      last layer reads where each is most suspicious and, where masks are known, by how they look; 1 is where
      all of them lie.
    - ``matching`` (0): the same, less how densely the last 512 samples of all worlds lie around it: what
      there is enough of pays nothing.
    - ``coverage`` (0): as ``novelty``, from the last 512 changes of all worlds.

    Where the world brings several *judges*, what depends on the detector is their mean less their
    disagreement.

    Choose with ``reward={"boundary": 1.0, "realism": 0.2}``. A term of your own is a class registered
    with ``latent_env.register_reward``; a name ``"my_module:my_term"`` imports ``my_module`` first.
    The same holds for perturbations and ``latent_env.register_perturbation``.

    ## Starting State
    The latent of a normal image drawn uniformly; ``reset(options={"source": 3})`` names one. It is
    reported as ``info["source"]``.

    ## Episode End
    ``terminated`` after ``horizon`` steps (default 4), always: the horizon is the task's own end.
    Never truncated, unless ``max_episode_steps`` is set lower.

    ## The shell
    ``info["distance"]`` is the largest change of a token (the whole latent, if it is flat) since the
    start. The inner radius is the ``shell_quantile`` quantile (default 0.95) of the distance between
    neighbouring normals, the outer one ``shell_ratio`` times that (by default as far as the brush
    goes, at least 4); no latent leaves it. Within the inner radius a sample counts as a normal
    variation, beyond it as an anomaly if the change shows, and otherwise, as within ``shell_band``
    (default 0.2) on both sides of the radius, as neither.

    ## Arguments
    ``gym.make("LatentAug-v0", artifacts="digits", perturbation="auto", max_delta=None, reward=None,
    horizon=4, time_aware=False, shell_quantile=0.95, shell_ratio=None, shell_band=0.2,
    precision="float32", compiled=False, device="cpu", render_mode=None)``

    - ``artifacts``: ``"digits"`` (8×8 handwritten digits, flat latent), ``"phantom"`` (64×64 CT-like
      slices, spatial latent), or a folder that ``train_detector.py`` or ``train_ppo.py`` filled.
    - ``precision``: of what networks compute, ``"float32"`` or ``"bfloat16"``: faster on a GPU, and on a CPU
      that has instructions for it (AVX-512 BF16, AMX); rewards move by some thousandths.
    - ``compiled``: whether ``torch.compile`` turns the networks of a step into faster ones first, which takes
      a minute. Meant for GPUs; on CPUs it was slower where it was measured. Where it fails, a line says so.
    - ``device``: ``"cpu"``, ``"cuda"`` or ``"auto"``, a GPU where there is one (a batch's default).

    ``gym.make_vec("LatentAug-v0", num_envs=64)`` makes a batch that shares one forward pass a step.

    ## Version History
    - v0: first version. The built-in worlds bring no labelled anomalies, so in them ``auto`` means what it
      always did.
    """

    def __init__(
        self,
        artifacts: str = "digits",
        perturbation: str = "auto",
        max_delta: float | None = None,
        reward: Mapping[str, float] | None = None,
        horizon: int = 4,
        time_aware: bool = False,
        shell_quantile: float = 0.95,
        shell_ratio: float | None = None,
        shell_band: float = 0.2,
        precision: str = "float32",
        compiled: bool = False,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode)
        settings = Settings(
            perturbation,
            max_delta,
            reward,
            horizon,
            time_aware,
            shell_quantile,
            shell_ratio,
            shell_band,
            precision,
            compiled,
        )
        super().__init__(settings.load(artifacts, device, num_worlds=1), "LatentAug-v0", render_mode)
        self.dynamics: Dynamics


def as_actions(
    actions: npt.NDArray[np.float32], dynamics: Episodes[Any], shape: tuple[int, ...]
) -> torch.Tensor:
    """NumPy actions of ``shape`` as a tensor ``(num_worlds, k)`` on the worlds' device."""
    array = np.asarray(actions, dtype=np.float32)
    if array.shape != shape:
        raise UserError(f"an action of shape {array.shape} was given, {shape} was expected")
    if not np.isfinite(array).all():
        raise UserError("an action holds NaN or infinity: every number must lie from -1 to 1")
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(dynamics.world.device)
    return tensor.view(dynamics.num_worlds, -1)
