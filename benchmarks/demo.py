"""The demo over many seeds: is its detector better with samples of PPO, and than with random ones.

Every run is `make demo` with another seed, of all that is trained and of which five lesions are labelled. The
test images are the same. What is finished is used again: the same command goes on after Ctrl-C.

Examples:
  python -m benchmarks.demo
  python -m benchmarks.demo --seeds 3 --set threads=1
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from benchmarks.cases import Case, Outcome, Script
from benchmarks.command import Comparison, new_parser, parse, run_command
from benchmarks.differences import Pair, Result, Results
from benchmarks.report import About
from benchmarks.scripts import SCRIPTS
from latent_aug import DEMO

NAME = "demo"
METRICS = ("image_AUROC", "pixel_AP", "pixel_AUPRO")
WITHOUT, RANDOM, WITH = "without", "random", "with"
PLACE = ("phantom",)
SEEDS = 10


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(NAME, __doc__, "train_ppo")
    made.set_defaults(seeds=SEEDS)
    return made


def cases_of(options: argparse.Namespace) -> list[Case]:
    """A run for every seed."""
    shared = (*DEMO, f"runs={options.out / 'runs'}", *options.set)
    return [
        Case(PLACE, WITH, seed, "train_ppo", (*shared, f"seed={seed}", f"labelled.seed={seed}"))
        for seed in range(options.seeds)
    ]


def results_of(outcome: Outcome) -> list[Result]:
    """What the detector reached with PPO's samples, with those of random actions, and without any."""
    found = outcome.read("report.json")["metrics"]
    results = []
    for method in (WITH, RANDOM, WITHOUT):
        metrics = {name: found[name][method] for name in METRICS if method in found[name]}
        if metrics:
            results.append(Result(PLACE, method, outcome.case.seed, metrics))
    return results


def pairs_of(results: Results) -> list[Pair]:
    """With samples against without, and PPO's against random ones."""
    wanted = ((WITH, WITHOUT), (RANDOM, WITHOUT), (WITH, RANDOM))
    pairs = [((PLACE, one), (PLACE, other)) for one, other in wanted]
    return [pair for pair in pairs if all(method in results.methods for method in pair)]


def facts_of(outcome: Outcome) -> Mapping[str, float]:
    """All figures of a run."""
    found = outcome.read("report.json")["metrics"]
    methods = (WITHOUT, RANDOM, WITH)
    return {f"{method}_{name}": found[name][method] for name in METRICS for method in methods}


def main(arguments: Sequence[str] | None = None, scripts: Mapping[str, Script] = SCRIPTS) -> int:
    """Run the comparison; returns the exit code."""
    options = parse(parser(), arguments)
    about = About(
        "Is the demo's detector better with the images that PPO made?",
        ("data set",),
        METRICS,
        "Each seed draws five other labelled lesions, and trains autoencoder, detector, agent and "
        f"the detectors with samples anew. The test images are the same.\n\n`{' '.join(DEMO)}`",
        options.command,
    )
    comparison = Comparison(about, cases_of(options), results_of, pairs_of, facts_of)
    return comparison.conduct(options, scripts)


if __name__ == "__main__":
    run_command(NAME, main)
