"""The command line that all comparisons share: what is run, where it is kept, and how mistakes are told."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.cases import Case, Outcome, Script, find_outcome, make_all
from benchmarks.differences import Pair, Result, Results
from benchmarks.report import About, results_table, write_report
from benchmarks.scripts import SCRIPTS, check_keys
from latent_common.errors import INTERRUPTED, STOPPED, UserError, is_interrupt
from stages.cli.arguments import check_given_once
from stages.cli.mistakes import MISTAKE


def new_parser(name: str, about: str | None, keys_of: str) -> argparse.ArgumentParser:
    """A parser with the shared arguments.

    :param keys_of: the script whose keys ``--set`` takes.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(name=name)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many, from 0 on (default 5)")
    usual = os.environ.get("LATENT_AUG_DATA", "data")
    text = "where data sets lie (default: $LATENT_AUG_DATA, or data)"
    parser.add_argument("--data", type=Path, default=Path(usual), metavar="DIR", help=text)
    text = "where runs, logs and the report are kept (default runs/benchmarks/<name>)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=text)
    text = f"keys of {keys_of}.py for every run, such as device=cpu threads=1 detector.steps=200"
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text)
    parser.add_argument("--list", action="store_true", help="print every run as a command, and stop")
    text = "run nothing: report what is finished"
    parser.add_argument("--report-only", action="store_true", help=text)
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options that were given, checked, with the ``command`` that gave them."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    options.command = shlex.join([*parser.prog.split(), *given])
    options.out = options.out or Path("runs/benchmarks") / options.name
    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds} must be at least 1")
    for key in options.set:
        if "=" not in key:
            raise UserError(f"--set {key}: write it as key=value")
    check_given_once(options.set)
    return options


def choose(option: str, names: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """The names, if all are known; a name also stands for all that begin with it and ``_``."""
    found: list[str] = []
    for name in names:
        own = [each for each in known if each == name] or [
            each for each in known if each.startswith(f"{name}_")
        ]
        if not own:
            raise UserError(f"{option} {name} is unknown: choose among {', '.join(known)}")
        found += own
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Comparison:
    """What is run, and how its report is written."""

    about: About
    cases: Sequence[Case]
    results_of: Callable[[Outcome], list[Result]]
    """The results of a finished run: first its own, and then of what stood beside it."""
    pairs_of: Callable[[Results], list[Pair]]
    """What is compared with what."""
    facts_of: Callable[[Outcome], Mapping[str, Any]]
    """Columns of ``runs.csv`` for a finished run."""
    draw: Callable[[Path, Sequence[Outcome], Results, Sequence[Pair]], list[Path]] = lambda *_: []
    """Draws figures below the folder of the report, and returns where they are."""
    averaged: bool = False
    """Whether means over all places are results too."""
    pool: Callable[[Results], str] = lambda _: ""
    """A table of differences over all places."""

    def conduct(self, options: argparse.Namespace, scripts: Mapping[str, Script]) -> int:
        """Make what is missing, write the report and print its table; returns 1 if a run failed."""
        if options.list:
            for case in self.cases:
                if case.script in SCRIPTS:
                    print(shlex.join(["python", f"{case.script}.py", *case.arguments]))
            return 0
        check_keys(self.cases)
        if options.report_only:
            outcomes = [find_outcome(case, options.out) for case in self.cases]
        else:
            outcomes = make_all(self.cases, options.out, scripts)
        done = [outcome for outcome in outcomes if outcome.folder]
        found = [self.results_of(outcome) for outcome in done]
        # What was run comes before what stood beside it.
        results = Results([*(own[0] for own in found), *(result for own in found for result in own[1:])])
        if self.averaged:
            results.add_means()
        pairs = self.pairs_of(results)
        facts = [self.facts_of(outcome) if outcome.folder else {} for outcome in outcomes]
        figures = self.draw(options.out, done, results, pairs)
        pooled = self.pool(results)
        path = write_report(options.out, self.about, outcomes, results, pairs, facts, figures, pooled)
        print(f"{results_table(self.about, results, pairs)}\n\n{pooled}\n\nreport: {path}")
        failed = [outcome for outcome in outcomes if outcome.error]
        for outcome in failed:
            print(f"{outcome.case.name} failed: {outcome.error}", file=sys.stderr)
        return 1 if failed else 0


def run_command(name: str, main: Callable[[], int]) -> NoReturn:
    """Call ``main`` and leave with its exit code: 2 for a mistake, which is one line, and 130 for Ctrl-C."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"benchmarks.{name}: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    except OSError as error:
        print(f"benchmarks.{name}: the system refused: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    except (KeyboardInterrupt, ImportError) as error:
        if not is_interrupt(error):
            raise
        print(STOPPED, file=sys.stderr)
        sys.exit(INTERRUPTED)
