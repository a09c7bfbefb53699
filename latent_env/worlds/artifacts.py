"""Autoencoders and detectors as artifacts: safetensors for numbers, JSON for facts, never pickle.

An artifact ``name`` is two files, ``name.safetensors`` and ``name.json``. Each is written under a
temporary name and renamed. The JSON commits: an interrupted write leaves the old artifact or the new one.
The JSON holds the kind, the format version, the arguments that build the object again, the versions of
the libraries, and the checksum that tells a damaged file from a good one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detectors.base import Detector
from detectors.ensemble import EnsembleDetector
from detectors.registry import DETECTORS
from latent_common.artifacts import build_within, in_half_if_exact, load_artifact, save_artifact
from latent_common.errors import UserError
from latent_common.files import MOST_JSON, read_bytes
from latent_common.image_source import LARGEST_IMAGE
from latent_env.autoencoders import (
    ConvAutoencoder,
    FrozenAutoencoder,
    GenerativeAutoencoder,
    MemoryAutoencoder,
    PretrainedAutoencoder,
)
from latent_env.autoencoders.pretrained import PretrainedEncoder


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path} doesn't fit the architecture it describes: {first}") from error


BACKBONE = "backbone"

ARCHITECTURES: dict[str, dict[str, tuple[type[nn.Module], Callable[..., nn.Module]]]] = {
    "autoencoder": {
        "conv": (ConvAutoencoder, ConvAutoencoder),
        "generative": (GenerativeAutoencoder, GenerativeAutoencoder.build),
        "memory": (MemoryAutoencoder, MemoryAutoencoder),
        "pretrained": (PretrainedAutoencoder, PretrainedAutoencoder.build),
    },
    "detector": {
        **{name: (kind, kind) for name, kind in DETECTORS.items()},
        "ensemble": (EnsembleDetector, EnsembleDetector.build),
    },
    BACKBONE: {"pretrained": (PretrainedEncoder, PretrainedEncoder.build)},
}
"""The architectures of each kind of artifact, by name: the class, and what builds it from stored facts."""


def _name_of(kind: str, module: object) -> str:
    # Not by isinstance: a memory autoencoder is a convolutional one too, but can't be built again as one.
    return next(name for name, (known, _) in ARCHITECTURES[kind].items() if type(module) is known)


def digest_of_artifact(folder: Path, name: str) -> str:
    """A digest of all of an artifact: its JSON holds the checksum of its tensors."""
    path = folder / f"{name}.json"
    try:
        return hashlib.sha256(read_bytes(path, MOST_JSON)).hexdigest()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): make the folder again") from error


def save_autoencoder(folder: Path, autoencoder: FrozenAutoencoder) -> None:
    """Write the frozen autoencoder as the artifact ``autoencoder``."""
    name = _name_of("autoencoder", autoencoder.model)
    facts = {"architecture": name, **autoencoder.hyperparameters()}
    tensors = autoencoder.state_dict()
    if autoencoder.model.is_generator:
        tensors = {name: in_half_if_exact(tensor) for name, tensor in tensors.items()}
    save_artifact(folder, "autoencoder", "autoencoder", tensors, facts)


def load_autoencoder(folder: Path) -> FrozenAutoencoder:
    """Read the artifact ``autoencoder``; ready to use, on the CPU."""
    tensors, facts = load_artifact(folder, "autoencoder", "autoencoder")
    path = folder / "autoencoder.safetensors"
    model: FrozenAutoencoder = _build("autoencoder", facts, tensors, path, FrozenAutoencoder)
    _fill(model, tensors, path)
    return model


def save_backbone(folder: Path, backbone: PretrainedEncoder) -> None:
    """Write a backbone, fitted to the images of a data set, as the artifact ``backbone``."""
    facts = {"architecture": _name_of(BACKBONE, backbone), **backbone.hyperparameters()}
    save_artifact(folder, BACKBONE, BACKBONE, backbone.state_dict(), facts)


def load_backbone(folder: Path) -> PretrainedEncoder | None:
    """Read the artifact ``backbone``, frozen, on the CPU; None if ``folder`` has none."""
    if not (folder / f"{BACKBONE}.json").is_file():
        return None
    tensors, facts = load_artifact(folder, BACKBONE, BACKBONE)
    path = folder / f"{BACKBONE}.safetensors"
    encoder: PretrainedEncoder = _build(BACKBONE, facts, tensors, path)
    _fill(encoder, tensors, path)
    return encoder.requires_grad_(False)


def save_detector(folder: Path, detector: Detector) -> None:
    """Write a detector as the artifact ``detector``."""
    assert isinstance(detector, nn.Module)
    facts = {"architecture": _name_of("detector", detector), **detector.hyperparameters()}
    save_artifact(folder, "detector", "detector", detector.state_dict(), facts)


def load_detector(folder: Path) -> Detector:
    """Read the artifact ``detector``; in evaluation mode, frozen, on the CPU."""
    tensors, facts = load_artifact(folder, "detector", "detector")
    path = folder / "detector.safetensors"
    model: Any = _build("detector", facts, tensors, path)
    _fill(model, tensors, path)
    return model.requires_grad_(False).eval()


def _build(
    kind: str,
    facts: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    path: Path,
    wrap: Callable[[Any], Any] = lambda model: model,
) -> Any:
    """The untrained network that ``facts`` describe, no larger than the ``tensors`` stored beside them."""
    arguments = {key: value for key, value in facts.items() if key != "architecture"}
    known = ARCHITECTURES[kind]
    name = facts.get("architecture")
    if not isinstance(name, str) or name not in known:
        raise UserError(
            f"{path.with_suffix('.json')} names the architecture {name!r}, "
            f"but this version knows {', '.join(known)}"
        )
    try:
        size = arguments.get("size", 0)
        if not isinstance(size, int) or size > LARGEST_IMAGE:
            raise ValueError(f"images of {size} pixels a side, but {LARGEST_IMAGE} are the most")
        return build_within(tensors, arguments, lambda: wrap(known[name][1](**arguments)))
    except (TypeError, ValueError, LookupError, RuntimeError, ArithmeticError, AttributeError) as error:
        raise UserError(f"{path.with_suffix('.json')} has arguments that don't fit: {error}") from error
