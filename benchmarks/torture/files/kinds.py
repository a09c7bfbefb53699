"""The kinds of files that people are given by others, harmless ones of each, and how each is opened."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from benchmarks.torture.audit import Points
from benchmarks.torture.children import command, run
from benchmarks.torture.files.datasets import SIDE, arrays, cifar, mnist, visa
from benchmarks.torture.scenarios import AUTOENCODER, DATA, Stage, make_images
from conf.schema.runs import DataRun
from latent_env import load_detector
from stages.cli.checks import read_config
from stages.cli.compose import compose
from stages.cli.run_table import show_runs
from stages.datasets import load_dataset

Make = Callable[[Path, Mapping[str, Stage]], None]
WORLD = "out"


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    name: str
    files: tuple[str, ...]
    """Patterns of those that are damaged."""
    make: Make
    """Makes a folder of harmless ones."""
    door: Callable[[], str]
    """Opens them in the folder where this process is, as a user would; returns what came of it."""
    needs: tuple[str, ...] = ()
    """Stages that make them."""
    exact: bool = False
    """Whether a checksum stands beside them: then only one result is right."""
    numbers: bool = True
    """Whether what comes of them must be numbers; false where figures are only shown."""


# --- data sets ---


@cache
def _config(*arguments: str) -> DataRun:
    return read_config(compose("prepare", [*arguments, "data_root=."]), DataRun)


def _data(*arguments: str) -> Callable[[], str]:
    """Opens a data set; what comes of it are counts, and sums of all images, masks and labels."""

    def door() -> str:
        found = load_dataset(_config(*arguments))
        sums = [
            f"{split.images.shape} {split.images.sum()} {split.labels.sum()} "
            f"{0 if split.masks is None else split.masks.sum()}"
            for split in (found.train, found.valid, found.test)
        ]
        return f"{found.summary()} {sums}"

    return door


def _folder_of(ending: str) -> tuple[Make, Callable[[], str]]:
    def make(folder: Path, _: Mapping[str, Stage]) -> None:
        make_images(folder / "mine")
        for path in list(folder.rglob("*.png")):
            if "ground_truth" not in path.parts:
                Image.open(path).save(path.with_suffix(ending))
                if ending != ".png":
                    path.unlink()

    return make, _data(*(each for each in DATA if not each.startswith("data_root")))


def _prepared(folder: Path, stages: Mapping[str, Stage]) -> None:
    make_images(folder / "mine")
    here = Path.cwd()
    os.chdir(folder)
    try:
        PREPARED()
    finally:
        os.chdir(here)
    del stages


PREPARED = _data(*(each for each in DATA if not each.startswith("data_root")))

# --- what stages make ---


def _of(stage: str, *folders: str) -> Make:
    """The folders that a stage has made."""

    def make(folder: Path, stages: Mapping[str, Stage]) -> None:
        for name in folders:
            shutil.copytree(stages[stage].done / name, folder / name)

    return make


def _world() -> str:
    env = gym.make("LatentAug-v0", artifacts=WORLD)
    first, _ = env.reset(seed=0)
    action = np.full(env.action_space.shape or (), 0.5, np.float32)
    last, reward, *_ = env.step(action)
    return f"{_rounded(first)} {_rounded(last)} {reward:.4f}"


def _critic() -> str:
    env = gym.make("LatentDenoise-v0", artifacts=WORLD, space="latent")
    first, _ = env.reset(seed=0)
    last, reward, *_ = env.step(np.full(env.action_space.shape or (), 0.5, np.float32))
    return f"{_rounded(first)} {_rounded(last)} {reward:.4f}"


def _rounded(values: Any) -> list[float]:
    found = (
        values if isinstance(values, np.ndarray) else np.concatenate([np.ravel(v) for v in values.values()])
    )
    return [round(float(value), 4) for value in np.ravel(found)]


def _decision() -> str:
    found = load_detector(WORLD).predict(np.full((SIDE, SIDE), 128, np.uint8))
    return f"{found.score:.4f} {found.p_value:.4f} {found.is_anomaly} {found.map.sum():.3f}"


def _image(ending: str) -> tuple[Make, Callable[[], str]]:
    def make(folder: Path, stages: Mapping[str, Stage]) -> None:
        shutil.copytree(stages["ppo"].done / WORLD, folder / WORLD)
        image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8)
        Image.fromarray(image).save(folder / f"image{ending}")

    def door() -> str:
        found = load_detector(WORLD).predict(f"image{ending}")
        return f"{found.score:.4f} {found.p_value:.4f} {found.map.sum():.3f}"

    return make, door


def _checkpoint(folder: Path, stages: Mapping[str, Stage]) -> None:
    """An autoencoder's training that was killed before its result was stored."""
    stage = stages["autoencoder"]
    expected = stage.reference
    for at in range(expected.points // 3, expected.points):
        stage.fresh()
        points = Points(stage.work, at, lambda _: os.kill(os.getpid(), signal.SIGKILL))
        run(stage.scenario.action(), stage.work, [points.install])
        if list(stage.work.glob("runs/*/*/*/checkpoint.json")):
            shutil.copytree(stage.work, folder)
            return
    raise RuntimeError("no checkpoint is written")


def _printing(*words: str) -> Callable[[], str]:
    """A command, whose output is what came of it."""

    def door() -> str:
        command(*words)()
        return ""

    return door


def _table() -> str:
    show_runs(["runs", "--json"])
    return ""


MNIST = ("dataset=mnist", "dataset.normal=3", "dataset.valid_fraction=0.3")
CIFAR = ("dataset=cifar10", "dataset.normal=3", "dataset.valid_fraction=0.3")
NPZ = ("dataset=npz", "dataset.root=mine", f"dataset.size={SIDE}")
VISA = ("dataset=visa", "dataset.category=candle", f"dataset.size={SIDE}", "dataset.valid_fraction=0.3")

KINDS = (
    Kind("PNG images", ("mine/*/*/*.png",), *_folder_of(".png")),
    Kind("JPEG images", ("mine/*/*/*.jpg",), *_folder_of(".jpg")),
    Kind("TIFF images", ("mine/*/*/*.tif",), *_folder_of(".tif")),
    Kind("BMP images", ("mine/*/*/*.bmp",), *_folder_of(".bmp")),
    Kind("masks", ("mine/ground_truth/*/*.png",), *_folder_of(".png")),
    Kind("MNIST", ("*.gz",), mnist, _data(*MNIST)),
    Kind("CIFAR-10, binary", ("*.bin",), cifar(".bin"), _data(*CIFAR)),
    Kind("CIFAR-10, pickles", ("*_batch*",), cifar(""), _data(*CIFAR)),
    Kind("npz", ("mine/*.npz",), arrays, _data(*NPZ)),
    Kind("VisA's table", ("visa/split_csv/*.csv",), visa, _data(*VISA)),
    Kind("prepared images", ("prepared/*/*/*.npz",), _prepared, PREPARED, (), True),
    Kind("facts of prepared images", ("prepared/*/*/*.json",), _prepared, PREPARED, (), True),
    Kind("tensors of worlds", (f"{WORLD}/*.safetensors",), _of("ppo", WORLD), _world, ("ppo",)),
    Kind("descriptions of worlds", (f"{WORLD}/[!w]*.json",), _of("ppo", WORLD), _world, ("ppo",)),
    Kind("world.json", (f"{WORLD}/world.json",), _of("ppo", WORLD), _world, ("ppo",), True),
    Kind("decisions", (f"{WORLD}/decision.*",), _of("ppo", WORLD), _decision, ("ppo",)),
    Kind("critics", (f"{WORLD}/*",), _of("denoise", WORLD), _critic, ("denoise",)),
    Kind("images to predict, PNG", ("*.png",), *_image(".png"), ("ppo",)),
    Kind("images to predict, JPEG", ("*.jpg",), *_image(".jpg"), ("ppo",)),
    Kind("images to predict, TIFF", ("*.tif",), *_image(".tif"), ("ppo",)),
    Kind(
        "metrics and settings",
        ("runs/*/*/*/*.json", "runs/*/*/*/*.yaml"),
        _of("ppo", "runs"),
        _table,
        ("ppo",),
        numbers=False,
    ),
    Kind(
        "checkpoints",
        ("runs/*/*/*/checkpoint.*",),
        _checkpoint,
        _printing("train_ae.py", *AUTOENCODER),
        ("autoencoder",),
    ),
)
"""All kinds. Where ``exact`` is false, what somebody changed with its checksum may lead to another result."""
