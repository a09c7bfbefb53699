"""Detectors against each other on the same images, over several seeds, with differences paired by seed.

  rdna        detector=rdna, the same without discriminators, and the transformer
  rdna_full   these at 256 pixels and full width, for a GPU
  one_class   plain, variational and memory autoencoders by reconstruction error, each class as normal in turn
  pretrained  the transformer and detectors that measure distances, on a pretrained backbone

Each run is one train_detector.py. The test split is scored when a detector is done, and chooses nothing.
What is finished is used again: the same command goes on after Ctrl-C, and more seeds may be asked for later.

Examples:
  python -m benchmarks.detectors rdna --data /data --seeds 3 --set threads=1
  python -m benchmarks.detectors one_class --data /data --datasets mnist --seeds 3
  python -m benchmarks.detectors pretrained --data /data --set autoencoder.backbone=/models/dinov2-small
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.cases import Case, Outcome, Script
from benchmarks.command import Comparison, choose, new_parser, parse, run_command
from benchmarks.datasets import DATASETS, Data, check_found, digit
from benchmarks.differences import Pair, Result, Results
from benchmarks.report import About
from benchmarks.scripts import SCRIPTS
from latent_env.worlds.store import COMPLETE

NAME = "detectors"
METRICS = ("image_AUROC", "pixel_AUROC", "pixel_AP", "pixel_AUPRO")


@dataclass(frozen=True)
class Study:
    """What is compared, on what, and how it is trained."""

    question: str
    method: str
    datasets: Mapping[str, Data]
    by_default: tuple[str, ...]
    """The data sets that are run if none are named."""
    keys: tuple[str, ...]
    """For all methods; a method's own keys come after these and after the user's."""
    methods: Mapping[str, tuple[str, ...]]
    differences: tuple[tuple[str, str], ...]
    """The first minus the second."""
    averaged: bool = False
    """Whether the data sets are classes of one, and their mean is a result too."""


RDNA, PLAIN, TRANSFORMER = "rdna", "without discriminators", "transformer"


def _rdna(width: str, *keys: str) -> dict[str, tuple[str, ...]]:
    own = ("detector=rdna", f"detector.width={width}", *keys)
    return {RDNA: own, PLAIN: (*own, "detector.adversarial_weight=0"), TRANSFORMER: ("detector=transformer",)}


REDUCED = Study(
    "Do discriminators help a detector that reconstructs and segments?",
    "All learn from normal images alone, in as many steps on batches of the same size. Reduced setting for "
    "two CPU cores: 64 pixels, 1500 steps of 16 images, `rdna` of width 16.",
    DATASETS,
    ("bottle", "magnetic_tile"),
    (
        *("track=one_class", "detector.baselines=[]"),
        *("dataset.size=64", "detector.steps=1500", "detector.batch_size=16"),
    ),
    _rdna("16"),
    ((RDNA, PLAIN), (RDNA, TRANSFORMER)),
)
FULL = replace(
    REDUCED,
    method="256 pixels, 20,000 steps of 16 images, `rdna` of width 64. Published means over all fifteen "
    "categories of MVTec AD: image_AUROC .985, pixel_AUROC .976, pixel_AP .728.",
    by_default=("bottle",),
    keys=(*REDUCED.keys[:2], "dataset.size=256", "detector.steps=20000", "detector.batch_size=16"),
    methods=_rdna("64", "detector.learning_rate=3e-4"),
)

CIFAR10 = ("autoencoder.latent=flat", "autoencoder.latent_size=64", "dataset.recommended.prototypes=8192")
"""A fine spatial latent, which the data set recommends, copies every image, with a memory or without."""

ONE_CLASS = Study(
    "Does a memory help an autoencoder to detect other classes?",
    "Reconstruction error (`detector=reconstruction`) of autoencoders that share network, latent size and "
    "training, on all test images of the normal class and the others. A random subset of the anomalies has "
    "the same AUROC on average: published figures are on mixes with 30 % anomalies (Gong et al. 2019; MNIST: "
    "AE .9619, MemAE .9751; CIFAR-10: AE .5706, MemAE .6088).",
    {
        **{f"mnist_{n}": digit(n, "autoencoder.latent_size=32") for n in range(10)},
        **{
            f"cifar10_{n}": Data(("dataset=cifar10", f"dataset.normal={n}", *CIFAR10), "cifar10", ".")
            for n in range(10)
        },
        **{f"digits_{n}": Data(("dataset=digits", f"dataset.normal=[{n}]")) for n in range(10)},
    },
    ("mnist",),
    ("detector=reconstruction", "autoencoder.width=16", "autoencoder.steps=1200"),
    {name: (f"autoencoder={name}",) for name in ("ae", "vae", "memae", "memvae")},
    (("vae", "ae"), ("memae", "ae"), ("memvae", "ae")),
    averaged=True,
)

DISTANCES = {
    "knn, random bank": ("detector=knn", "detector.coreset=false"),
    "knn, coreset": ("detector=knn",),
    "knn, random bank, unwhitened": ("detector=knn", "detector.coreset=false", "detector.whitened=false"),
    "knn, coreset, unwhitened": ("detector=knn", "detector.whitened=false"),
    "positional_knn": ("detector=positional_knn",),
    "gaussian": ("detector=gaussian",),
}
PRETRAINED = Study(
    "Does a trained detector on a pretrained backbone beat detectors that measure distances?",
    "All read the same latents of a frozen backbone, 224 pixels. The transformer learns from normal images "
    "and synthetic anomalies, and from no labelled ones.",
    DATASETS,
    ("magnetic_tile", "busi"),
    (
        *("autoencoder=pretrained", "autoencoder.steps=60", "dataset.size=224"),
        *("track=few_labelled", "labelled.train=0"),
    ),
    {TRANSFORMER: ("detector=transformer", "detector.baselines=[]"), **DISTANCES},
    tuple((TRANSFORMER, name) for name in DISTANCES),
)

STUDIES = {"rdna": REDUCED, "rdna_full": FULL, "one_class": ONE_CLASS, "pretrained": PRETRAINED}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(NAME, __doc__, "train_detector")
    made.add_argument("comparison", choices=STUDIES, help="what is compared")
    text = "data sets; a name also stands for its classes, as mnist does for mnist_0 to mnist_9"
    made.add_argument("--datasets", nargs="+", metavar="NAME", help=text)
    made.add_argument("--methods", nargs="+", metavar="NAME", help="some of what is compared (default all)")
    return made


def cases_of(study: Study, options: argparse.Namespace) -> list[Case]:
    """All runs, whole comparisons first."""
    datasets = choose("--datasets", options.datasets or study.by_default, study.datasets)
    methods = choose("--methods", options.methods or list(study.methods), study.methods)
    check_found(datasets, study.datasets, options.data)
    shared = (*study.keys, f"runs={options.out / 'runs'}", *options.set)
    return [
        Case(
            (name,),
            method,
            seed,
            "train_detector",
            (*study.datasets[name].keys_below(options.data), *shared, *study.methods[method], f"seed={seed}"),
        )
        for seed in range(options.seeds)
        for name in datasets
        for method in methods
    ]


def metrics_of(outcome: Outcome) -> dict[str, float]:
    """The detector's own test metrics; those of others that stand beside it have longer names."""
    return {k: value for k, value in outcome.read(COMPLETE).items() if k.startswith(("image_", "pixel_"))}


def results_of(outcome: Outcome) -> list[Result]:
    """What a run reached."""
    case = outcome.case
    return [Result(case.place, case.method, case.seed, metrics_of(outcome), *outcome.scores("scores"))]


def main(arguments: Sequence[str] | None = None, scripts: Mapping[str, Script] = SCRIPTS) -> int:
    """Run a comparison; returns the exit code."""
    options = parse(parser(), arguments)
    study = STUDIES[options.comparison]
    if options.out == Path("runs/benchmarks") / NAME:
        options.out /= options.comparison

    def pairs_of(results: Results) -> list[Pair]:
        return [((place, a), (place, b)) for place in results.places() for a, b in study.differences]

    about = About(
        study.question, ("data set",), METRICS, f"{study.method}\n\n`{' '.join(study.keys)}`", options.command
    )
    cases = cases_of(study, options)
    comparison = Comparison(about, cases, results_of, pairs_of, metrics_of, averaged=study.averaged)
    return comparison.conduct(options, scripts)


if __name__ == "__main__":
    run_command(NAME, main)
