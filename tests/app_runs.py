"""A small run to open in the app: the built-in phantom's world, and samples of random actions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from agents.baselines.none_and_random import RandomAgent
from agents.rollout import collect, save_augmented
from latent_env.data.builtin.phantom import make_phantom_dataset
from latent_env.settings import Settings
from latent_env.worlds.store import BUILTIN, load_world

SAMPLES = 24


def make_run(folder: Path) -> Path:
    """The folder of a run as ``train_ppo.py`` leaves it, as far as the app reads it."""
    shutil.copytree(BUILTIN / "phantom", folder)
    dynamics = Settings(horizon=1).dynamics(load_world(str(folder), torch.device("cpu")), 8)
    made = collect(dynamics, RandomAgent(dynamics, seed=0), SAMPLES, seed=0)
    save_augmented(folder / "augmented.npz", made)
    return folder


def make_images(folder: Path) -> list[Path]:
    """A normal slice, and one with a bright square in it, as image files."""
    folder.mkdir(parents=True, exist_ok=True)
    test = make_phantom_dataset(64, 8, 8, 12, seed=3).test
    pixels = np.array(test.images[int(np.flatnonzero(test.labels == 0)[0])][0])
    paths = [folder / "normal.png", folder / "square.png"]
    Image.fromarray(pixels).save(paths[0])
    pixels[28:40, 28:40] = 255
    Image.fromarray(pixels).save(paths[1])
    return paths
