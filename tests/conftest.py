"""What several test files need: small real worlds, and the scripts run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

import latent_env  # noqa: F401 - registers the environments
from detectors.transformer import TransformerDetector
from latent_env.autoencoders import ConvAutoencoder, FrozenAutoencoder
from latent_env.worlds import World

ROOT = Path(__file__).parents[1]
WORLDS = ["digits", "phantom"]


def _screen() -> bool:
    """Whether a window could be opened."""
    try:
        import tkinter
    except ImportError:
        return False
    try:
        tkinter.Tk().destroy()
    except tkinter.TclError:
        return False
    return True


SCREEN = _screen()

hypothesis.settings.register_profile("ours", deadline=None)  # the machine may be busy
hypothesis.settings.load_profile("ours")
torch.set_num_threads(1)  # pytest-xdist brings its own parallelism


def make_world(latent: str = "spatial", size: int = 32, channels: int = 1, count: int = 12) -> World:
    """An untrained world: real architectures, random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvAutoencoder(channels, size, latent, latent_size=6, width=8)
        detector = TransformerDetector(channels, size, width=16, depth=1, heads=2)
        # Untrained, latents hardly differ, the decoder hardly answers to them, and the detector
        # scores all alike: larger weights at the right places make a world in which things happen.
        with torch.no_grad():
            model.encoder[-1].weight.mul_(100)
            model.decoder[0].weight.mul_(20)
            model.decoder[-1].weight.mul_(20)
            torch.nn.init.normal_(detector.out.weight, std=0.5)
        images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8)
    frozen = FrozenAutoencoder(model).calibrate(images)
    return World.build(frozen, detector.eval().requires_grad_(False), images, torch.device("cpu"))


@pytest.fixture
def spatial_world() -> World:
    return make_world("spatial")


@pytest.fixture
def flat_world() -> World:
    return make_world("flat")


def run_script(
    *arguments: str, cwd: Path, check: bool = True, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """``python <script>.py …`` from ``cwd``, as a user calls it."""
    script, *rest = arguments
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("LATENT_AUG_DATA", None)
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *rest],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


TINY = [
    "dataset=digits",
    "device=cpu",
    "threads=1",
    "autoencoder.steps=40",
    "autoencoder.width=8",
    "detector.steps=20",
    "detector.width=16",
    "detector.heads=2",
]
TINY_AGENT = [*TINY, "env.num_envs=8", "samples=64", "rounds=1"]
TINY_PPO = [*TINY_AGENT, "agent.total_steps=128", "agent.n_steps=8", "agent.batch_size=32"]
