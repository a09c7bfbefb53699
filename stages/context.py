"""What all stages of one command share: the machine, the seed, and where results go."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig

from conf.schema.runs import AutoencoderRun
from latent_common.artifacts import FORMAT
from latent_common.files import check_writable
from latent_common.machine import resolve_device
from latent_common.precision import FULL, HALF, check_precision
from latent_env import __version__
from latent_env.data import check_track
from latent_env.training.run_folder import Run
from stages.cli.checks import read_config

C = TypeVar("C", bound=AutoencoderRun)
T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """What all stages of one command share: the machine, the seed, and where results go."""

    device: torch.device
    seed: int
    runs: Path
    precision: str = FULL
    """The numbers that networks learn in: ``float32``, or ``bfloat16`` where that is faster."""
    memory: float | None = None
    """MB that images or features may take up on the device; None decides by what is free."""

    def settings(self) -> dict[str, Any]:
        """What every stage's outcome depends on, beside the data."""
        halved = {"precision": HALF} if self.precision == HALF else {}
        return {"seed": self.seed, "format": FORMAT, "version": __version__, **halved}

    def run_folder(self, dataset: str, stage: str, name: str, settings: Mapping[str, Any]) -> Run:
        """The folder of a stage's run: equal settings have the same."""
        return Run(self.runs, dataset, stage, name, settings)

    def build(self, factory: Callable[[], T]) -> T:
        """What ``factory`` makes with random numbers that depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return factory()

    def with_seed(self, seed: int) -> Context:
        """A context with another seed, for a part that has random numbers of its own."""
        return replace(self, seed=seed)


def start(cfg: DictConfig, kind: type[C]) -> tuple[C, Context]:
    """Check a composed configuration and set up the machine."""
    config = read_config(cfg, kind)
    check_track(config.track)
    # Finished runs may lie where nothing can be written.
    if not config.runs or not os.path.isdir(config.runs):
        check_writable(config.runs, "runs")
    check_precision(config.precision)
    device = resolve_device(config.device)
    torch.set_num_threads(config.threads)
    return config, Context(device, config.seed, Path(config.runs), config.precision, config.memory)
