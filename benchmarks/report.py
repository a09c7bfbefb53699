"""What a comparison writes: ``RESULTS.md`` and ``runs.csv``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Outcome
from benchmarks.differences import Pair, Results
from benchmarks.tables import csv_table, difference, mean_and_deviation
from latent_common.artifacts import write_atomically
from latent_common.tables import markdown_table

GENERATED = "<!-- Generated. Delete this line to keep the text: later reports then go to RESULTS.new.md. -->"
INTERVALS = """\
Values are means ± standard deviations over seeds, on the test split. Differences are paired by seed, with
95 % intervals that are not corrected for their number; **bold**: the interval excludes zero. Where runs
keep the scores of test images, intervals of image_AUROC come from a bootstrap over seeds and test images
(with one seed over images alone, so the luck of training is not in them); all others are Student's over
seeds, from three on."""


@dataclass(frozen=True)
class About:
    """What a report says beside its figures."""

    question: str
    columns: Sequence[str]
    """What the parts of a place are."""
    metrics: Sequence[str]
    """Those of the table; ``runs.csv`` has all."""
    method: str
    command: str
    remarks: Sequence[str] = ()


def write_report(
    out: Path,
    about: About,
    outcomes: Sequence[Outcome],
    results: Results,
    pairs: Sequence[Pair],
    facts: Sequence[Mapping[str, Any]],
    figures: Sequence[Path] = (),
    pooled: str = "",
) -> Path:
    """Write both files, beside those that a person has edited; returns where the text is.

    :param facts: what is known of each outcome's run, as further columns of ``runs.csv``.
    :param figures: pictures below ``out``.
    :param pooled: a table over all places, if there is one.
    """
    rows = [{**identity(about, outcome), **fact} for outcome, fact in zip(outcomes, facts, strict=True)]
    parts = [pooled] if pooled else []
    parts += [results_table(about, results, pairs)]
    parts += [f"![{figure.stem}]({figure.relative_to(out).as_posix()})" for figure in figures]
    parts += ["## Method", about.method, INTERVALS, f"```\n{about.command}\n```", commits(outcomes)]
    parts += ["## Limits", *limits(about, outcomes)]
    return write_files(out, about.question, parts, rows)


def write_files(out: Path, question: str, parts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a report of ``parts`` and its ``rows``, beside those that a person has edited.

    :returns: where the text is.
    """
    path = out / "RESULTS.md"
    edited = path.is_file() and not path.read_text(encoding="utf-8").startswith(GENERATED)
    path = out / ("RESULTS.new.md" if edited else "RESULTS.md")
    write_atomically(out / ("runs.new.csv" if edited else "runs.csv"), csv_table(rows).encode())
    whole = [GENERATED, f"# {question}", "TODO: the answer in a sentence or two.", *parts]
    write_atomically(path, ("\n\n".join(whole) + "\n").encode())
    return path


def identity(about: About, outcome: Outcome) -> dict[str, Any]:
    """The columns that name a run and say what became of it."""
    case = outcome.case
    named = dict(zip(about.columns, case.place, strict=True))
    ended = {"state": outcome.state, "commit": outcome.commit, "seconds": outcome.seconds}
    return {**named, "method": case.method, "seed": case.seed, **ended, "error": outcome.error}


def results_table(about: About, results: Results, pairs: Sequence[Pair]) -> str:
    """For every place the methods' values, and below them their paired differences."""
    metrics = [
        metric
        for metric in about.metrics
        if any(results.values(method, metric) for method in results.methods)
    ]
    lines = []
    for place in results.places():
        blank = [""] * len(place)
        for number, row in enumerate(rows_of(results, place, pairs, metrics)):
            lines.append([*(blank if number else place), *row])
    return markdown_table([*about.columns, "", "seeds", *metrics], lines)


def rows_of(
    results: Results, place: tuple[str, ...], pairs: Sequence[Pair], metrics: Sequence[str]
) -> Iterator[list[str]]:
    """The rows of one place."""
    for method in results.methods_of(place):
        key = (place, method)
        values = [mean_and_deviation(results.values(key, metric)) for metric in metrics]
        yield [method, str(len(results.methods[key])), *values]
    for pair in pairs:
        (own_place, own), (other_place, other) = pair
        found = [results.difference(pair, metric) for metric in metrics]
        if own_place == place and any(found):
            changed = [part for part, own_part in zip(other_place, place, strict=True) if part != own_part]
            name = f"{own} - {other}" + (f" ({', '.join(changed)})" if changed else "")
            both = results.methods[pair[0]].keys() & results.methods[pair[1]].keys()
            yield [name, str(len(both)), *map(difference, found)]


def commits(outcomes: Sequence[Outcome]) -> str:
    """The code that made the runs, and how long that took."""
    done = [outcome for outcome in outcomes if outcome.folder]
    names = dict.fromkeys(outcome.commit or "not recorded" for outcome in done)
    hours = sum(outcome.seconds or 0 for outcome in done) / 3600
    return f"Commit {', '.join(names) or 'none'}; {hours:.1f} hours. `runs.csv` has all runs."


def limits(about: About, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What is missing, run by run."""
    lines = [f"- {remark}" for remark in about.remarks]
    lines += [
        f"- {outcome.case.name}: {outcome.state}{f' ({outcome.error})' if outcome.error else ''}"
        for outcome in outcomes
        if outcome.folder is None
    ]
    yield "\n".join([*lines, "- TODO: what these figures can't say."])
