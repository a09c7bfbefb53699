"""Libraries that train on the environments: each runs what docs/clients.md shows for it.

Every library has an environment of its own below --out, made once: what it needs is installed there with pip,
and PyTorch and all else that fits is that of this Python. The blocks of the page are run as they stand. Where
a comment says "or", every choice is a run of its own. What worked isn't run again: the same command goes on
after Ctrl-C, tries again what failed, and runs anew what the page has changed.

Examples:
  python -m benchmarks.clients
  python -m benchmarks.clients --clients torchrl skrl_make
  python -m benchmarks.clients --clients cleanrl --cleanrl ../cleanrl
  python -m benchmarks.clients --list
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, Outcome, find_outcome, make_all
from benchmarks.clients.environment import Environment, digest_of, first_package
from benchmarks.clients.page import Client, read_page
from benchmarks.clients.trial import ROOT, THIS, perform
from benchmarks.command import choose, run_command
from benchmarks.report import commits, write_files
from latent_common.artifacts import read_json, write_json
from latent_common.errors import UserError
from latent_common.tables import markdown_table
from latent_env.worlds.store import COMPLETE

NAME = "clients"
PAGE = ROOT / "docs" / "clients.md"
VERSIONS, WORKED = "versions.json", "worked"
COLUMNS = ("client", "version", "Gymnasium", "outcome", "seconds")
QUESTION = "Which libraries train on the environments?"
METHOD = """\
Each client is the code that `docs/clients.md` shows for it, run as it stands in a process of its own, in an
environment that holds the library and else the packages of the Python that ran the benchmark. "Worked" means
that it ended without an error."""


def main(arguments: Sequence[str] | None = None, page: Path = PAGE) -> int:
    """Try the clients that the command line names; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    if options.minutes <= 0:
        raise UserError(f"--minutes {options.minutes:g} must be more than 0")
    if options.cleanrl is not None and not (options.cleanrl / "cleanrl").is_dir():
        raise UserError(f"--cleanrl {options.cleanrl} holds no folder cleanrl: name a checkout of CleanRL")
    known = {client.name: client for client in read_page(page)}
    clients = [known[name] for name in choose("--clients", options.clients or [*known], known)]
    if options.list:
        for client in clients:
            print(client.name, *(shlex.join(["pip", "install", *line]) for line in client.installs), sep="  ")
        return 0
    cases = [case_of(client, options) for client in clients]
    if options.report_only:
        outcomes = [find_outcome(case, options.out) for case in cases]
    else:
        outcomes = make_all(cases, options.out, {NAME: partial(attempt, known=known, options=options)})
    rows = [row_of(client, outcome, options.out) for client, outcome in zip(clients, outcomes, strict=True)]
    table = markdown_table(COLUMNS, [[row[column] for column in COLUMNS] for row in rows])
    command = shlex.join(["python", "-m", f"benchmarks.{NAME}", *given])
    parts = ["## Method", METHOD, f"```sh\n{command}\n```", commits(outcomes)]
    path = write_files(options.out, QUESTION, [table, *parts], rows)
    print(f"{table}\n\nreport: {path}")
    return 1 if any(outcome.error for outcome in outcomes) else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "by name, or by how names begin, such as torchrl (default: all)"
    made.add_argument("--clients", nargs="+", metavar="NAME", help=text)
    text = "where environments, logs and the report are kept (default: %(default)s)"
    made.add_argument("--out", type=Path, default=Path("runs/benchmarks") / NAME, metavar="DIR", help=text)
    text = "how long one client may take (default: %(default)g)"
    made.add_argument("--minutes", type=float, default=15.0, metavar="N", help=text)
    text = "a checkout of CleanRL, whose scripts are run instead of its release's"
    made.add_argument("--cleanrl", type=Path, metavar="DIR", help=text)
    made.add_argument("--list", action="store_true", help="print what each client installs, and stop")
    text = "run nothing: report what is finished"
    made.add_argument("--report-only", action="store_true", help=text)
    return made


def case_of(client: Client, options: argparse.Namespace) -> Case:
    """A client's run: another one if what it installs or runs is another."""
    decides = [client.installs, client.steps, str(options.cleanrl) if client.section == "cleanrl" else ""]
    return Case((), client.name, 0, NAME, (f"shown={digest_of(decides)}",))


def attempt(case: Case, known: dict[str, Client], options: argparse.Namespace) -> Path:
    """Run a client, and return the folder that says what worked."""
    client, out = known[case.method], options.out.resolve()
    folder: Path = out / "runs" / client.name
    environment = Environment(out / "environments" / client.section) if client.installs else THIS
    if client.installs:
        environment.make(client.installs)
    also = [options.cleanrl] if options.cleanrl and client.section == "cleanrl" else []
    version = "a checkout" if also else environment.version_of(first_package(client.installs))
    write_json(folder / VERSIONS, {"version": version, "Gymnasium": environment.version_of("gymnasium")})
    perform(client, environment, folder / "work", options.minutes, also)
    write_json(folder / COMPLETE, {"outcome": WORKED})
    return folder


def row_of(client: Client, outcome: Outcome, out: Path) -> dict[str, Any]:
    """A row of the table and of ``runs.csv``."""
    path = out / "runs" / client.name / VERSIONS
    versions = read_json(path) if path.is_file() else {"version": "", "Gymnasium": ""}
    told = WORKED if outcome.folder else outcome.error or "not run"
    return {"client": client.title, **versions, "outcome": told, "seconds": outcome.seconds}


if __name__ == "__main__":
    run_command(NAME, main)
