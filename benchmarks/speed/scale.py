"""How the cost of a step grows with the work: worlds, pixels, latents, and images to start from.

Each point is measured in a fresh process, so that its memory is its own. Networks are untrained ones of the
default architecture: their weights don't matter for what they cost.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch

from detectors.transformer import TransformerDetector
from latent_common.progress import progress_bar
from latent_env.autoencoders import ConvAutoencoder, FrozenAutoencoder
from latent_env.settings import Settings
from latent_env.worlds.world import World

STEPS = 3


@dataclass(frozen=True)
class Point:
    """What one measurement is of."""

    worlds: int = 16
    size: int = 64
    latent_size: int = 4
    images: int = 128


DEFAULT = Point()
SWEEPS: dict[str, list[Any]] = {
    "worlds": [1, 4, 16, 64, 256],
    "size": [32, 64, 128, 256, 512],
    "latent_size": [2, 4, 16, 64],
    "images": [128, 1024, 8192],
}


def world_of(point: Point) -> World:
    """An untrained world."""
    model = ConvAutoencoder(1, point.size, "spatial", point.latent_size)
    images = torch.randint(0, 256, (point.images, 1, point.size, point.size), dtype=torch.uint8)
    frozen = FrozenAutoencoder(model).calibrate(images[:64])
    detector = TransformerDetector(1, point.size).eval().requires_grad_(False)
    return World.build(frozen, detector, images, torch.device("cpu"))


def measured(point: Point) -> dict[str, float]:
    """Milliseconds a world and step, seconds to the end of the first, megabytes on top of the imports."""
    torch.set_num_threads(1)
    empty = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = perf_counter()
    dynamics = Settings().dynamics(world_of(point), point.worlds)
    dynamics.reset_tensor(seeds=torch.arange(point.worlds))
    actions = torch.rand(point.worlds, dynamics.perturbation.action_size)
    dynamics.step_tensor(actions)
    ready = perf_counter()
    taken = []
    for _ in range(STEPS):
        since = perf_counter()
        dynamics.step_tensor(actions)
        taken.append(perf_counter() - since)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "ms_a_world": 1000 * min(taken) / point.worlds,
        "ready_s": ready - began,
        "megabytes": (most - empty) / 1024,
    }


def measured_apart(point: Point) -> dict[str, float]:
    """Measure a point in a process of its own."""
    code = f"from benchmarks.speed.scale import *; print(json.dumps(measured({point!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure() -> dict[str, dict[str, dict[str, float]]]:
    """All measurements, by what grows and how much of it there is."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    with progress_bar("scale", sum(map(len, SWEEPS.values()))) as bar:
        for what, amounts in SWEEPS.items():
            found[what] = {}
            for amount in amounts:
                found[what][str(amount)] = measured_apart(replace(DEFAULT, **{what: amount}))
                bar.update()
    return found


def as_text(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """All measurements as lines to read."""
    lines = [f"scale (otherwise {DEFAULT.worlds} worlds of {DEFAULT.size} pixels)"]
    for what, amounts in found.items():
        for amount, values in amounts.items():
            cost = f"{values['ms_a_world']:>10.2f} ms a world and step"
            lines.append(f"  {what:<14}{amount:>6}{cost}{values['megabytes']:>10.0f} MB")
    return "\n".join(lines)
