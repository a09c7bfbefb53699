"""What killed processes leave in the folder of a run, and how it is removed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from latent_common.artifacts import STAGED, remove_artifact, settle_artifact
from latent_common.lock import LOCK
from latent_env.worlds.store import COMPLETE

CHECKPOINT = "checkpoint"
"""The artifact with the state of a training, in the folder of its run or part."""

UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}")
"""Names of files that were being written."""


def left_behind(folder: Path) -> list[Path]:
    """Files in the folder of a run, and in its parts, that nobody needs unless a process is at work there.

    Parts that have a lock of their own are left out.
    """
    return list(_left_behind(folder))


def _left_behind(folder: Path) -> Iterator[Path]:
    # Without its JSON a checkpoint is none: a process was killed while it removed one.
    needed = (folder / f"{CHECKPOINT}.json").is_file() and not (folder / COMPLETE).is_file()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            if not (path / LOCK).exists():
                yield from _left_behind(path)
        elif _is_left_behind(path.name, needed):
            yield path


def _is_left_behind(name: str, checkpoint_needed: bool) -> bool:
    unneeded = not checkpoint_needed and name.startswith(f"{CHECKPOINT}.")
    return unneeded or name == LOCK or name.endswith(STAGED) or UNFINISHED.fullmatch(name) is not None


def remove_left_behind(folder: Path) -> None:
    """Remove what :func:`left_behind` names; nobody else may be at work in ``folder``."""
    for path in left_behind(folder):
        if path.name.endswith(STAGED):
            settle_artifact(path.parent, path.name.removesuffix(STAGED))
        elif path.name.startswith(f"{CHECKPOINT}."):
            remove_artifact(path.parent, CHECKPOINT)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)
