"""What all stages of one command share: the data, the device, the seed, and where results go."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from conf.schema import AutoencoderRun
from detectors.errors import UserError
from latent_env import __version__
from latent_env.artifacts import FORMAT
from latent_env.data import Dataset
from latent_env.runs import Run
from latent_env.worlds import check_writable, resolve_device

C = TypeVar("C", bound=AutoencoderRun, covariant=True)
T = TypeVar("T")

LARGEST_SEED = 2**32
"""What NumPy's and SB3's older generators take."""

MOST_THREADS = 8
"""The networks are small: more threads than this wait for each other longer than they compute."""


@dataclass
class Job(Generic[C]):
    """One command: its configuration and what follows from it."""

    config: C
    device: torch.device

    @cached_property
    def dataset(self) -> Dataset:
        """The images; loading them says in one line what was found."""
        dataset = self.config.dataset.load(Path(self.config.data_root))
        say(dataset.summary())
        return dataset

    @cached_property
    def train_images(self) -> Tensor:
        """``(N, C, H, W)`` uint8: the normal training images, on the device."""
        return self.tensor(self.dataset.train.images)

    def tensor(self, array: Any) -> Tensor:
        """A NumPy array on the device."""
        return torch.from_numpy(array).to(self.device)

    def run(self, stage: str, name: str, settings: Mapping[str, Any]) -> Run:
        """The folder of a stage."""
        return Run(Path(self.config.runs), self.dataset.name, stage, name, settings)

    def shared_settings(self) -> dict[str, Any]:
        """What every stage's outcome depends on."""
        config = asdict(self.config.dataset)
        config.pop("suits")  # only matters through the values of other groups
        config["fingerprint"] = self.dataset.fingerprint()
        versions = {"format": FORMAT, "version": __version__}
        return {"dataset": config, "seed": self.config.seed, **versions}

    def build(self, factory: Callable[[], T]) -> T:
        """What ``factory`` makes with random numbers that depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return factory()


def start_job(cfg: DictConfig, kind: type[C]) -> Job[C]:
    """Check the configuration and set up the machine."""
    config = cast("C", OmegaConf.to_object(cfg))
    assert isinstance(config, kind)
    check_values(cfg)
    for path in unknown_keys(OmegaConf.to_container(cfg), asdict(config)):
        raise UserError(f"+{path}=… is an unknown key: nothing would read it")
    check_writable(config.runs, "runs")
    threads = config.threads or min(_cores(), MOST_THREADS)
    if threads < 1:
        raise UserError(f"threads={threads} must be at least 1")
    torch.set_num_threads(threads)
    return Job(config, resolve_device(config.device))


POSITIVE = {
    "steps",
    "total_steps",
    "batch_size",
    "learning_rate",
    "num_envs",
    "n_steps",
    "n_epochs",
    "starts",
    "samples",
    "rounds",
    "width",
    "depth",
    "heads",
    "step_size",
}
"""Keys whose value must be above zero, in whatever group they stand."""


def check_values(cfg: DictConfig, above: str = "") -> None:
    """Reject budgets and sizes that are not above zero and impossible seeds, wherever they stand."""
    for key in map(str, cfg):
        value = cfg[key]
        path = f"{above}{key}"
        if isinstance(value, DictConfig):
            check_values(value, f"{path}.")
        elif key in POSITIVE and isinstance(value, int | float) and not value > 0:
            raise UserError(f"{path}={value} must be above 0")
        elif key == "batch_size" and value < 2:
            raise UserError(f"{path}={value} must be at least 2")
        elif key == "seed" and not 0 <= value < LARGEST_SEED:
            raise UserError(f"{path}={value} must lie from 0 to {LARGEST_SEED - 1}")


def unknown_keys(given: Any, known: Any, above: str = "") -> Iterator[str]:
    """Keys of ``given`` that ``known`` doesn't have: ``+key=…`` gets past Hydra's own check."""
    for key, value in given.items():
        if key not in known:
            yield f"{above}{key}"
        elif isinstance(value, dict):
            yield from unknown_keys(value, known[key], f"{above}{key}.")


def derived_seed(seed: int, *purpose: int) -> int:
    """A seed of 62 bits for one purpose: neighbouring seeds and purposes share nothing."""
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1, np.uint64)[0] >> 2)


def say(text: str) -> None:
    """A line for the person at the terminal; results alone go to standard output."""
    print(text, file=sys.stderr)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
