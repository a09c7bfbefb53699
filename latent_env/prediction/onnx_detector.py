"""A detector from an ONNX file, as `latent-aug export` writes it: predicts without PyTorch."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latent_common.errors import UserError, first_line
from latent_common.files import read_bytes
from latent_env.prediction.pixels import Pixels
from latent_env.prediction.result import FOUND, Prediction

IMAGES = "images"
SCORE, MAP = "score", "map"
OUTPUTS = (SCORE, "p_value", MAP, "raw_score")
"""The names of what the file takes and answers."""

FORMAT = 1
"""Raised when files of earlier versions can't be read any more: they are refused."""

MOST_BYTES = 2**31 - 1
"""An ONNX file has at most so many bytes."""

TOGETHER = 8
"""So many images go through the network together: a memory bank may need some tens of megabytes for each."""

INSTALL = "`pip install 'latent-aug[onnx]'` installs what it takes"

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""What ONNX Runtime calls devices."""


@dataclass(frozen=True, eq=False)
class OnnxDetector:
    """A detector from an ONNX file; the threshold is the one it was exported with."""

    session: Any
    facts: Mapping[str, Any]
    """What the file says of itself."""

    @property
    def size(self) -> int:
        """Images are resized to so many pixels a side."""
        return int(self.facts["size"])

    @property
    def channels(self) -> int:
        """1 if images are seen in grey, 3 in colour."""
        return int(self.facts["channels"])

    @property
    def together(self) -> int:
        """How many images are best predicted at once."""
        return TOGETHER

    @property
    def note(self) -> str:
        """A sentence where the threshold promises less than was asked for; else empty."""
        return str(self.facts.get("note", ""))

    def predict_pixels(self, read: Sequence[Pixels]) -> list[Prediction]:
        """What the detector says of images; all go through the network together."""
        if not read:
            return []
        batch = np.stack([each.pixels for each in read])
        scores, p_values, maps, raw = self.session.run(list(OUTPUTS), {IMAGES: batch})
        return [
            Prediction(
                score=float(scores[at]),
                p_value=float(p_values[at]),
                is_anomaly=bool(scores[at] > FOUND),
                map=maps[at],
                raw_score=float(raw[at]),
                native=each.native,
                name=each.name,
            )
            for at, each in enumerate(read)
        ]


def load_onnx(path: Path, device: str = "auto", threads: int = 2) -> OnnxDetector:
    """The detector in an ONNX file, ready to predict.

    :param device: ``cpu``, ``cuda``, or ``auto`` for a GPU where this ONNX Runtime has one.
    :param threads: of the CPU.
    :raises UserError: in one line, if it isn't there, or is no such file, or of another version.
    """
    content, runtime = _content(path), _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # of what it says, errors alone
    providers = _providers(runtime, device)
    try:
        session = runtime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # its errors have no common class
        raise UserError(f"{path} can't be read as an ONNX model ({first_line(error)})") from error
    return OnnxDetector(session, _facts(session, path))


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path, MOST_BYTES)
    except OSError as error:
        raise UserError(
            f"{path} can't be read ({error.strerror}): name a file that `latent-aug export RUN --onnx FILE` "
            "wrote"
        ) from error


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UserError(f"an ONNX file needs onnxruntime: {INSTALL}") from error


def _providers(runtime: Any, device: str) -> list[str]:
    """What computes, in the order of preference."""
    there = [name for name, provider in PROVIDERS.items() if provider in runtime.get_available_providers()]
    if device == "auto":
        return [PROVIDERS[name] for name in reversed(there)]
    if device not in PROVIDERS:
        raise UserError(f"device={device} is unknown: choose cpu, cuda or auto")
    if device not in there:
        raise UserError(f"device={device}, but this ONNX Runtime has none: install onnxruntime-gpu")
    return [PROVIDERS[device]]


def _facts(session: Any, path: Path) -> dict[str, Any]:
    """What the file says of itself; a ``UserError`` unless it is one of ours, and of this version."""
    stored = session.get_modelmeta().custom_metadata_map
    if "latent_aug" not in stored:
        raise UserError(f"{path} is an ONNX model of another program: `latent-aug export` writes ours")
    try:
        facts = {name: json.loads(stored[name]) for name in ("format", "channels", "size")}
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} doesn't say what it takes: export it again") from error
    if facts["format"] != FORMAT:
        raise UserError(
            f"{path} has format {facts['format']}, but this version reads format {FORMAT}: export it again"
        )
    shape = [facts["channels"], facts["size"], facts["size"]]
    inputs = {each.name: (each.type, each.shape[1:]) for each in session.get_inputs()}
    answers = {each.name for each in session.get_outputs()}
    if inputs != {IMAGES: ("tensor(uint8)", shape)} or not answers >= set(OUTPUTS):
        raise UserError(f"{path} doesn't take and answer what it says: export it again")
    return {**stored, **facts}
