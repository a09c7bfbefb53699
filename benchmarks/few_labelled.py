"""Detectors that learn from a handful of labelled anomalies against those that ignore them.

The default detector, its members, SuperSimpleNet and the transformer, beside PatchCore's coreset (knn),
PaDiM's Gaussian (gaussian) and nearest neighbours of the same position (positional_knn), all on the same
features of a frozen backbone. With ``--weights`` also the default with copies of its labelled anomalies,
pasted into normal images in pixels. The labelled anomalies are drawn anew with every seed, from a share of
the anomalies that is set aside; the test split is the same for any number of them, and nothing is chosen by
it.

What is finished is used again: the same command goes on after Ctrl-C, and more seeds may be asked for later.

Examples:
  python -m benchmarks.few_labelled --data /data --backbone /models/mobilenet
  python -m benchmarks.few_labelled --data /data --backbone /models/mobilenet --datasets bottle --counts 5
  python -m benchmarks.few_labelled --data /data --backbone /models/mobilenet --datasets mine=photos/mine
  python -m benchmarks.few_labelled --data /data --backbone /models/mobilenet --weights /models/taef2
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from benchmarks.cases import Case, Outcome, Script
from benchmarks.command import Comparison, choose, new_parser, parse, run_command
from benchmarks.datasets import DATASETS, Data, check_found
from benchmarks.differences import Pair, Result, Results
from benchmarks.report import About
from benchmarks.scripts import SCRIPTS
from benchmarks.tables import difference
from latent_common.errors import UserError
from latent_common.tables import markdown_table
from latent_env.worlds.store import COMPLETE

NAME = "few_labelled"
METRICS = ("image_AUROC", "pixel_AP", "pixel_AUPRO")
DEFAULT, COPIES = "default", "copies"
MEMBERS = ("segmenter", "probe", "positional_knn")
IGNORING = ("knn", "gaussian", "positional_knn")
"""Detectors that learn from normal images alone."""

METHODS = {
    DEFAULT: ("detector.baselines=[knn,gaussian]",),
    "supersimple": ("detector=supersimple", "detector.baselines=[]"),
    "transformer": ("detector=transformer", "detector.baselines=[]"),
    COPIES: ("agent=random", "env.edits=pastes", "samples=256"),
}
KEYS = ("dataset.size=224", "track=few_labelled", "dataset.valid_fraction=0.3")
# A decoder is of no use here: one step of its training is the least that a command takes.
NO_DRAWING = ("autoencoder=pretrained", "autoencoder.steps=1", "detector.num_start_images=1")
BY_DEFAULT = ("bottle", "magnetic_tile", "busi", "kolektor")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(NAME, __doc__, "train_detector")
    text = "a backbone: a folder with config.json and model.safetensors, or a name on the Hugging Face hub"
    made.add_argument("--backbone", required=True, metavar="NAME", help=text)
    text = "data sets, or name=folder of your own below --data (default: %(default)s)"
    made.add_argument("--datasets", nargs="+", default=BY_DEFAULT, metavar="NAME", help=text)
    text = "how many labelled anomalies (default: 0 1 5 10)"
    made.add_argument("--counts", nargs="+", type=int, default=(0, 1, 5, 10), metavar="N", help=text)
    text = f"a published generator, for {COPIES}: a folder as autoencoder=taesd takes it"
    made.add_argument("--weights", metavar="DIR", help=text)
    text = f"which to train, of {', '.join(METHODS)} (default: all; {COPIES} with --weights)"
    made.add_argument("--methods", nargs="+", metavar="NAME", help=text)
    return made


def datasets_of(names: Sequence[str]) -> dict[str, Data]:
    """The data sets that were named, and where they lie."""
    found: dict[str, Data] = {}
    for name in names:
        own, given, folder = name.partition("=")
        if given:
            if not own or not folder:
                raise UserError(f"--datasets {name}: write name=folder, or one of {', '.join(DATASETS)}")
            found[own] = Data(("dataset=folder", f"dataset.root={folder}"), folder, ".")
        else:
            found |= {known: DATASETS[known] for known in choose("--datasets", [name], DATASETS)}
    return found


def cases_of(options: argparse.Namespace) -> list[Case]:
    """All runs, whole comparisons first."""
    datasets = datasets_of(options.datasets)
    usual = [name for name in METHODS if name != COPIES or options.weights]
    methods = choose("--methods", options.methods or usual, METHODS)
    if COPIES in methods and not options.weights:
        raise UserError(f"--methods {COPIES} needs --weights, the folder of a published generator")
    check_found(datasets, datasets, options.data)
    shared = (*KEYS, f"runs={options.out / 'runs'}", *options.set)
    return [
        Case(
            (name, str(count)),
            method,
            seed,
            "train_ppo" if method == COPIES else "train_detector",
            (
                *data.keys_below(options.data),
                *networks(options, method),
                *shared,
                *METHODS[method],
                *(f"labelled.count={count}", f"labelled.seed={seed}", f"seed={seed}"),
            ),
        )
        for seed in range(options.seeds)
        for count in options.counts
        for name, data in datasets.items()
        for method in methods
        if count or method != COPIES
    ]


def networks(options: argparse.Namespace, method: str) -> tuple[str, ...]:
    """The keys of who draws and of who sees, which are the same eyes for all."""
    if method == COPIES:
        drawn = ("autoencoder=taesd", f"autoencoder.weights={options.weights}")
        return (*drawn, f"detector.backbone={options.backbone}")
    return (*NO_DRAWING, f"autoencoder.backbone={options.backbone}")


def metrics_of(outcome: Outcome) -> dict[str, float]:
    """The test metrics of the detector and of those beside it."""
    return {k: v for k, v in outcome.read(COMPLETE).items() if k.endswith(METRICS)}


def results_of(outcome: Outcome) -> list[Result]:
    """What a run reached, and what its members and the detectors beside it did."""
    case, found = outcome.case, metrics_of(outcome)
    beside = [name for name in dict.fromkeys((*MEMBERS, *IGNORING)) if f"{name}_{METRICS[0]}" in found]
    own = {name: value for name, value in found.items() if name in METRICS}
    of_own = "with" if case.method == COPIES else "scores"
    results = [Result(case.place, case.method, case.seed, own, *outcome.scores(of_own))]
    for name in beside:
        metrics = {key: found[f"{name}_{key}"] for key in METRICS if f"{name}_{key}" in found}
        scores = outcome.scores(f"scores_{name}")
        results.append(Result(case.place, name, case.seed, metrics, *scores))
    return results


def pairs_of(results: Results) -> list[Pair]:
    """The default against every other detector, and with copies against all of them."""
    return [
        ((place, first), (place, other))
        for first in (DEFAULT, COPIES)
        for place in results.places()
        for other in results.methods_of(place)
        if other not in (first, COPIES) and (place, first) in results.methods
    ]


def pooled_table(results: Results) -> str:
    """The differences of :func:`pairs_of`, over all sets, for each number of labelled anomalies."""
    pairs, rows = pairs_of(results), []
    for count in dict.fromkeys(place[1] for place in results.places()):
        of_count = [pair for pair in pairs if pair[0][0][1] == count]
        for names in dict.fromkeys((one, other) for (_, one), (_, other) in of_count):
            own = [pair for pair in of_count if (pair[0][1], pair[1][1]) == names]
            cells = [difference(results.pooled(own, metric)) for metric in METRICS]
            rows.append([count, " - ".join(names), str(len(own)), *cells])
    return markdown_table(["labelled", "", "sets", *METRICS], rows)


def main(arguments: Sequence[str] | None = None, scripts: Mapping[str, Script] = SCRIPTS) -> int:
    """Run the comparison; returns the exit code."""
    options = parse(parser(), arguments)
    about = About(
        "Is a detector that learns from five labelled anomalies better than one that ignores them?",
        ("data set", "labelled"),
        METRICS,
        "All read the same features of a frozen backbone, 224 pixels. A share of .3 of the anomalies is set "
        "aside; labelled ones are drawn from it anew with every seed, the others are left out.\n\n"
        "The first table pools all sets: its intervals come from a bootstrap over sets, seeds and, for "
        f"image_AUROC, test images.\n\n`{' '.join((*KEYS, *NO_DRAWING))}`",
        options.command,
    )
    comparison = Comparison(about, cases_of(options), results_of, pairs_of, metrics_of, pool=pooled_table)
    return comparison.conduct(options, scripts)


if __name__ == "__main__":
    run_command(NAME, main)
