"""What can be wrong with the contents of a file of some format, made such that checksums fit."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensor_bytes

from benchmarks.torture.files.damage import ANY, PICTURES, Mutation, replaced
from latent_env.worlds.store import MANIFEST, seal_world

WRONG_VALUES: tuple[Any, ...] = (
    *(float("nan"), float("inf"), 1e308, -1, 0, 10**9, 10**30, -(10**30), 2**31, 2**63, 1e-320),
    *(
        "x" * 5000,
        "",
        "../../outside/secret",
        "/etc/passwd",
        "\0",
        "NaN",
        None,
        True,
        [],
        {},
        [[[]]],
        [1] * 9,
    ),
)


def _changed_json(path: Path, rng: random.Random) -> None:
    held = json.loads(path.read_bytes())
    places = list(_places(held))
    above, key = rng.choice(places)
    if rng.random() < 0.15 and isinstance(above, dict):
        del above[key]
    else:
        above[key] = rng.choice(WRONG_VALUES)
    path.write_text(json.dumps(held))
    seal(path)


def _places(held: Any) -> list[tuple[Any, Any]]:
    keys = held.keys() if isinstance(held, dict) else range(len(held)) if isinstance(held, list) else ()
    return [place for key in keys for place in [(held, key), *_places(held[key])]]


JSON: dict[str, Mutation] = {
    **{f"a value changed ({number})": _changed_json for number in range(1, 7)},
    "nested a million times": replaced(lambda: b"[" * 10**6),
    "a dictionary nested a million times": replaced(lambda: b'{"a":' * 10**6),
    "a number of 10,000 digits": replaced(lambda: b"9" * 10_000),
    "null": replaced(lambda: b"null"),
    "40 MB of spaces": replaced(lambda: b" " * 40_000_000),
}


def seal(path: Path) -> None:
    """Let checksums fit again what was changed, as somebody who means harm would."""
    tensors, description = path.with_suffix(".safetensors"), path.with_suffix(".json")
    if path.suffix == ".safetensors" and description.is_file():
        held = json.loads(description.read_bytes())
        held["sha256"] = hashlib.sha256(tensors.read_bytes()).hexdigest()
        description.write_text(json.dumps(held))
    manifest = path.parent / MANIFEST
    if manifest.is_file() and path != manifest:
        try:
            seal_world(path.parent)
        except (ValueError, TypeError, AttributeError):
            return  # what was changed is so wrong that there is nothing to seal


def _changed_tensors(change: Callable[[torch.Tensor, random.Random], torch.Tensor]) -> Mutation:
    def mutate(path: Path, rng: random.Random) -> None:
        held = parse_tensors(path.read_bytes())
        key = rng.choice(sorted(held))
        held[key] = change(held[key], rng).contiguous()
        path.write_bytes(tensor_bytes({name: each.clone() for name, each in held.items()}))
        seal(path)

    return mutate


def _one_less(path: Path, rng: random.Random) -> None:
    held = parse_tensors(path.read_bytes())
    del held[rng.choice(sorted(held))]
    path.write_bytes(tensor_bytes(held))
    seal(path)


def _header(size: int, text: bytes) -> Mutation:
    def mutate(path: Path, _: random.Random) -> None:
        path.write_bytes(struct.pack("<Q", size) + text)
        seal(path)

    return mutate


TENSORS: dict[str, Mutation] = {
    "NaN": _changed_tensors(lambda each, _: torch.full_like(each, 1).float() * torch.nan),
    "infinities": _changed_tensors(lambda each, _: torch.full_like(each, 1).float() * torch.inf),
    "numbers that overflow": _changed_tensors(lambda each, _: each.float() * 0 + 3e38),
    "all zero": _changed_tensors(lambda each, _: each * 0),
    "negative": _changed_tensors(lambda each, _: -each.float() - 1),
    "another type": _changed_tensors(
        lambda each, rng: each.to(rng.choice([torch.float64, torch.float16, torch.int8, torch.bool]))
    ),
    "flat": _changed_tensors(lambda each, _: each.flatten()),
    "a dimension more": _changed_tensors(lambda each, _: each[None]),
    "no rows": _changed_tensors(lambda each, _: each[:0] if each.ndim else each[None][:0]),
    "a row more": _changed_tensors(
        lambda each, _: torch.cat([each, each[:1]]) if each.ndim and len(each) else each[None]
    ),
    "shuffled": _changed_tensors(lambda each, _: each.flip(0) if each.ndim else each + 1),
    "a tensor missing": _one_less,
    "a header of 2^60 bytes": _header(2**60, b"{}"),
    "a header nested deeply": _header(10**5, b'{"a":' * 20_000),
    "a tensor of 2^60 numbers": _header(
        63, b'{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4]}}'[:63]
    ),
}

LEADING_OUT = (
    "../../outside/secret.png",
    "../outside/secret.png",
    "/etc/passwd",
    "\0",
    "x" * 5000,
    "..",
    "/dev/zero",
)


def _changed_table(path: Path, rng: random.Random) -> None:
    rows = [line.split(",") for line in path.read_text().splitlines()]
    row = rng.choice(rows)
    row[rng.randrange(len(row))] = rng.choice((*LEADING_OUT, '"', "", "train", "-1"))
    path.write_text("\n".join(",".join(each) for each in rows))


TABLES: dict[str, Mutation] = {
    **{f"a cell changed ({number})": _changed_table for number in range(1, 9)},
    "a cell of 2 MB": replaced(lambda: b"object,split,label,image,mask\n" + b"a" * 2_000_000),
    "another head": replaced(lambda: b"a,b,c\n1,2,3\n"),
}


def _changed_arrays(path: Path, rng: random.Random) -> None:
    with np.load(path) as opened:
        held = dict(opened)
    key = rng.choice(sorted(held))
    array = held[key]
    changes: list[Callable[[], Any]] = [
        lambda: array[:-1],
        lambda: array[None],
        lambda: array[:0],
        lambda: np.full(array.shape, np.nan),
        lambda: np.zeros(array.shape, np.complex64),
        lambda: array.astype(str),
        lambda: np.full(array.shape, 99),
        lambda: np.full(array.shape, -1),
        lambda: np.array(5),
    ]
    held[key] = rng.choice(changes)()
    np.savez(path, **held)


ARRAYS: dict[str, Mutation] = {f"an array changed ({number})": _changed_arrays for number in range(1, 9)}


def mutations_of(path: Path) -> dict[str, Mutation]:
    """What can be wrong with the file ``path``, in words."""
    own = {".json": JSON, ".safetensors": TENSORS, ".csv": TABLES, ".npz": ARRAYS}.get(path.suffix, {})
    if path.suffix in (".png", ".jpg", ".tif", ".bmp"):
        own = PICTURES
    return {**ANY, **own}
