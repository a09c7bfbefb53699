"""Making data sets, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from agents.learners.stock_ppo import worlds_of
from latent_common.errors import UserError
from latent_common.files import check_writable
from latent_common.lock import LOCK, locked
from latent_common.progress import progress_bar, say
from stages.offline.arguments import Options, Recording
from stages.offline.policies import algorithm_of, player_of

T = TypeVar("T")

WORLDS = 64
"""So many play at once."""


def make_datasets(options: Options) -> None:
    """Make what is missing, and print a line for each data set.

    :raises UserError: for a user's mistake, and where Minari isn't installed.
    """
    if find_spec("minari") is None or find_spec("h5py") is None:
        raise UserError("data sets need Minari: `pip install 'latent-aug[offline]'` installs what it takes")
    from stages.offline.storage import is_there, summary, usual_folder

    torch.set_num_threads(1)
    root = options.out or usual_folder()
    check_writable(str(root), "--out")
    with locked(root / LOCK):
        missing = [each for each in options.recordings if options.overwrite or not is_there(root, each)]
        for recording in options.recordings:
            if recording in missing:
                _make(root, recording)
            else:
                say(f"using {root / recording.id}")
            print(summary(root, recording))
    if options.out:
        say(f"Minari finds them with MINARI_DATASETS_PATH={root}")


def _make(root: Path, recording: Recording) -> None:
    """Let the policy play, and write what it played."""
    from stages.offline.recording import played
    from stages.offline.storage import write

    dynamics = worlds_of(recording.task.id, min(WORLDS, recording.episodes))
    agent = player_of(recording, dynamics)
    parts = played(dynamics, agent, recording.first_seed, recording.episodes)
    with progress_bar(recording.id, recording.episodes) as bar:
        write(root, recording, algorithm_of(recording), _shown(parts, bar))


def _shown(parts: Iterable[list[T]], bar: tqdm[Any]) -> Iterator[list[T]]:
    """``parts`` one by one, while the bar moves on."""
    for part in parts:
        yield part
        bar.update(len(part))
