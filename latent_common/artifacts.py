"""Artifacts on disk: tensors in safetensors, facts in JSON, written atomically, never a pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from latent_common.errors import UserError
from latent_common.files import MOST_JSON, create, open_regular, read_bytes, remove_unfinished

FORMAT = 3
"""Raised when artifacts of earlier versions can't be read any more: they are refused."""


PART_COST, SMALLEST = 64, 1000
"""Every part of a network counts as so many numbers more than it has, and a network may have some parts
that nothing is stored of."""

LARGEST_FACT = 2**16
"""No number that describes a network is larger, unless the network itself is."""

READ_AT_ONCE = 2**22
"""Bytes of a file that are in memory while its checksum is computed."""

STAGED = ".next.safetensors"
"""What the name of tensors ends with until the JSON that describes them is written."""

T = TypeVar("T")


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` such that ``path`` holds either all of it or what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = create(path)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a full disk, which names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as readable JSON, atomically."""
    write_atomically(path, _as_json(content))


def _as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read a JSON file; one that is missing, damaged or very large is a ``UserError``."""
    try:
        return json.loads(read_bytes(path, MOST_JSON))
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: make its folder again") from error
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): delete its folder and make it again") from error


def in_half_if_exact(tensor: Tensor) -> Tensor:
    """``tensor`` in half precision, in half the space, if that holds its numbers exactly."""
    half = tensor.half()
    return half if torch.equal(half.to(tensor.dtype), tensor) else tensor


def save_artifact(
    folder: Path, name: str, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Write an artifact of some ``kind`` as ``name.safetensors`` and ``name.json`` in ``folder``."""
    content = tensor_bytes({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
    description = {
        "kind": kind,
        "format": FORMAT,
        "facts": dict(facts),
        "sha256": _digest(content),
        "versions": {"torch": torch.__version__.split("+")[0]},
    }
    _commit(folder, name, content, _as_json(description))


def copy_artifact(source: Path, target: Path, name: str) -> None:
    """Copy an artifact from the folder ``source`` to ``target``, in place of one that was there."""
    checksum = _checksum(source, name)
    content = _read_tensors(source, name, checksum)
    _commit(target, name, content, read_bytes(source / f"{name}.json", MOST_JSON))


def remove_artifact(folder: Path, name: str) -> None:
    """Remove an artifact, if there is one."""
    # Without its JSON an artifact doesn't exist, so a stop in between leaves none.
    for path in (folder / f"{name}.json", folder / f"{name}.safetensors", _staged(folder, name)):
        path.unlink(missing_ok=True)


def _staged(folder: Path, name: str) -> Path:
    """Where tensors are until the JSON that describes them is written."""
    return folder / f"{name}{STAGED}"


def _commit(folder: Path, name: str, tensors: bytes, description: bytes) -> None:
    """Write both files of an artifact: a stop at any moment leaves the old artifact or the new one."""
    settle_artifact(folder, name)  # what is committed stays the artifact until this one is
    staged = _staged(folder, name)
    write_atomically(staged, tensors)
    write_atomically(folder / f"{name}.json", description)  # which commits
    os.replace(staged, folder / f"{name}.safetensors")


def settle_artifact(folder: Path, name: str) -> None:
    """Finish a save that was stopped after it had committed, and undo one that was stopped before."""
    staged, committed = _staged(folder, name), False
    for path in (staged, folder / f"{name}.json"):
        remove_unfinished(path)
    if staged.is_file():
        with contextlib.suppress(UserError):  # the artifact may be damaged, or there is none
            committed = _has_checksum(staged, _checksum(folder, name))
        if committed:
            os.replace(staged, folder / f"{name}.safetensors")
        else:
            staged.unlink()


def _checksum(folder: Path, name: str) -> str | None:
    """The checksum that the JSON gives of the tensors; None if it gives none."""
    description = read_json(folder / f"{name}.json")
    return description.get("sha256") if isinstance(description, dict) else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_tensors(folder: Path, name: str, checksum: str | None) -> bytes:
    """The tensors of an artifact, still as bytes; a ``UserError`` if they don't have this ``checksum``."""
    staged, path = _staged(folder, name), folder / f"{name}.safetensors"
    with contextlib.suppress(OSError):  # a save was stopped after it had committed
        if _has_checksum(staged, checksum):
            return read_bytes(staged)
    try:
        if _has_checksum(path, checksum):
            return read_bytes(path)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): make it again") from error
    raise UserError(
        f"{path} is damaged: it has {size} bytes that don't match the checksum beside it. "
        "Delete its folder and make it again"
    )


def _has_checksum(path: Path, checksum: str | None) -> bool:
    """Whether a file, which may be too large for memory, has the right length and this ``checksum``."""
    found = hashlib.sha256()
    with open_regular(path) as file:
        if not _is_as_long_as_it_says(file):
            return False
        while part := file.read(READ_AT_ONCE):
            found.update(part)
    return found.hexdigest() == checksum


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
        tensors = parse_tensors(_read_tensors(folder, name, description.get("sha256")))
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is no safetensors file ({error}): make it again") from error
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path} holds numbers in {key} that are NaN or infinite: make it again")
    return tensors, description["facts"]


def _is_as_long_as_it_says(file: BinaryIO) -> bool:
    """Whether a safetensors file has the length that follows from its head."""
    head = int.from_bytes(file.read(8), "little")
    if head > MOST_JSON:
        return False
    try:
        described = json.loads(file.read(head))
        ends = [each["data_offsets"][1] for name, each in described.items() if name != "__metadata__"]
        length = 8 + head + max(ends, default=0)
    except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
        return False
    file.seek(0)
    return bool(length == os.fstat(file.fileno()).st_size)


def build_within(tensors: Mapping[str, Tensor], facts: Any, build: Callable[[], T]) -> T:
    """What ``build`` makes of ``facts`` and ``tensors`` fill; a ``UserError`` if it would be far larger.

    It is built twice, first without memory for its numbers: a description that asks for a billion layers
    is refused before they take up anything.
    """
    stored = sum(tensor.numel() for tensor in tensors.values())
    for number in _whole_numbers(facts):
        if abs(number) > max(stored, LARGEST_FACT):  # libraries make lists of such lengths
            raise UserError(f"it describes more numbers than are stored beside it: {number}")
    counting = _Counting(2 * stored + PART_COST * (len(tensors) + SMALLEST))
    hooks = [
        register_module_parameter_registration_hook(counting.part),
        register_module_buffer_registration_hook(counting.part),
        register_module_module_registration_hook(counting.part),
    ]
    try:
        with torch.device("meta"), counting:
            build()
    finally:
        for hook in hooks:
            hook.remove()
    return build()


def _whole_numbers(facts: Any) -> Iterator[int]:
    """Every whole number in plain values."""
    if isinstance(facts, Mapping):
        facts = list(facts.values())
    if isinstance(facts, list):
        for each in facts:
            yield from _whole_numbers(each)
    elif isinstance(facts, int):
        yield facts


class _Counting(TorchFunctionMode):
    """Counts the numbers of networks as they are built, and stops where they are more than ``left``."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def part(self, _module: nn.Module | None, _name: str, part: Tensor | nn.Module | None) -> None:
        """Count a part that a module gets."""
        self.left -= PART_COST + (part.numel() if isinstance(part, Tensor) else 0)
        if self.left < 0:
            raise UserError("it describes more numbers than are stored beside it")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.clone:  # copies of layers are made without anything that is registered
            self.part(None, "", args[0])
        return func(*args, **(kwargs or {}))
