"""Does augmentation by an agent help? train_ppo.py over settings, data sets, agents and seeds, and a report.

What is finished is used again, so the same command goes on after Ctrl-C, and more seeds or agents may be
asked for later. A run that fails is listed, and the others go on. Results are RESULTS.md, RESULTS.json,
runs.csv, comparisons.csv and figures/ in --out; a DISCUSSION.md that lies there opens RESULTS.md.

Examples:
  python -m benchmarks.augmentation --datasets phantom --seeds 3 --jobs 2
  python -m benchmarks.augmentation --data /data --backbone /models/mobilenet_v1_1.0_224
  python -m benchmarks.augmentation --also "liver=dataset=bmad_liver dataset.size=128" --datasets liver
  python -m benchmarks.augmentation --datasets phantom --list      (to spread the runs over machines)
  python -m benchmarks.augmentation --datasets phantom --report-only
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from benchmarks.asking import USUAL_DATA, data_root
from benchmarks.augmentation.collect import collect
from benchmarks.augmentation.comparisons import by_place, compare_all
from benchmarks.augmentation.figures import draw_figures
from benchmarks.augmentation.findings import Findings
from benchmarks.augmentation.plan import Choice, Plan, Planned, commands, make_plan
from benchmarks.augmentation.records import FAILED, MISSING, Records, commit
from benchmarks.augmentation.report import write_report
from benchmarks.augmentation.runner import find, make
from benchmarks.augmentation.running import check_keys, job_of
from benchmarks.augmentation.sections import verdict_text
from benchmarks.augmentation.tables import AGENTS, DATASETS, SETTINGS, SHORT, TRACKS, USUAL_AGENTS, VARIANTS
from benchmarks.augmentation.wording import without_places
from latent_common.errors import UserError
from latent_common.progress import progress_bar
from latent_env.data import Split
from stages.cli.launch import INTERRUPTED, MISTAKE


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(
        prog="python -m benchmarks.augmentation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = line.add_argument_group("what is run")
    offered = {
        "settings": (SETTINGS, "all"),
        "tracks": (TRACKS, "both"),
        "datasets": (DATASETS, "all that are found in --data"),
        "agents": ([*AGENTS, *SHORT], ", ".join(USUAL_AGENTS)),
        "variants": (VARIANTS, "all; default alone is the plain comparison"),
    }
    for name, (known, usual) in offered.items():
        text = f"{', '.join(known)} (default: {usual})"
        what.add_argument(f"--{name}", nargs="+", metavar="NAME", help=text)
    what.add_argument("--seeds", type=int, default=5, help="how many, from 0 on (default 5)")
    text = "one more data set, as keys of train_ppo.py; may be repeated"
    what.add_argument("--also", action="append", default=[], metavar='"NAME=KEY=VALUE …"', help=text)
    text = "a key of train_ppo.py for every run; may be repeated, for example --set detector.steps=200"
    what.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
    where = line.add_argument_group("where, and on what")
    text = f"where data sets lie: mvtec/bottle, folder/magnetic_tile, bmad/BUSI, mnist (default {USUAL_DATA})"
    where.add_argument("--data", type=Path, default=data_root(), metavar="DIR", help=text)
    text = "a pretrained network, a folder or a hub name; without it, setting pretrained is left out"
    where.add_argument("--backbone", metavar="NAME", help=text)
    text = "the report, and study.json with what became of every run (default results)"
    where.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help=text)
    text = "the runs' folders (default runs/study)"
    where.add_argument("--runs", type=Path, default=Path("runs/study"), metavar="DIR", help=text)
    where.add_argument("--device", help="cpu, cuda or auto, as in train_ppo.py")
    text = "processes, with one thread each if more than one (default 1)"
    where.add_argument("--jobs", type=int, default=1, metavar="N", help=text)
    text = "print the runs as commands and stop: one with -m for all that differ by agent and seed alone"
    line.add_argument("--list", action="store_true", help=text)
    line.add_argument("--report-only", action="store_true", help="run nothing: report what was started")
    return line


def chosen(options: argparse.Namespace) -> Choice:
    """What the command line asks for."""
    place = []
    if options.device:
        place.append(f"device={options.device}")
    if options.jobs > 1:
        place.append("threads=1")
    return Choice(
        settings=options.settings or tuple(SETTINGS),
        tracks=options.tracks or TRACKS,
        datasets=options.datasets,
        agents=options.agents or USUAL_AGENTS,
        variants=options.variants or tuple(VARIANTS),
        seeds=options.seeds,
        also=options.also,
        extra=options.set,
        data=options.data,
        runs=options.runs,
        backbone=options.backbone,
        place=place,
    )


def test_images(run: Planned) -> Split | None:
    """The test images of a run; None where they are not at hand."""
    try:
        return job_of(run).dataset.test
    except UserError:
        return None


def report(plan: Plan, out: Path, command: str, started: bool) -> Findings:
    """Collect what is there, compare, draw and write; if ``started``, without runs that nobody began."""
    rows, remarks = collect(plan.runs, Records(out / "study.json")), list(plan.remarks)
    begun = [row for row in rows if row.outcome.state != MISSING]
    if started and len(begun) < len(rows):
        remarks.append(f"{len(rows) - len(begun)} more runs were possible and have not been started")
        rows = begun
    with progress_bar("comparing", len(by_place(rows))) as bar:
        comparisons = compare_all(rows, bar.update)
    findings = Findings(rows, comparisons, command, commit(), remarks)
    figures = draw_figures(out, rows, comparisons, findings.focus, test_images)
    findings = Findings(rows, comparisons, command, findings.commit, remarks, figures)
    path = write_report(out, findings)
    print(f"{verdict_text(findings)}\n\nreport: {path}")
    return findings


def run(arguments: list[str]) -> int:
    """What the command line asks for; the exit code is 1 if a run failed."""
    options = parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "benchmarks.augmentation", *without_places(arguments)])
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs} must be at least 1")
    plan = make_plan(chosen(options))
    for remark in plan.remarks:
        print(remark, file=sys.stderr)
    if not plan.runs:
        raise UserError("nothing is left to run: see --help for what there is, and --data for where it lies")
    if options.list:
        print("\n".join(commands(plan.runs)))
        return 0
    check_keys(plan.runs)
    if options.report_only:
        find(plan.runs, options.out, options.runs)
    else:
        if options.jobs > 1:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes inherit it
        make(plan.runs, options.out, options.jobs)
    findings = report(plan, options.out, command, options.report_only)
    return 1 if any(row.outcome.state == FAILED for row in findings.rows) else 0


def main() -> None:
    """Run the study: a mistake is one line and exit code 2, Ctrl-C is exit code 130."""
    try:
        sys.exit(run(sys.argv[1:]))
    except UserError as error:
        print(f"benchmarks.augmentation: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from what is kept", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
