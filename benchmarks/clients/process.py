"""A process with a time limit, and what it printed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

RAISED = re.compile(r"^[\w.]*(?:Error|Exception|NotFound|Needed)\b.*")
"""The last line of a traceback."""

LONGEST = 200
"""A line that is told has at most so many letters."""


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    printed: str
    hung: bool = False
    """Whether it was stopped because its time was over."""

    @property
    def lines(self) -> list[str]:
        """What it printed, without empty lines."""
        return [line.strip() for line in self.printed.splitlines() if line.strip()]

    @property
    def last_line(self) -> str:
        """The last line that it printed."""
        return (self.lines or ["it says nothing"])[-1][:LONGEST]

    @property
    def first_error(self) -> str:
        """The first line that calls itself an error, as pip writes them."""
        errors = [line[6:].strip() for line in self.lines if line.lower().startswith("error:")]
        return (errors or [self.last_line])[0][:LONGEST]

    @property
    def reason(self) -> str:
        """Why it failed: the last line of its last traceback, or its last line."""
        raised = [line for line in self.lines if RAISED.match(line)]
        return (raised or [self.last_line])[-1][:LONGEST]


def run(command: Sequence[str], folder: Path, variables: Mapping[str, str], seconds: float) -> Ended:
    """Run a command in ``folder``, print what it prints, and return how it ended.

    What it has started and left behind is ended with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        hung = False
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            hung = True
        finally:
            end(process)
            file.seek(0)
            printed = file.read()
            sys.stdout.write(printed)
    return Ended(process.returncode, printed, hung)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and those that it has started, where they still run."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
