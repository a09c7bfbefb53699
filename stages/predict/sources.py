"""From what a user names to image files: folders, globs, standard input, a folder that is watched."""

from __future__ import annotations

import glob
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from latent_common.errors import UserError
from latent_env.data.finding import EXTENSIONS, walk_images

POLL = 0.5
"""A folder that is watched is looked at every so many seconds."""


class Named(NamedTuple):
    """An image file, and what pictures of it are called."""

    path: Path
    name: str
    """Its path below the folder that was named, without its ending."""


def find_images(given: Sequence[str]) -> list[Named]:
    """The image files that ``given`` stands for, each once.

    :raises UserError: for a folder or glob without any.
    """
    found: dict[Path, Named] = {}
    for text in given:
        for named in _find(text):
            found.setdefault(named.path, named)
    if not found:
        raise UserError("no images: the list on standard input is empty")
    return list(found.values())


def _find(text: str) -> Iterable[Named]:
    path = Path(text).expanduser()
    if text == "-":
        lines = (line.rstrip("\r\n") for line in sys.stdin)
        return [_named(Path(line)) for line in lines if line.strip()]
    if path.is_dir():
        return below(path)
    if not path.exists() and glob.has_magic(text):
        matches = [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]
        files = [each for each in matches if each.is_file()]
        if not files:
            raise UserError(f"no file matches {text}")
        return [_named(each) for each in files]
    return [_named(path)]  # whether it can be read is seen when it is


def _named(path: Path) -> Named:
    return Named(path, path.stem)


def below(folder: Path) -> list[Named]:
    """All image files in ``folder`` and its folders, by name; none is a ``UserError``."""
    if found := images_in(folder):
        return found
    raise UserError(f"{folder} holds no images ({', '.join(EXTENSIONS)})")


def images_in(folder: Path) -> list[Named]:
    """All image files in ``folder`` and its folders, by name."""
    paths = walk_images(folder)
    return [Named(path, path.relative_to(folder).with_suffix("").as_posix()) for path in paths]


def watch(folder: Path, known: Iterable[str]) -> Iterator[list[Named]]:
    """New image files in ``folder`` whenever there are some, without end; ``known`` paths are not new.

    A file is taken once its size and time no longer change, as it may still be written.
    """
    if not folder.is_dir():
        raise UserError(f"--watch {folder}: there is no such folder")
    done = set(known)
    sizes: dict[str, tuple[int, int]] = {}
    while True:
        ready = []
        for named in images_in(folder):
            text = str(named.path)
            if text in done:
                continue
            try:
                facts = named.path.stat()
            except OSError:  # it was moved away
                continue
            stamp = facts.st_size, facts.st_mtime_ns
            if sizes.get(text) == stamp and facts.st_size:
                ready.append(named)
                done.add(text)
                sizes.pop(text)
            else:
                sizes[text] = stamp
        if ready:
            yield ready
        time.sleep(POLL)
