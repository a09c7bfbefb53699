"""A step of N worlds through every door, against the networks alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from agents.sb3_vec_env import LatentVecEnv
from benchmarks.speed.timing import Rates, Work, in_turns
from latent_env.chunks import worlds_at_once
from latent_env.dynamics import Dynamics
from latent_env.settings import Settings

RAW, RAW_WHOLE, TENSOR, VECTOR, VEC = "networks", "networks, one batch", "step_tensor", "VectorEnv", "VecEnv"
SYNC, DUMMY, SUBPROC = "SyncVectorEnv", "DummyVecEnv", "SubprocVecEnv"

MOST_SINGLES, MOST_PROCESSES = 64, 16
"""Beyond so many worlds nobody would step them one by one, or in a process each."""


def made(world: str, num_worlds: int, device: str) -> Dynamics:
    """The environment's default dynamics, just reset."""
    dynamics = Settings().load(world, device, num_worlds)
    dynamics.reset_tensor(seeds=torch.arange(num_worlds, device=dynamics.world.device))
    return dynamics


def single(world: str, device: str, threads: int) -> gym.Env[Any, Any]:
    """One world by itself, maybe in a process of its own."""
    torch.set_num_threads(threads)
    return gym.make("latent_env:LatentAug-v0", artifacts=world, device=device)


def networks(dynamics: Dynamics, at_once: int) -> Callable[[], None]:
    """The passes through frozen networks that the default reward can't do without, and nothing else.

    The new latent is decoded and encoded again (realism); the image is reconstructed and judged (boundary).
    """
    world, latent = dynamics.world, dynamics.last.latent.clone()

    @torch.inference_mode()
    def work() -> None:
        for part in latent.split(at_once):
            image = world.autoencoder.decode(part)
            world.autoencoder.encode(image)
            world.detector(image, world.autoencoder(image))

    return work


def counting(num_worlds: int, work: Callable[[], object]) -> Work:
    """``work`` on so many worlds, as the timing wants it."""

    def counted() -> int:
        work()
        return num_worlds

    return counted


@contextmanager
def doors(world: str, num_worlds: int, device: str, singles: bool) -> Iterator[dict[str, Work]]:
    """Every way to step ``num_worlds`` worlds with random actions, resets at episodes' ends included."""
    dynamics = made(world, num_worlds, device)
    rng = np.random.default_rng(0)
    shape = (num_worlds, dynamics.perturbation.action_size)
    arrays = rng.uniform(-1, 1, shape).astype(np.float32)
    actions = torch.from_numpy(arrays).to(dynamics.world.device)
    some = worlds_at_once(dynamics.world.autoencoder.size, dynamics.world.device)

    lengths = itertools.cycle(range(1, dynamics.horizon + 1))

    def step_tensor() -> None:
        dynamics.step_tensor(actions)
        if next(lengths) == dynamics.horizon:  # as long as episodes are, whoever steps knows it
            dynamics.reset_tensor()

    ways: dict[str, Callable[[], object]] = {RAW: networks(dynamics, some)}
    if some < num_worlds:
        ways[RAW_WHOLE] = networks(dynamics, num_worlds)
    ways[TENSOR] = step_tensor
    batch = gym.make_vec(
        "LatentAug-v0",
        num_worlds,
        artifacts=world,
        device=device,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    batch.reset(seed=0)
    ways[VECTOR] = lambda: batch.step(arrays)
    vec = LatentVecEnv(made(world, num_worlds, device), seed=0)
    vec.reset()
    ways[VEC] = lambda: vec.step(arrays)
    opened: list[SyncVectorEnv | DummyVecEnv | SubprocVecEnv] = []
    if singles and num_worlds <= MOST_SINGLES:
        makers: list[Any] = [partial(single, world, device, torch.get_num_threads())] * num_worlds
        sync = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        sync.reset(seed=0)
        ways[SYNC] = lambda: sync.step(arrays)
        dummy = DummyVecEnv(makers)
        dummy.reset()
        ways[DUMMY] = lambda: dummy.step(arrays)
        opened += [sync, dummy]
        if num_worlds <= MOST_PROCESSES:
            processes = SubprocVecEnv(makers)
            processes.reset()
            ways[SUBPROC] = lambda: processes.step(arrays)
            opened.append(processes)
    try:
        yield {name: counting(num_worlds, work) for name, work in ways.items()}
    finally:
        for env in opened:
            env.close()


def measure(world: str, num_worlds: int, device: str, repeats: int, seconds: float, singles: bool) -> Rates:
    """World steps a second through every door."""
    with doors(world, num_worlds, device, singles) as ways:
        rates = dict(in_turns(ways, repeats, seconds, f"{world}, {num_worlds} worlds"))
    whole = rates.pop(RAW_WHOLE, None)
    if whole is not None:  # the yardstick is whichever way the networks alone are faster
        rates[RAW] = [max(pair) for pair in zip(rates[RAW], whole, strict=True)]
    return rates
