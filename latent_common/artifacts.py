"""Artifacts on disk: tensors in safetensors, facts in JSON, written atomically, never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from latent_common.errors import UserError

FORMAT = 3
"""Raised when artifacts of earlier versions can't be read any more: they are refused."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` such that ``path`` holds either all of it or what it held before."""
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
    """Read a JSON file; one that is missing or damaged is a ``UserError``."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: make its folder again") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): delete its folder and make it again") from error


def save_artifact(
    folder: Path, name: str, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Write an artifact of some ``kind`` as ``name.safetensors`` and ``name.json`` in ``folder``."""
    content = tensor_bytes({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
    description = {
        "kind": kind,
        "format": FORMAT,
        "facts": dict(facts),
        "sha256": hashlib.sha256(content).hexdigest(),
        "versions": {"torch": torch.__version__.split("+")[0]},
    }
    # An artifact without its JSON doesn't exist, so a stop between the two writes leaves none.
    (folder / f"{name}.json").unlink(missing_ok=True)
    write_atomically(folder / f"{name}.safetensors", content)
    write_json(folder / f"{name}.json", description)


def load_artifact(folder: Path, name: str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the facts of an artifact.

    One that is damaged, of another kind or of another format is a ``UserError``.
    """
    description = read_json(folder / f"{name}.json")
    path = folder / f"{name}.safetensors"
    # First: an older version may have had other kinds and other facts.
    if isinstance(description, dict) and "kind" in description and description.get("format") != FORMAT:
        raise UserError(
            f"{path.with_suffix('.json')} has format {description.get('format')}, but this version reads "
            f"format {FORMAT}: delete the folder {folder}, and the command that made it makes it again"
        )
    if not isinstance(description, dict) or description.get("kind") != kind:
        found = description.get("kind") if isinstance(description, dict) else type(description).__name__
        raise UserError(f"{path.with_suffix('.json')} describes {found!r}, not {kind!r}")
    if not isinstance(description.get("facts"), dict):
        raise UserError(f"{path.with_suffix('.json')} holds no facts to build the object from")
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
