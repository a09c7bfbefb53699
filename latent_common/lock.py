"""Locks: of the processes that work in one folder, one works and the others wait."""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""The file in a folder that is locked while a process works there."""

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of file systems that have no locks."""


class _Held:
    """A lock of this process: how often it was entered, and the open file if there is one."""

    def __init__(self, handle: int | None, waited: bool) -> None:
        self.handle, self.waited, self.entered = handle, waited, 0


_held: dict[Path, _Held] = {}
_guard = threading.Lock()


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """A context that one process at a time is in; tells whether another process was waited for.

    The operating system holds the lock, so a process that is killed leaves none. A process may enter it
    again. The file is removed at the end.

    :param path: of a file in a folder that exists.
    :raises OSError: if the file can't be written.
    """
    path = path.absolute()
    with _guard:
        if path not in _held:
            _held[path] = _acquired(path)
        lock = _held[path]
        lock.entered += 1
    try:
        yield lock.waited
    finally:
        with _guard:
            lock.entered -= 1
            if not lock.entered:
                del _held[path]
                if lock.handle is not None:
                    with suppress(OSError):  # while it is locked: who waits looks whether it is still there
                        path.unlink()
                    os.close(lock.handle)


def remove_abandoned(path: Path) -> None:
    """Remove the file of a lock that a killed process has left; of a lock that is held, it stays."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDWR)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(handle), path.stat()):
                    path.unlink()
        finally:
            os.close(handle)


def _acquired(path: Path) -> _Held:
    waited = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            waited |= _wait(handle, path)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    _sign(handle)
                    return _Held(handle, waited)
        except OSError as error:
            os.close(handle)
            if error.errno not in NO_LOCKS:
                raise
            path.unlink(missing_ok=True)
            _say(f"{path.parent} can't be locked here: run no other command of the same settings meanwhile")
            return _Held(None, waited)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # of a file that another process has removed as it left


def _wait(handle: int, path: Path) -> bool:
    """Lock the open file; returns whether another process had to leave first."""
    if fcntl is None:
        raise OSError(errno.ENOSYS, "no locks on this system")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say(f"waiting: {_holder(path)}")
        fcntl.flock(handle, fcntl.LOCK_EX)
        return True
    return False


def _sign(handle: int) -> None:
    """Write into the file who has locked it, and since when."""
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    os.truncate(handle, 0)
    os.write(handle, json.dumps({"pid": os.getpid(), "host": platform.node(), "since": now}).encode())


def _holder(path: Path) -> str:
    """Who has locked the file, and since when."""
    try:
        held = json.loads(path.read_bytes())
        who, since = f"process {held['pid']} on {held['host']}", f" since {held['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written, or removed
        who, since = "another process", ""
    return f"{who} works in {path.parent}{since}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
