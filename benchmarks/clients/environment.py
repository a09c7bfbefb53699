"""An environment of its own for each library: what it needs beyond this Python's packages, and no more."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.clients.process import Ended, run
from latent_common.artifacts import read_json, write_json
from latent_common.errors import UserError

HELD = ("torch",)
"""Packages that are never installed a second time: they are large, and libraries take any version."""

READY = "ready.json"
INSTALLING = 30 * 60
"""Seconds that pip is given."""

ASK = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


@dataclass(frozen=True)
class Environment:
    """The folder of a Python environment."""

    path: Path

    @property
    def scripts(self) -> Path:
        """Where its programs lie."""
        return self.path / ("Scripts" if os.name == "nt" else "bin")

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.scripts / "python")

    def make(self, installs: Sequence[Sequence[str]]) -> None:
        """Let it hold what ``pip install`` does with each of ``installs``; what was made before is kept.

        :raises UserError: in one line, if that can't be.
        """
        wanted = digest_of(installs)
        if (self.path / READY).is_file() and read_json(self.path / READY)["wanted"] == wanted:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        made = self._run([sys.executable, "-m", "venv", str(self.path)])
        if made.code:
            raise UserError(f"no environment can be made: {made.last_line}")
        self._see_packages_of_this_python()
        held = self.path / "held.txt"
        held.write_text("".join(f"{name}=={version(name)}\n" for name in HELD))
        for arguments in installs:
            pip = [self.python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
            done = self._run([*pip, "--constraint", str(held), *arguments])
            if done.code:
                raise UserError(f"pip can't install {' '.join(arguments)}: {done.first_error}")
        write_json(self.path / READY, {"wanted": wanted})

    def version_of(self, package: str) -> str:
        """The version of a package that is found from inside; nothing if there is none."""
        asked = self._run([self.python, "-c", ASK, package])
        return "" if asked.code else asked.last_line

    def _see_packages_of_this_python(self) -> None:
        """Packages of this Python are found behind its own, which may be of other versions."""
        variables = {"base": str(self.path), "platbase": str(self.path)}
        own = Path(sysconfig.get_path("purelib", "venv", variables))
        folders = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        lines = [f"import site; site.addsitedir({json.dumps(folder)})" for folder in folders]
        (own / "zz_packages_of_the_benchmark.pth").write_text("\n".join(lines) + "\n")

    def _run(self, command: Sequence[str]) -> Ended:
        return run(command, self.path.parent, dict(os.environ), INSTALLING)


def digest_of(value: Any) -> str:
    """A short digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def first_package(installs: Sequence[Sequence[str]]) -> str:
    """The first package that is installed, by its name alone; nothing if there is none."""
    names = [word for arguments in installs for word in arguments if not word.startswith("-")]
    match = re.match(r"[A-Za-z0-9._-]+", names[0]) if names else None
    return match.group() if match else ""
