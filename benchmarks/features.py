"""Whether a trained detector of latents beats those that only measure distances, over several seeds.

All read the same latents, which are encoded once. Differences are paired by seed; their 95 % interval is
Student's over the seeds. Keys are those of train_detector.py, for example

  python -m benchmarks.eyes dataset=bmad_liver dataset.size=224 autoencoder=pretrained autoencoder.backbone=…
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from scipy import stats

from conf.schema.autoencoders import PretrainedConfig
from conf.schema.detectors import TransformerConfig
from conf.schema.runs import DetectorRun, register_schema
from detectors.base import LATENT, Detector
from detectors.blocks.distance import DistanceDetector
from detectors.gaussian import GaussianDetector
from detectors.knn import KnnDetector
from detectors.latent_transformer import LatentTransformer
from detectors.positional_knn import PositionalKnnDetector
from latent_common.errors import UserError
from latent_env.training.evaluation import evaluate_latents
from latent_env.training.feature_cache import FeatureCache
from stages.cli.choices import CONF
from stages.cli.launch import mistakes_explained
from stages.context import Job, start_job
from stages.detector.baselines import fit_distances
from stages.detector.latent_training import check_latent_synthesis, train_on_latents
from stages.detector.stage import detector_settings
from stages.detector.training import new_detector
from stages.job_of import autoencoder_plan

TRAINED = "transformer"

BASELINES: dict[str, Callable[[Any], DistanceDetector]] = {
    "knn, random bank": lambda shape: KnnDetector(shape, coreset=False),
    "knn, coreset": KnnDetector,
    "knn, random, own scales": lambda shape: KnnDetector(shape, coreset=False, whitened=False),
    "knn, coreset, own scales": lambda shape: KnnDetector(shape, whitened=False),
    "knn by place": PositionalKnnDetector,
    "gaussian": GaussianDetector,
}


def job_of(overrides: list[str], seed: int) -> Job[DetectorRun]:
    """What train_detector.py would do with these keys."""
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return start_job(compose("train_detector", [*overrides, f"seed={seed}"]), DetectorRun)


def trained(job: Job[DetectorRun], features: FeatureCache) -> LatentTransformer:
    """The transformer of one seed."""
    detector = new_detector(job, features.encoder)
    assert isinstance(detector, LatentTransformer)
    run = job.run("benchmark", f"seed-{job.config.seed}", detector_settings(job))
    run.begin()
    detector = train_on_latents(job, run, detector, features, f"seed {job.config.seed}", None)
    run.writer.close()
    return detector


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of paired differences."""
    mean, count = differences.mean(), len(differences)
    reach = stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / count**0.5
    return mean - reach, mean + reach


def checked(job: Job[DetectorRun], split: str) -> None:
    """Refuse what can't be compared before anything starts."""
    detector = job.config.detector
    if not isinstance(job.config.autoencoder, PretrainedConfig):
        raise UserError("this compares detectors of pretrained latents: add autoencoder=pretrained")
    if not isinstance(detector, TransformerConfig) or detector.input != LATENT:
        raise UserError("this compares the transformer of latents with its rivals: leave detector as it is")
    check_latent_synthesis(job)
    if len(np.unique(getattr(job.dataset, split).labels)) < 2:
        raise UserError(
            f"{job.dataset.name}: the {split} split has no anomalies to find: try track=few_labelled, "
            "or --split test once everything is chosen"
        )


def measure(overrides: list[str], seeds: int, split: str) -> dict[str, list[dict[str, float]]]:
    """All metrics of every detector, seed by seed."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (TRAINED, *BASELINES)}
    features: FeatureCache | None = None
    for seed in range(seeds):
        job = job_of(overrides, seed)
        checked(job, split)
        features = features or autoencoder_plan(job).features()
        detectors: dict[str, Detector] = {TRAINED: trained(job, features)}
        for name, make in BASELINES.items():
            detectors[name] = fit_distances(make(features.encoder.latent_shape), features, seed)
        for name, detector in detectors.items():
            evaluation = evaluate_latents(detector, features.latents(split), getattr(job.dataset, split))
            found[name].append(evaluation.metrics)
    return found


def table(found: dict[str, list[dict[str, float]]], metric: str) -> str:
    """Means and paired differences as text."""
    values = {name: np.array([seed[metric] for seed in seeds]) for name, seeds in found.items()}
    lines = [f"{metric:26} {'mean':>7} {'min':>7} {'max':>7}   {TRAINED} minus it"]
    for name, column in values.items():
        line = f"{name:26} {column.mean():7.4f} {column.min():7.4f} {column.max():7.4f}"
        if name != TRAINED and len(column) > 1:
            difference = values[TRAINED] - column
            low, high = interval(difference)
            line += f"   {difference.mean():+.4f} ({low:+.4f} to {high:+.4f})"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.eyes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("keys", nargs="+", metavar="key=value", help="keys of train_detector.py")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default 5)")
    parser.add_argument(
        "--split", choices=("valid", "test"), default="valid", help="test is for what is chosen already"
    )
    parser.add_argument("--json", type=Path, help="write all metrics to this file too")
    options = parser.parse_args()
    with mistakes_explained("train_detector", options.keys):
        register_schema()
        found = measure(options.keys, options.seeds, options.split)
    for metric in ("image_AUROC", "pixel_AUPRO"):
        if metric in found[TRAINED][0]:
            print(f"\n{table(found, metric)}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
