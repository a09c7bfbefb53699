"""Find and prepare a data set, say what is in it, and train nothing.

The first argument is the data set; the scripts then find it prepared.
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig

import stages.cli.early  # noqa: F401 - before what takes seconds to load
from conf.schema.runs import DataRun
from latent_env.data.dataset import Dataset
from latent_env.data.prepared.overview import PICTURE
from stages.cli.checks import read_config
from stages.cli.launch import run_script
from stages.datasets import load_dataset


def main(cfg: DictConfig) -> None:
    """Prepare the data set and print its summary."""
    print(describe(load_dataset(read_config(cfg, DataRun))))


def describe(dataset: Dataset) -> str:
    """The summary, what should be known beside it, and where to look."""
    lines = [dataset.summary(), *dataset.remarks]
    if dataset.folder is not None:
        lines += [f"prepared: {dataset.folder}", f"picture:  {dataset.folder / PICTURE}"]
    return "\n".join(lines)


def with_dataset(arguments: list[str]) -> list[str]:
    """The arguments with a leading ``bmad_liver`` written out as ``dataset=bmad_liver``."""
    first, *rest = arguments or ["--help"]
    return arguments if first.startswith("-") or "=" in first else [f"dataset={first}", *rest]


if __name__ == "__main__":
    sys.argv[1:] = with_dataset(sys.argv[1:]) or ["--help"]
    run_script(main, "prepare", __doc__)
