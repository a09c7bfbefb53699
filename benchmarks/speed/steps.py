"""A step of N worlds by each interface, against the networks alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from agents.sb3_vec_env import LatentVecEnv
from benchmarks.speed.timing import Rates, Work, in_turns
from latent_env.chunks import worlds_at_once
from latent_env.dynamics import Dynamics
from latent_env.settings import Settings

RAW, RAW_WHOLE, TENSOR, VECTOR, VEC = "networks", "networks, one batch", "step_tensor", "VectorEnv", "VecEnv"


def make_dynamics(world: str, num_worlds: int, device: str) -> Dynamics:
    """The environment's default dynamics, just reset."""
    dynamics = Settings().load(world, device, num_worlds)
    dynamics.reset_tensor(seeds=torch.arange(num_worlds, device=dynamics.world.device))
    return dynamics


def make_single(world: str, device: str, threads: int) -> gym.Env[Any, Any]:
    """An environment of one world."""
    torch.set_num_threads(threads)
    return gym.make("latent_env:LatentAug-v0", artifacts=world, device=device)


def networks(dynamics: Dynamics, at_once: int) -> Callable[[], None]:
    """The passes through frozen networks that the default reward can't do without, and nothing else.

    The new latent is decoded and encoded again (realism); the image is reconstructed and scored (boundary).
    """
    world, latent = dynamics.world, dynamics.last.latent.clone()

    @torch.inference_mode()
    def work() -> None:
        for part in latent.split(at_once):
            image = world.autoencoder.decode(part)
            world.autoencoder.encode(image)
            world.detector(image, world.autoencoder(image))

    return work


def counted(num_worlds: int, work: Callable[[], object]) -> Work:
    """``work`` on so many worlds, with their number as its result."""

    def piece() -> int:
        work()
        return num_worlds

    return piece


def interfaces(world: str, num_worlds: int, device: str) -> dict[str, Work]:
    """All ways to step ``num_worlds`` worlds with random actions, resets at the ends of episodes included."""
    dynamics = make_dynamics(world, num_worlds, device)
    shape = (num_worlds, dynamics.perturbation.action_size)
    arrays = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    actions = torch.from_numpy(arrays).to(dynamics.world.device)
    some = worlds_at_once(dynamics.world.autoencoder.size, dynamics.world.device)
    lengths = itertools.cycle(range(1, dynamics.horizon + 1))

    def step_tensor() -> None:
        dynamics.step_tensor(actions)
        if next(lengths) == dynamics.horizon:  # whoever steps tensors knows how long episodes are
            dynamics.reset_tensor()

    mode = AutoresetMode.SAME_STEP
    batch = gym.make_vec("LatentAug-v0", num_worlds, artifacts=world, device=device, autoreset_mode=mode)
    batch.reset(seed=0)
    vec = LatentVecEnv(make_dynamics(world, num_worlds, device), seed=0)
    vec.reset()
    ways: dict[str, Callable[[], object]] = {RAW: networks(dynamics, some)}
    if some < num_worlds:
        ways[RAW_WHOLE] = networks(dynamics, num_worlds)
    ways |= {TENSOR: step_tensor, VECTOR: lambda: batch.step(arrays), VEC: lambda: vec.step(arrays)}
    return {name: counted(num_worlds, work) for name, work in ways.items()}


def measure(world: str, num_worlds: int, device: str, repeats: int, seconds: float) -> Rates:
    """World steps a second by each interface."""
    ways = interfaces(world, num_worlds, device)
    rates = dict(in_turns(ways, repeats, seconds, f"{world}, {num_worlds} worlds"))
    whole = rates.pop(RAW_WHOLE, None)
    if whole is not None:  # the networks alone count in whichever way they are faster
        rates[RAW] = [max(pair) for pair in zip(rates[RAW], whole, strict=True)]
    return rates
