"""Saving and loading what a stage made: safetensors for numbers, JSON for facts, never pickle.

An artifact ``name`` is two files, ``name.safetensors`` and ``name.json``. Each is written under a
temporary name and renamed, the JSON last: an interrupted write leaves either the old artifact or
none. The JSON holds the kind, the format version, what is needed to build the object again, the
versions of the libraries, and the checksum that tells a damaged file from a good one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn

from detectors.base import Detector
from detectors.ensemble import EnsembleDetector
from detectors.errors import UserError
from detectors.kinds import SINGLE
from latent_env.autoencoders import (
    ConvAutoencoder,
    FrozenAutoencoder,
    MemoryAutoencoder,
    PretrainedAutoencoder,
)

FORMAT = 2


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` holds either all of it or what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as readable JSON, atomically."""
    write_atomically(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file that this project wrote."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): delete its folder and make it again") from error


def save_artifact(
    folder: Path, name: str, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Write ``name.safetensors`` and ``name.json`` in ``folder``."""
    held = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    content = tensor_bytes(held)
    description = {
        "kind": kind,
        "format": FORMAT,
        "facts": dict(facts),
        "sha256": hashlib.sha256(content).hexdigest(),
        "versions": {"torch": torch.__version__.split("+")[0]},
    }
    # Without its description an artifact doesn't exist: so a stop between the two writes leaves none.
    (folder / f"{name}.json").unlink(missing_ok=True)
    write_atomically(folder / f"{name}.safetensors", content)
    write_json(folder / f"{name}.json", description)


def load_artifact(folder: Path, name: str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the facts of an artifact; a damaged or foreign one is an error."""
    description = read_json(folder / f"{name}.json")
    path = folder / f"{name}.safetensors"
    if not isinstance(description, dict) or description.get("kind") != kind:
        found = description.get("kind") if isinstance(description, dict) else type(description).__name__
        raise UserError(f"{path.with_suffix('.json')} describes {found!r}, not {kind!r}")
    if not isinstance(description.get("facts"), dict):
        raise UserError(f"{path.with_suffix('.json')} holds no facts to build the object from")
    if description.get("format") != FORMAT:
        raise UserError(
            f"{path.with_suffix('.json')} has format {description.get('format')}, this version reads "
            f"{FORMAT}: make it again"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): make it again") from error
    if hashlib.sha256(content).hexdigest() != description.get("sha256"):
        raise UserError(
            f"{path} is damaged: it has {len(content)} bytes that don't match the checksum beside it. "
            "Delete its folder and make it again"
        )
    try:
        return parse_tensors(content), description["facts"]
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{path} is no safetensors file ({error}): make it again") from error


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path} doesn't fit the architecture it describes: {first}") from error


ARCHITECTURES: dict[str, dict[str, tuple[type[nn.Module], Callable[..., nn.Module]]]] = {
    "autoencoder": {
        "conv": (ConvAutoencoder, ConvAutoencoder),
        "memory": (MemoryAutoencoder, MemoryAutoencoder),
        "pretrained": (PretrainedAutoencoder, PretrainedAutoencoder.build),
    },
    "detector": {
        **{name: (kind, kind) for name, kind in SINGLE.items()},
        "ensemble": (EnsembleDetector, EnsembleDetector.build),
    },
}
"""Of every kind of artifact, the architectures by name: the class, and what builds it from stored facts."""


def _name_of(kind: str, module: object) -> str:
    # Exactly: a form with a memory is a convolutional autoencoder too, but can't be built again as one.
    return next(name for name, (known, _) in ARCHITECTURES[kind].items() if type(module) is known)


def save_autoencoder(folder: Path, autoencoder: FrozenAutoencoder) -> None:
    """Write the frozen autoencoder as the artifact ``autoencoder``."""
    name = _name_of("autoencoder", autoencoder.model)
    facts = {"architecture": name, **autoencoder.hyperparameters()}
    save_artifact(folder, "autoencoder", "autoencoder", autoencoder.state_dict(), facts)


def load_autoencoder(folder: Path) -> FrozenAutoencoder:
    """Read the artifact ``autoencoder``; ready to use, on the CPU."""
    tensors, facts = load_artifact(folder, "autoencoder", "autoencoder")
    path = folder / "autoencoder.safetensors"
    model = FrozenAutoencoder(_build("autoencoder", facts, path))
    _fill(model, tensors, path)
    return model


def save_detector(folder: Path, detector: Detector) -> None:
    """Write a detector as the artifact ``detector``."""
    assert isinstance(detector, nn.Module)
    facts = {"architecture": _name_of("detector", detector), **detector.hyperparameters()}
    save_artifact(folder, "detector", "detector", detector.state_dict(), facts)


def load_detector(folder: Path) -> Detector:
    """Read the artifact ``detector``; in evaluation mode, frozen, on the CPU."""
    tensors, facts = load_artifact(folder, "detector", "detector")
    path = folder / "detector.safetensors"
    model = _build("detector", facts, path)
    _fill(model, tensors, path)
    return model.requires_grad_(False).eval()


def _build(kind: str, facts: Mapping[str, Any], path: Path) -> Any:
    arguments = {key: value for key, value in facts.items() if key != "architecture"}
    known = ARCHITECTURES[kind]
    if facts.get("architecture") not in known:
        raise UserError(
            f"{path.with_suffix('.json')} names the architecture {facts.get('architecture')!r}, "
            f"but this version knows {', '.join(known)}"
        )
    try:
        return known[facts["architecture"]][1](**arguments)
    except UserError:
        raise
    except (TypeError, ValueError, LookupError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"{path.with_suffix('.json')} has arguments that don't fit: {error}") from error
