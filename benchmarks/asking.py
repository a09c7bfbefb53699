"""What the benchmarks have in common that train many cases: how they are asked, and how mistakes are told."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.augmentation.wording import without_places
from conf.schema.runs import register_schema
from latent_common.errors import UserError
from stages.cli.launch import mistakes_explained

USUAL_DATA = "what LATENT_AUG_DATA says, or data"


def data_root() -> Path:
    """Where data sets lie unless told otherwise, as the scripts' ``data_root=``."""
    return Path(os.environ.get("LATENT_AUG_DATA", "data"))


def asking(module: str, about: str | None, script: str, keys_for: str, out: str) -> argparse.ArgumentParser:
    """The arguments that all of them take.

    :param script: whose keys may follow, ``train_detector`` or so.
    :param keys_for: what these keys are for.
    :param out: the folder where everything is kept by default.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.set_defaults(module=module, script=script)
    made.add_argument("keys", nargs="*", metavar="key=value", help=f"keys of {script}.py, {keys_for}")
    made.add_argument(
        "--data", type=Path, default=data_root(), help=f"where data sets lie (default {USUAL_DATA})"
    )
    made.add_argument("--out", type=Path, default=Path(out), help=f"where all of it is kept (default {out})")
    return made


@contextmanager
def asked(parser: argparse.ArgumentParser, arguments: list[str] | None) -> Iterator[argparse.Namespace]:
    """What was asked for, with the ``command`` that asked; a user's mistake ends in one line.

    :param arguments: of the command line; None for those that this program was started with.
    """
    given = sys.argv[1:] if arguments is None else arguments
    # Keys may stand anywhere: argparse would take those after a list of names for more names.
    options = parser.parse_intermixed_args(given)
    options.command = shlex.join(["python", "-m", options.module, *without_places(given)])
    with mistakes_explained(options.script, options.keys):
        for key in options.keys:
            if "=" not in key:
                raise UserError(f"{key}: give keys of {options.script}.py as key=value")
        register_schema()
        yield options
