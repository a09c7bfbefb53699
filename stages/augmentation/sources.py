"""Which image each sample was made from: names, and files where images come from files of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latent_common.artifacts import read_json, write_json
from latent_common.errors import UserError
from latent_env.data import Dataset

SOURCES = "sources.json"
"""In a run's folder: ``{"sources": [{"name": …, "file": …}, …]}``, in the order of the start images."""


@dataclass(frozen=True)
class Source:
    """A start image."""

    name: str
    """As the data set calls it."""
    file: Path | None
    """The original file; None if the data set has none for each image."""


def save_sources(run: Path, dataset: Dataset, starts: NDArray[np.int64]) -> None:
    """Write what the start images of a run are.

    :param starts: ``(S,)`` their positions among the training images.
    """
    names = [dataset.train.names[position] for position in starts]
    found = [
        {"name": name, "file": str(dataset.files[name].resolve()) if name in dataset.files else None}
        for name in names
    ]
    write_json(run / SOURCES, {"sources": found})


def load_sources(run: Path, count: int) -> list[Source]:
    """What the ``count`` start images of a run are; without the file that says it, numbers without files."""
    path = run / SOURCES
    if not path.is_file():
        return [Source(f"start image {number}", None) for number in range(count)]
    content = read_json(path)
    found = content.get("sources") if isinstance(content, dict) else None
    if not isinstance(found, list) or len(found) != count:
        raise UserError(f"{path} doesn't list the {count} start images of its run: delete it to do without")
    return [_source(path, each) for each in found]


def _source(path: Path, given: object) -> Source:
    name = given.get("name") if isinstance(given, dict) else None
    file = given.get("file") if isinstance(given, dict) else None
    if not isinstance(name, str) or not (file is None or isinstance(file, str)):
        raise UserError(f"{path} doesn't name each start image: delete it to do without")
    return Source(name, None if file is None else Path(file))
