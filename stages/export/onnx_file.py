"""A detector as one ONNX file, that other programs run without PyTorch."""

from __future__ import annotations

import importlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from latent_common.artifacts import write_atomically
from latent_common.errors import UserError
from latent_common.progress import say
from latent_env import __version__
from latent_env.prediction.detector import AnomalyDetector, load_detector
from latent_env.prediction.onnx_detector import FORMAT, IMAGES, INSTALL, MAP, MOST_BYTES, OUTPUTS, SCORE
from stages.export.arguments import Options
from stages.export.graph import DetectorGraph
from stages.export.half import store_in_half

NEEDED = ("onnx", "onnxruntime", "onnxscript")

TOLERANCE = 1e-3
"""Answers of a file may differ so much from the detector's: rounding, in another order."""
CLASSES = ("normal", "anomaly")


def export_onnx(options: Options, target: Path) -> None:
    """Write the detector that ``options`` name, with its threshold, as the ONNX file ``target``.

    :raises UserError: if there is none, or the file can't be written.
    """
    _check_target(target)
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f"an ONNX file needs {', '.join(missing)}: {INSTALL}")
    detector = load_detector(options.run, "cpu", options.false_alarms)
    if options.best_f1:
        detector = detector.with_best_f1()
    if detector.threshold.note:
        say(detector.threshold.note)
    content = onnx_bytes(detector)
    write_atomically(target, content)
    say(f"{target}: {len(content) / 1e6:.1f} MB, the detector in {detector.folder}")


def onnx_bytes(detector: AnomalyDetector) -> bytes:
    """The ONNX file of a detector; it was run once, and answered as the detector does."""
    channels, size = detector.channels, detector.size
    network = DetectorGraph(detector).eval()
    example = torch.zeros(2, channels, size, size, dtype=torch.uint8)  # a batch of 1 would be for 1 alone
    with _quiet():
        program: Any = torch.onnx.export(
            network,
            (example,),
            input_names=[IMAGES],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            optimize=False,  # it would drop the tiny numbers that keep divisors from being 0
            verbose=False,
        )
        _simplify(program.model)
        model = program.model_proto
    store_in_half(model)
    model.producer_name, model.producer_version = "LatentAug", __version__
    for key, value in metadata_of(detector).items():
        model.metadata_props.add(key=key, value=value)
    if (length := model.ByteSize()) > MOST_BYTES:
        raise UserError(f"the ONNX file would have {length:,} bytes, but {MOST_BYTES:,} are the most")
    content: bytes = model.SerializeToString()
    check_answers(content, network, detector)
    return content


def _simplify(model: Any) -> None:
    """Write functions out and compute what is constant."""
    optimizer = importlib.import_module("onnxscript.optimizer")
    optimizer.inline(model)
    optimizer.fold_constants(model)
    optimizer.remove_unused_nodes(model)


@torch.inference_mode()
def check_answers(content: bytes, network: DetectorGraph, detector: AnomalyDetector) -> None:
    """Raise a ``UserError`` unless an ONNX file answers as ``network`` does, on images of soft blots."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    blots = torch.rand(3, detector.channels, 6, 6, generator=torch.Generator().manual_seed(0)) * 255
    images = functional.interpolate(blots, detector.size, mode="bicubic").clamp(0, 255).to(torch.uint8)
    found = session.run([SCORE, MAP], {IMAGES: images.numpy()})
    expected = network(images)
    for answer, truth in zip(found, (expected.score, expected.map), strict=True):
        error = float(np.abs(answer - truth.numpy()).mean())
        if not error <= TOLERANCE:
            raise UserError(
                f"the ONNX file doesn't answer as the detector in {detector.folder} does (it differs by "
                f"{error:.2g}), so it was not written: other versions of torch, onnx and onnxscript may help"
            )


def metadata_of(detector: AnomalyDetector) -> dict[str, str]:
    """What the file says of itself: how images become its input, and what its answers mean."""
    threshold, decision = detector.threshold, detector.decision
    facts = {
        "latent_aug": __version__,
        "format": FORMAT,
        "detector": json.loads((detector.folder / "detector.json").read_text())["facts"]["architecture"],
        "dataset": decision.dataset,
        "normal_images": len(decision.normal),
        "classes": CLASSES,
        "channels": detector.channels,
        "size": detector.size,
        "fit": "stretch",
        "threshold": threshold.score,
        "map_threshold": threshold.map,
        "false_alarms": threshold.false_alarms,
        "promised": threshold.promised,
        "f1": threshold.f1,
        "note": threshold.note,
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def _check_target(path: Path) -> None:
    """Raise a ``UserError`` unless a file can be written as ``path``."""
    if path.exists():
        raise UserError(f"--onnx {path}: it is there already; name another file, or delete it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"--onnx {path}: can't write there ({os.strerror(error.errno or 0)})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from announcing what it lacks and what it will change."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
