"""How good a detector is on the test split while it learns, for those who ask: nothing goes by it."""

from __future__ import annotations

from typing import Any

from conf.schema.runs import DetectorRun
from detectors.base import LATENT, Detector
from detectors.training.loop import InputsOf
from latent_common.artifacts import read_json, write_json
from latent_env.data.placement import StreamedImages
from latent_env.training.evaluation import evaluate_source
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from stages.context import Job

CURVES = "curves.json"

Curve = list[dict[str, Any]]
"""Of every look: ``step`` and ``metrics``."""


def add_point(
    job: Job[DetectorRun],
    run: Run,
    features: FeatureCache,
    detector: Detector,
    inputs_of: InputsOf,
    step: int,
) -> None:
    """Score the test split and note the metrics of this step, if ``curves`` is asked for."""
    if not job.config.curves:
        return
    test = job.dataset.test
    latents = detector.input == LATENT
    source = features.latents("test") if latents else StreamedImages(test.images, job.device)
    metrics = evaluate_source(detector, inputs_of, source, test).metrics
    known = [point for point in curve_of(run) if point["step"] < step]  # a stopped command goes back a little
    write_json(run.path / CURVES, [*known, {"step": step, "metrics": metrics}])


def curve_of(run: Run) -> Curve:
    """What was noted in the folder of a run."""
    path = run.path / CURVES
    found: Curve = read_json(path) if path.is_file() else []
    return found
