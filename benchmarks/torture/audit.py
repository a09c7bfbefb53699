"""What a process does to files, as Python's audit hooks see it: where to stop it, and what it must not do."""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.truncate": 0, "os.symlink": 1}
"""Events that change a file or folder, and which of their arguments names it."""

READS = ("os.listdir", "os.scandir")
FOREIGN = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
    "pickle.find_class",
)
"""Events of code that a file may not bring along."""

HARMLESS = ("/dev/null", "/dev/tty")
LONGEST = 480


def path_of(event: str, arguments: tuple[Any, ...]) -> tuple[str, bool]:
    """The path that an event is about, and whether it changes it; an empty path if it is about none."""
    if event == "open":
        path, mode, flags = arguments
        changes = any(letter in (mode or "") for letter in "wax+") or bool((flags or 0) & WRITING)
    elif event in CHANGES:
        path, changes = arguments[CHANGES[event]], True
    elif event in READS:
        path, changes = arguments[0], False
    else:
        return "", False
    if isinstance(path, int) or path is None:
        return "", False
    return os.path.abspath(os.fsdecode(path)), changes


class Points:
    """Counts what a process changes below ``folder``; the parent sees the count too.

    :param at: before the change with this number, counted from 0, ``act`` is called.
    """

    def __init__(self, folder: Path, at: int | None = None, act: Callable[[str], None] | None = None) -> None:
        self._below = f"{os.path.abspath(folder)}{os.sep}"
        self.at, self.act = at, act
        self._shared = mmap.mmap(-1, 512)

    @property
    def count(self) -> int:
        """Changes so far."""
        return int(struct.unpack_from("q", self._shared)[0])

    @property
    def where(self) -> str:
        """What was about to happen when ``act`` was called; empty if it wasn't."""
        return self._shared[8:].rstrip(b"\0").decode(errors="replace")

    def install(self) -> None:
        """Begin to count, in the process that is watched."""
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        path, changes = path_of(event, arguments)
        if not changes or not path.startswith(self._below):
            return
        count = self.count
        struct.pack_into("q", self._shared, 0, count + 1)
        if count == self.at and self.act is not None:
            what = f"{event} {path[len(self._below) :]}".encode()[:LONGEST]
            self._shared[8 : 8 + len(what)] = what
            self.act(path)


class Guard:
    """Notes what a process must not do while it reads what others made.

    That is to change a file outside of ``folder``, to read in ``secret``, or to call foreign code.
    """

    def __init__(self, folder: Path, secret: Path) -> None:
        self._folder, self._secret = (f"{os.path.realpath(path)}{os.sep}" for path in (folder, secret))
        self._shared = mmap.mmap(-1, 512)

    @property
    def seen(self) -> str:
        """What it did first; empty if it did nothing of that kind."""
        return self._shared[:].rstrip(b"\0").decode(errors="replace")

    def install(self) -> None:
        """Begin to look, in the process that is watched."""
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in FOREIGN:
            self._tell(f"{event} {arguments[:2]}")
            return
        path, changes = path_of(event, arguments)
        if not path or path in HARMLESS:
            return
        # What is renamed or removed is a link itself, not what it leads to.
        above, name = os.path.split(path)
        real = os.path.join(os.path.realpath(above), name) if event in CHANGES else os.path.realpath(path)
        real = f"{real}{os.sep}"
        if real.startswith(self._secret) or (changes and not real.startswith(self._folder)):
            self._tell(f"{event} {path}")

    def _tell(self, what: str) -> None:
        if not self.seen:
            content = what.encode()[:LONGEST]
            self._shared[: len(content)] = content
