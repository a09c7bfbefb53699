"""What the commands of `latent-aug` that take no keys are called with: one parser, and options they share."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from latent_common.errors import UserError
from latent_env.worlds.thresholds import FALSE_ALARMS

THREADS = 2
"""As the scripts compute with by default (conf/shared/training.yaml)."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line.

    :param command: what follows ``latent-aug``.
    :param examples: what the help ends with, line by line.
    """

    def __init__(self, command: str, description: str, examples: str | None = None) -> None:
        super().__init__(
            prog=f"latent-aug {command}",
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the arguments."""
        raise UserError(f"{message}; --help explains all")


def add_run(parser: argparse.ArgumentParser, but: str = "", **options: Any) -> None:
    """Let ``parser`` know which run is meant; ``but`` says when none is."""
    about = "the folder of a run, one of runs (the newest is taken), or a built-in world"
    parser.add_argument("run", help=about + but, **options)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Let ``parser`` know what networks compute on."""
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=THREADS, help="CPU threads of the networks (default %(default)s)"
    )


def check_threads(threads: int) -> None:
    """Refuse a number of threads that can't be."""
    if threads < 1:
        raise UserError(f"--threads {threads} must be at least 1")


def add_threshold(parser: argparse.ArgumentParser) -> None:
    """Let ``parser`` know what chooses the threshold."""
    threshold = parser.add_mutually_exclusive_group()
    threshold.add_argument(
        "--false-alarms",
        type=float,
        metavar="RATE",
        help=f"the share of normal images that may be called anomalies (default {FALSE_ALARMS})",
    )
    threshold.add_argument(
        "--best-f1", action="store_true", help="the threshold that is best on labelled anomalies"
    )
