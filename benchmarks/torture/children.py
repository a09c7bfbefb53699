"""Commands as a user's processes, without the seconds that imports take: each is forked from this one."""

from __future__ import annotations

import fcntl
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from tqdm import tqdm

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0
"""A command that takes more seconds is stopped, and counts as one that hangs."""

POLL = 0.002
PRINTED = 2**20
"""A command prints at most so many bytes."""

CTRL_C = {signal.SIGINT}

Action = Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or minus the signal that ended it, and what it printed."""

    code: int
    out: str
    err: str
    seconds: float
    hung: bool = False

    @property
    def traceback(self) -> bool:
        """Whether it printed a traceback."""
        return "Traceback (most recent call last)" in self.err

    def told(self) -> str:
        """The end of what it said, for a message."""
        return f"exit {self.code}: {' / '.join(self.err.strip().splitlines()[-3:])[-400:]}"


class Process:
    """A process that was started, with its output in files."""

    def __init__(self, pid: int, out: BinaryIO, err: BinaryIO) -> None:
        self.pid, self._out, self._err = pid, out, err
        self._began = time.monotonic()
        self._status: int | None = None

    def running(self) -> bool:
        """Whether it hasn't ended yet."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is None

    def send(self, number: int) -> None:
        """Send it a signal, if it hasn't ended."""
        if self.running():
            os.kill(self.pid, number)

    def wait(self, limit: float = PATIENCE) -> Ended:
        """Wait until it has ended; after ``limit`` seconds from its start it is killed."""
        hung = False
        while self.running():
            if time.monotonic() - self._began > limit and not hung:
                hung = True
                self.send(signal.SIGKILL)
            time.sleep(POLL)
        assert self._status is not None
        seconds = time.monotonic() - self._began
        return Ended(self._status, _text(self._out), _text(self._err), seconds, hung)


def _text(file: BinaryIO) -> str:
    with file:
        return file.read().decode(errors="backslashreplace")


def _pipe() -> tuple[int, int]:
    """A pipe that holds all that a command prints: unlike files, it has nothing to do with disks."""
    reading, writing = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PRINTED)
    return reading, writing


def command(*words: str) -> Action:
    """What ``python <words>`` does: ``train_ae.py key=value``, or ``-m stages.prepare key=value``."""

    def action() -> None:
        if words[0] == "-m":
            sys.argv = [words[1], *words[2:]]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(words)
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")

    return action


def forked(action: Action, folder: Path, before: Sequence[Action] = ()) -> Process:
    """A copy of this process that does ``action`` in ``folder``, as a process of its own would.

    :param before: what it does first, such as setting itself limits.
    """
    out, err = _pipe(), _pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, CTRL_C)  # until the action begins
    try:
        pid = os.fork()
        if not pid:
            _live(action, folder, before, (out[1], err[1]))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    return _watched(pid, out, err)


def run(action: Action, folder: Path, before: Sequence[Action] = (), limit: float = PATIENCE) -> Ended:
    """Do ``action`` in ``folder`` in a process of its own, and wait for its end."""
    return forked(action, folder, before).wait(limit)


def started(words: Sequence[str], folder: Path) -> Process:
    """``python <words>`` from ``folder``, with all imports, as a user calls it."""
    out, err = _pipe(), _pipe()
    name, *rest = words
    given = [name, *rest] if name == "-m" else [str(ROOT / name), *rest]
    process = subprocess.Popen(
        [sys.executable, *given],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=out[1],
        stderr=err[1],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    process.returncode = 0  # it is waited for here
    return _watched(process.pid, out, err)


def _watched(pid: int, out: tuple[int, int], err: tuple[int, int]) -> Process:
    for _, writing in (out, err):
        os.close(writing)
    return Process(pid, os.fdopen(out[0], "rb"), os.fdopen(err[0], "rb"))


def _live(action: Action, folder: Path, before: Sequence[Action], outputs: tuple[int, int]) -> NoReturn:
    """The life of a forked process: never returns."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, handle in enumerate(outputs, start=1):
            os.dup2(handle, number)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(
            2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
        )
        # The lock of progress bars is shared by all processes, and one that is killed would keep it.
        tqdm.set_lock(threading.RLock())
        os.chdir(folder)
        for first in before:
            first()
        code = _exit_code(action)
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _exit_code(action: Action) -> int:
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, CTRL_C)
        try:
            action()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, CTRL_C)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0
