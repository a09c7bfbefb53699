"""Data sets in Minari's folder: whether one is there, and writing one, which is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.namespace import create_namespace, list_local_namespaces
from minari.storage import get_dataset_path

import latent_env
from latent_common.artifacts import read_json
from latent_common.errors import UserError
from stages.offline.arguments import Recording

VARIABLE = "MINARI_DATASETS_PATH"
UNFINISHED = ".latent-aug"
"""The folder within Minari's for what is being written; who holds the lock may remove what is in it."""

MADE_WITH, MEAN_RETURN = "made_with", "mean_return"
"""Keys of a data set's metadata."""


@contextmanager
def datasets_in(folder: Path) -> Iterator[None]:
    """A context in which Minari finds and writes data sets in ``folder``."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def usual_folder() -> Path:
    """Where Minari keeps data sets."""
    return Path(get_dataset_path())


def is_there(root: Path, recording: Recording) -> bool:
    """Whether the data set is below ``root``; one that was made otherwise is a ``UserError``."""
    folder = root / recording.id
    if not folder.exists():
        return False
    try:
        found = dict(read_json(folder / "data" / "metadata.json").get(MADE_WITH) or {})
    except (UserError, OSError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"{folder} is no data set: delete it, or choose another --out") from error
    wanted = recording.settings()
    if found == wanted:
        return True
    others = [f"{name}={value}" for name, value in found.items() if value != wanted.get(name)]
    made = f"with {', '.join(others)}" if others else "by something else"
    raise UserError(
        f"{recording.id} is in {root} already, made {made}: --overwrite replaces it, --out FOLDER keeps both"
    )


def write(root: Path, recording: Recording, algorithm: str, parts: Iterable[list[EpisodeBuffer]]) -> None:
    """Write the episodes of ``parts`` below ``root``, in place of those that were there.

    Whoever calls this holds the lock of ``root``.
    """
    unfinished = root / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        with datasets_in(unfinished):
            _write_new(recording, algorithm, parts)
        with datasets_in(root):
            namespace = recording.id.rpartition("/")[0]
            if namespace not in list_local_namespaces():
                create_namespace(namespace)
        if (root / recording.id).exists():
            (root / recording.id).rename(unfinished / "replaced")
        (unfinished / recording.id).rename(root / recording.id)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def summary(root: Path, recording: Recording) -> str:
    """One line of a data set that is there."""
    facts = read_json(root / recording.id / "data" / "metadata.json")
    return (
        f"{recording.id:<34}{facts['total_episodes']:>9,} episodes{facts['total_steps']:>11,} steps"
        f"{facts[MEAN_RETURN]:>9.3f} mean return"
    )


def _write_new(recording: Recording, algorithm: str, parts: Iterable[list[EpisodeBuffer]]) -> None:
    returns: list[float] = []
    data: Any = None
    for episodes in parts:
        returns += [float(np.sum(each.rewards)) for each in episodes]
        if data is None:
            data = _new_dataset(recording, algorithm, episodes)
        else:
            data.update_dataset_from_buffer(episodes)
    data.storage.update_metadata(
        {
            MADE_WITH: recording.settings(),
            MEAN_RETURN: float(np.mean(returns)),
            "std_return": float(np.std(returns)),
        }
    )


def _new_dataset(recording: Recording, algorithm: str, episodes: list[EpisodeBuffer]) -> Any:
    """A data set of the first ``episodes``."""
    spec = gym.spec(recording.task.id)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(author_email|code_permalink).*")  # there are none
        return minari.create_dataset_from_buffers(
            recording.id,
            episodes,
            env=spec,
            eval_env=replace(spec, kwargs={**spec.kwargs, "split": "test"}),
            algorithm_name=algorithm,
            author="The LatentAug authors",
            description=(
                f"{recording.episodes} episodes of {recording.task.id}, played by: {algorithm}. Reset with "
                "an episode's seed, the environment answers its actions as recorded. The environment for "
                "evaluation starts from images that nothing learned from."
            ),
            requirements=[f"latent-aug>={latent_env.__version__}"],
        )
