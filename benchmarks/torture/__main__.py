"""What becomes of the commands when everything goes wrong.

  kills      every stage is killed (KILL, TERM, Ctrl-C) at random moments and before chosen changes of files,
             and started again: it must end, byte by byte, as it does undisturbed
  crowds     two and three processes begin the same work in one folder: all must end as one does alone
  disks      disks refuse to take more at any moment: a line says so, and with room again all ends as ever
  read-only  finished work is used where nothing can be written, unfinished work is refused in a line
  hostile    damaged files, and files made to do harm, of all kinds are opened: each is refused in a line or
             leads to a sound result, within limits of time and memory, and without leaving its folder
  mistakes   what can't be meant on a command line is told in one line, and nothing is made

Examples:
  python -m benchmarks.torture
  python -m benchmarks.torture --parts kills --minutes 20 --seed 1
  python -m benchmarks.torture --effort 0.05 --minutes 1
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot  # noqa: F401 - what commands import, so that forked ones needn't
import torch
import torch._dynamo
import torch.utils.tensorboard
from tqdm import tqdm

import train_ae  # noqa: F401
import train_detector  # noqa: F401
import train_ppo  # noqa: F401
from benchmarks.command import run_command
from benchmarks.torture.files.attack import torture_with_hostile_files
from benchmarks.torture.kills import torture_with_kills
from benchmarks.torture.mistakes import torture_with_mistakes
from benchmarks.torture.scenarios import SCENARIOS, Stage, make_stages
from benchmarks.torture.surroundings import (
    torture_with_crowds,
    torture_with_full_disks,
    torture_with_read_only_folders,
)
from benchmarks.torture.tally import Tally
from latent_common.errors import UserError
from latent_common.machine import cores

NAME = "torture"

Torture = Callable[[Mapping[str, Stage], Tally, random.Random, int, float], None]


class Part(NamedTuple):
    """A kind of torture."""

    torture: Torture
    times: int
    """How often, with ``--effort 1``."""


PARTS = {
    "kills": Part(torture_with_kills, 220),
    "crowds": Part(torture_with_crowds, 20),
    "disks": Part(torture_with_full_disks, 60),
    "read-only": Part(torture_with_read_only_folders, 10),
    "hostile": Part(torture_with_hostile_files, 1100),
    "mistakes": Part(torture_with_mistakes, 300),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is done (all)")
    text = "stages whose commands are tortured (all), such as 'all stages'"
    made.add_argument("--stages", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help=text)
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is random (default 0)")
    text = "share of the full numbers (default 1)"
    made.add_argument("--effort", type=float, default=1.0, metavar="X", help=text)
    text = "stop after about so many minutes, shared among the parts (default: never)"
    made.add_argument("--minutes", type=float, metavar="N", help=text)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what was asked for; 1 if something didn't hold."""
    options = parser().parse_args(arguments)
    if not 0 < options.effort <= 1000:
        raise UserError(f"--effort {options.effort} must be above 0 and at most 1000")
    if not hasattr(os, "fork"):
        raise UserError("this system can't fork processes: use Linux or macOS")
    prepare_to_fork()
    end = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    root = Path(tempfile.mkdtemp(prefix="torture-"))
    root.chmod(0o755)
    print(f"{processor()}, {cores()} cores, torch {torch.__version__}, seed {options.seed}")
    tallies = []
    try:
        stages = make_stages(root, SCENARIOS, options.stages)
        for number, name in enumerate(options.parts):
            tallies.append(Tally(name))
            began = time.monotonic()
            deadline = began + (end - began) / (len(options.parts) - number)
            part = PARTS[name]
            count = max(round(part.times * options.effort), 1)
            # A part's random numbers are its own, whichever parts come before it.
            part.torture(stages, tallies[-1], random.Random(f"{options.seed} {name}"), count, deadline)
            tallies[-1].seconds = time.monotonic() - began
    finally:
        for tally in tallies:
            tqdm.write("\n".join(tally.lines()), file=sys.stdout)
        if not any(tally.failures for tally in tallies):
            shutil.rmtree(root, ignore_errors=True)
    return 1 if any(tally.failures for tally in tallies) else 0


def prepare_to_fork() -> None:
    """Put this process into a state that its copies can begin with as a new process would."""
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # a thread, which forks could interrupt anywhere
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("LATENT_AUG_DATA", None)
    gc.collect()
    gc.freeze()


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    run_command(NAME, main)
