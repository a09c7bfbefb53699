"""Compiling what a step computes most of, for devices where that is worth the minute it takes."""

from __future__ import annotations

import sys
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from detectors.base import inputs_for
from latent_env.chunks import worlds_at_once
from latent_env.worlds.world import World

BACKEND = "inductor"


def compiled(world: World, num_worlds: int) -> World:
    """The same world with its networks compiled for that many worlds; as it is where that doesn't work.

    In that case a line says why. What is compiled can't be pickled.
    """
    try:
        faster = replace(
            world,
            autoencoder=_with_compiled(world.autoencoder, "encode", "decode"),
            detector=_with_compiled(world.detector, "forward", "last_layer_input"),
            reward_ensemble=tuple(
                _with_compiled(member, "forward", "last_layer_input") for member in world.reward_ensemble
            ),
        )
        _try_out(faster, min(num_worlds, worlds_at_once(world.autoencoder.size, world.device)))
    except Exception as error:  # whatever a compiler stumbles over, stepping goes on without it
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        print(f"compiled=True: networks can't be compiled here, steps go without ({reason})", file=sys.stderr)
        return world
    return faster


def _with_compiled(module: Any, *methods: str) -> Any:
    """A shallow copy of a module, with the same parameters, some of whose ``methods`` are compiled."""
    other = copy(module)
    for name in methods:
        method = getattr(module, name, None)
        if method is not None:
            # Steps have fixed shapes: what is compiled for them alone is faster.
            object.__setattr__(other, name, torch.compile(method, backend=BACKEND, dynamic=False))
    return other


@torch.inference_mode()
def _try_out(world: World, num_worlds: int) -> None:
    """Let the networks see what a step shows them; now, so that the first step doesn't take a minute."""
    rows = torch.arange(num_worlds, device=world.device) % len(world.latents)
    latents = world.latents[rows]
    with world.autocast():
        images = world.autoencoder.decode(latents).float()
        again = world.autoencoder.encode(images)
        seen: tuple[Tensor, ...] = (latents,)
        if not world.reads_latents:
            seen = (images, world.autoencoder.decode(again).float(), again.float())
        for detector in (world.detector, *world.reward_ensemble):
            detector(*inputs_for(detector.input, seen))
