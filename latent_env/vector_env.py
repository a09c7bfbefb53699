"""A batch of worlds as a Gymnasium vector environment: one forward pass a step for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from latent_common.errors import UserError
from latent_env.dynamics import Dynamics, Episodes
from latent_env.env import RENDER_FPS, RENDER_MODES, as_actions, make_spaces
from latent_env.reset_options import LARGEST_SEED, check_seed, checked_start
from latent_env.settings import Settings, check_count

MOST_WORLDS = 2**20
"""A batch has at most so many worlds."""

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    choices = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]
    try:
        chosen = AutoresetMode(mode)
    except ValueError:
        chosen = None
    if chosen not in choices:
        names = " or ".join(repr(choice.value) for choice in choices)
        raise UserError(f"autoreset_mode={mode!r} must be {names}")
    assert chosen is not None
    return chosen


def batch_info(info: Mapping[str, Any], worlds: Flags) -> dict[str, Any]:
    """Batched values as Gymnasium's vector infos: ``key`` with zeros elsewhere, ``_key`` says where."""
    if not worlds.any():
        return {}
    out: dict[str, Any] = {}
    for key, value in info.items():
        if isinstance(value, Mapping):
            out[key] = batch_info(value, worlds)
        elif value.dtype == object:
            out[key] = value
        else:
            out[key] = np.where(worlds, value, np.zeros((), value.dtype))
        out[f"_{key}"] = worlds.copy()
    return out


def as_arrays(values: Mapping[str, torch.Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Tensors ``(N,)`` as arrays of the types that Gymnasium makes of Python numbers: floats are float64."""
    arrays = {name: value.cpu().numpy() for name, value in values.items()}
    return {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in arrays.items()}


class LatentVectorEnv(VectorEnv[Floats, Floats, Any]):
    """A batch of worlds of any kind of episode, as Gymnasium expects it.

    World ``i`` of a batch reset with seed ``s`` equals a single world reset with seed ``s + i``.
    ``autoreset_mode`` is ``"NextStep"`` (the step after an episode's end resets it) or ``"SameStep"`` (the
    last step resets it, and ``infos["final_obs"]`` and ``infos["final_info"]`` hold what was there before).
    ``reset(options={"reset_mask": mask})`` resets some worlds only. For tensors without a copy use
    ``env.dynamics.reset_tensor()`` and ``step_tensor(actions)``, which don't reset by themselves.
    """

    def __init__(
        self,
        load: Callable[[int], Episodes[Any]],
        num_envs: int,
        render_mode: str | None,
        autoreset_mode: AutoresetMode | str,
        max_episode_steps: int | None,
    ) -> None:
        super().__init__()
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"render_mode={render_mode!r} must be None or 'rgb_array' for a batch of worlds")
        check_count("num_envs", num_envs, MOST_WORLDS)
        if max_episode_steps is not None:
            check_count("max_episode_steps", max_episode_steps)
        self.dynamics = load(num_envs)
        self.num_envs = num_envs
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.max_episode_steps = max_episode_steps
        self.metadata = {
            "render_modes": RENDER_MODES[:1],
            "render_fps": RENDER_FPS,
            "autoreset_mode": self.autoreset_mode,
        }
        self.render_mode = render_mode
        self.single_observation_space, self.single_action_space = make_spaces(self.dynamics)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seeded = False
        self._ended: Flags = np.zeros(num_envs, dtype=np.bool_)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Floats, dict[str, Any]]:
        """Start an episode in every world, or in those of ``options["reset_mask"]``."""
        among = checked_start(options, self.dynamics, "reset_mask")
        mask = self._reset_mask(options)
        seeds = self._seeds(seed)
        like = self.dynamics.elapsed
        if not self._seeded:
            # Without seeds, now or later, worlds must differ from each other.
            drawn = self.np_random.integers(LARGEST_SEED, size=self.num_envs)
            self.dynamics.reset_tensor(seeds=torch.from_numpy(drawn).to(like))
            self._seeded = True
        if seeds is not None:
            # A list may hold None: the random stream of such a world goes on.
            known = np.array([value is not None for value in seeds])
            values = torch.tensor([value or 0 for value in seeds]).to(like)
            self._restart(mask & known, among, values)
            self._restart(mask & ~known, among, None)
        else:
            self._restart(mask, among, None)
        self._ended = self._ended & ~mask
        return self.dynamics.observe().cpu().numpy(), batch_info(as_arrays(self.dynamics.info()), mask)

    def step(self, actions: Floats) -> tuple[Floats, npt.NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """Take ``actions (num_envs, k)``, and reset worlds as the autoreset mode says."""
        dynamics = self.dynamics
        if not self._seeded:
            raise gym.error.ResetNeeded("call reset() before step()")
        batch = as_actions(actions, dynamics, (self.num_envs, dynamics.perturbation.action_size))
        ended = self._ended
        stepped = ~ended  # only worlds in NEXT_STEP mode can have ended in an earlier step
        if ended.all():
            dynamics.reset_tensor()
            self._ended = np.zeros_like(ended)
            nothing = np.zeros_like(ended)
            return (
                dynamics.observe().cpu().numpy(),
                np.zeros(self.num_envs),
                nothing,
                nothing.copy(),
                batch_info(as_arrays(dynamics.info()), ended),
            )
        result = dynamics.step_tensor(batch, None if stepped.all() else self._flags(stepped))
        if ended.any():
            dynamics.reset_tensor(self._flags(ended))
        terminated = result.terminated.cpu().numpy() & stepped
        truncated = np.zeros_like(terminated)
        if self.max_episode_steps is not None:
            truncated = (dynamics.elapsed >= self.max_episode_steps).cpu().numpy() & stepped
        rewards = np.where(stepped, result.rewards.cpu().numpy(), 0).astype(np.float64)
        done = terminated | truncated
        infos: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            infos = self._reset_at_once(done)
        else:
            self._ended = done
        infos.update(batch_info(as_arrays(dynamics.info()), np.ones_like(done)))
        return dynamics.observe().cpu().numpy(), rewards, terminated, truncated, infos

    def render(self) -> tuple[npt.NDArray[np.uint8], ...] | None:
        """One picture ``(H, W, 3)`` uint8 a world."""
        if self.render_mode is None:
            gym.logger.warn("render() needs a render mode: gym.make_vec(…, render_mode='rgb_array')")
            return None
        return tuple(self.dynamics.picture(world) for world in range(self.num_envs))

    def _reset_at_once(self, done: Flags) -> dict[str, Any]:
        """Reset the worlds that are ``done (N,)``, and return what they were as infos."""
        if not done.any():
            return {}
        final = np.full(self.num_envs, None, dtype=object)
        observations = self.dynamics.observe().cpu().numpy()
        for world in np.flatnonzero(done):
            final[world] = observations[world].copy()
        infos = batch_info({"final_obs": final, "final_info": as_arrays(self.dynamics.info())}, done)
        self.dynamics.reset_tensor(None if done.all() else self._flags(done))
        return infos

    def _restart(self, worlds: Flags, among: torch.Tensor | None, seeds: torch.Tensor | None) -> None:
        if worlds.any():
            self.dynamics.reset_tensor(None if worlds.all() else self._flags(worlds), seeds, among=among)

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None] | None:
        if seed is None:
            return None
        if isinstance(seed, int | np.integer):
            check_seed(seed, self.num_envs)
            # Gymnasium's own generator, which batch.np_random_seed reports.
            self._np_random, self._np_random_seed = np_random(int(seed))
            return [int(seed) + world for world in range(self.num_envs)]
        if isinstance(seed, str | bytes) or not isinstance(seed, Sequence | np.ndarray):
            raise UserError(f"seed={seed!r} must be a whole number, or a list of one for each world")
        if len(seed) != self.num_envs:
            raise UserError(f"{len(seed)} seeds were given for num_envs={self.num_envs} worlds")
        for value in seed:
            if value is not None:
                check_seed(value)
        return [None if value is None else int(value) for value in seed]

    def _reset_mask(self, options: dict[str, Any] | None) -> Flags:
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise UserError("options['reset_mask'] must be a NumPy array of bool")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise UserError(f"options['reset_mask'] must have shape ({self.num_envs},) and be true somewhere")
        return mask

    def _flags(self, flags: Flags) -> torch.Tensor:
        return torch.from_numpy(flags).to(self.dynamics.world.device)


# Some libraries tell environments by their direct bases, so Gymnasium's class is one of them.
class LatentAugVectorEnv(LatentVectorEnv, VectorEnv[Floats, Floats, Any]):
    """``num_envs`` worlds of ``LatentAug-v0``; see :class:`latent_env.env.LatentAugEnv` for the manual."""

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
        load = partial(Settings(**settings).load, artifacts, device)
        super().__init__(load, num_envs, render_mode, autoreset_mode, max_episode_steps)
        self.dynamics: Dynamics
