"""Runs what a page shows for a library, in the library's environment."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.clients.environment import Environment
from benchmarks.clients.page import Client, commands_of, is_install
from benchmarks.clients.process import run
from latent_common.errors import UserError

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"# (\S+\.\w+)\n")
"""The first line of a block that is a file."""


def perform(client: Client, environment: Environment, folder: Path, minutes: float, also: list[Path]) -> None:
    """Run a client's blocks in ``folder``, which is empty at first.

    :param also: folders whose modules are found first.
    :raises UserError: with what failed, in one line.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    deadline = time.monotonic() + 60 * minutes
    for command in commands(client, environment, folder):
        print("$", *command, flush=True)
        left = max(deadline - time.monotonic(), 1)
        done = run(command, folder, variables(environment, folder, also), left)
        if done.hung:
            raise UserError(f"it took more than {minutes:g} minutes")
        if done.code:
            raise UserError(done.reason)


def commands(client: Client, environment: Environment, folder: Path) -> Iterator[Sequence[str]]:
    """What is run for a client, in the page's order; blocks that are files are written on the way."""
    for number, step in enumerate(client.steps, 1):
        named = NAMED.match(step.text)
        if step.language == "sh":
            for words in commands_of(step.text):
                if not is_install(words):
                    yield [environment.python, *words[1:]] if words[0] == "python" else words
        elif named or step.language != "python":
            if named:
                (folder / named.group(1)).write_text(step.text, encoding="utf-8")
        else:
            file = folder / f"block_{number}.py"
            file.write_text(step.text, encoding="utf-8")
            yield [environment.python, file.name]


def variables(environment: Environment, folder: Path, also: list[Path]) -> dict[str, str]:
    """The process's variables: modules of this checkout come first, and data sets are kept in ``folder``."""
    paths = [str(ROOT), *(str(path.resolve()) for path in also), os.environ.get("PYTHONPATH", "")]
    programs = [str(environment.scripts.resolve()), os.environ.get("PATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PATH": os.pathsep.join(programs),
        "MINARI_DATASETS_PATH": str((folder / "minari").resolve()),
        "WANDB_MODE": "disabled",
    }


THIS = Environment(Path(sys.prefix))
"""The environment that runs the benchmark, for blocks that need nothing else."""
