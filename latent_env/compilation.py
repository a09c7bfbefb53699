"""Compiling the networks of a world, which takes a minute and makes steps faster on GPUs."""

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
    """``world`` with its networks compiled for steps of ``num_worlds`` worlds.

    Where compiling fails, a line on standard error says why and ``world`` itself comes back. A compiled world
    can't be pickled.
    """
    try:
        faster = replace(
            world,
            autoencoder=_with_compiled(world.autoencoder, "encode", "decode"),
            backbone=None if world.backbone is None else _with_compiled(world.backbone, "encode"),
            detector=_with_compiled(world.detector, "forward", "last_layer_input"),
            reward_ensemble=tuple(
                _with_compiled(member, "forward", "last_layer_input") for member in world.reward_ensemble
            ),
        )
        _try_out(faster, min(num_worlds, worlds_at_once(world.autoencoder.size, world.device)))
    except Exception as error:  # compilers raise anything; steps go on without them
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        print(f"compiled=True: networks can't be compiled here, steps go without ({reason})", file=sys.stderr)
        return world
    return faster


def _with_compiled(module: Any, *methods: str) -> Any:
    """A shallow copy of a module that shares its parameters and has some ``methods`` compiled."""
    other = copy(module)
    for name in methods:
        method = getattr(module, name, None)
        if method is not None:
            # Steps have fixed shapes, and code for fixed shapes is faster.
            object.__setattr__(other, name, torch.compile(method, backend=BACKEND, dynamic=False))
    return other


@torch.inference_mode()
def _try_out(world: World, num_worlds: int) -> None:
    """Run the networks once on inputs of a step's shapes, which compiles them before the first step."""
    rows = torch.arange(num_worlds, device=world.device) % len(world.latents)
    latents = world.latents[rows]
    with world.autocast():
        images = world.autoencoder.decode(latents).float()
        if world.reads_latents:
            inputs: tuple[Tensor, ...] = (latents,)
        elif world.reads_features:
            inputs = (world.tokens(images).float(),)
        else:
            again = world.autoencoder.encode(images)
            inputs = (images, world.autoencoder.decode(again).float(), again.float())
        for detector in (world.detector, *world.reward_ensemble):
            detector(*inputs_for(detector.input, inputs))
