"""What can be wrong with a file: damage by chance, other things under its name, contents made to do harm."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensor_bytes

from latent_env.worlds.store import MANIFEST, seal_world

OUTSIDE = "outside"
"""The folder beside the one that is attacked in which nothing may be read."""

Mutation = Callable[[Path, random.Random], None]

HUGE = 2**33
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


def _damaged(change: Callable[[bytearray, random.Random], bytes | bytearray]) -> Mutation:
    def mutate(path: Path, rng: random.Random) -> None:
        path.write_bytes(change(bytearray(path.read_bytes()), rng))

    return mutate


def _flipped(held: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.randint(1, 8)):
        held[rng.randrange(len(held))] ^= 1 << rng.randrange(8)
    return held


def _flipped_at_the_beginning(held: bytearray, rng: random.Random) -> bytearray:
    held[rng.randrange(min(len(held), 64))] = rng.randrange(256)
    return held


def _overwritten(held: bytearray, rng: random.Random) -> bytearray:
    at, count = rng.randrange(len(held)), rng.randint(1, 512)
    held[at : at + count] = rng.randbytes(len(held[at : at + count]))
    return held


def _without_a_part(held: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(held))
    del held[at : at + rng.randint(1, 256)]
    return held


def _with_a_part_twice(held: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(held))
    held[at:at] = held[at : at + rng.randint(1, 256)]
    return held


def _replaced(make: Callable[[], bytes]) -> Mutation:
    def mutate(path: Path, _: random.Random) -> None:
        path.unlink()
        path.write_bytes(make())

    return mutate


def _linked(target: str) -> Mutation:
    def mutate(path: Path, _: random.Random) -> None:
        path.unlink()
        path.symlink_to(target or path.name)

    return mutate


def _folder(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, _: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _sparse(path: Path, _: random.Random) -> None:
    with path.open("r+b") as file:
        file.truncate(HUGE)


def _swapped(path: Path, rng: random.Random) -> None:
    others = [each for each in sorted(path.parent.rglob("*")) if each.is_file() and each != path]
    if others:
        path.write_bytes(rng.choice(others).read_bytes())


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch ../{OUTSIDE}/taken",)


def _zipped() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", _npy_header((2**16, 1, 128, 128)) + bytes(2**26))
    return held.getvalue()


def _npy_header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _object_array() -> bytes:
    held = io.BytesIO()
    np.savez(held, images=np.array([Payload()], object), labels=np.zeros(1))
    return held.getvalue()


def _large_picture() -> bytes:
    """A small PNG file of 30,000 × 30,000 pixels."""

    def part(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = part(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(bytes(2**22))) + part(b"IEND", b"")


def _picture(kind: str, mode: str, size: tuple[int, int] = (16, 16)) -> Callable[[], bytes]:
    def make() -> bytes:
        held = io.BytesIO()
        Image.new(mode, size).save(held, kind)
        return held.getvalue()

    return make


ANY: dict[str, Mutation] = {
    "bits flipped": _damaged(_flipped),
    "its beginning changed": _damaged(_flipped_at_the_beginning),
    "a part overwritten": _damaged(_overwritten),
    "a part missing": _damaged(_without_a_part),
    "a part twice": _damaged(_with_a_part_twice),
    "cut off": _damaged(lambda held, rng: held[: rng.randrange(len(held))]),
    "empty": _damaged(lambda *_: b""),
    "something appended": _damaged(lambda held, rng: held + rng.randbytes(rng.randint(1, 4096))),
    "random bytes": _damaged(lambda held, rng: rng.randbytes(len(held))),
    "zeros": _damaged(lambda held, _: bytes(len(held))),
    "another file's content": _swapped,
    "missing": lambda path, _: path.unlink(),
    "a folder": _folder,
    "a pipe": _pipe,
    "8 GiB of zeros": _sparse,
    "a link to /dev/zero": _linked("/dev/zero"),
    "a link to /dev/urandom": _linked("/dev/urandom"),
    "a link to nowhere": _linked("nowhere"),
    "a link to itself": _linked(""),
    "a packed gigabyte": _replaced(lambda: gzip.compress(bytes(2**28))),
    "an archive of a gigabyte": _replaced(_zipped),
    "a pickle that runs a command": _replaced(lambda: pickle.dumps(Payload())),
    "an array of objects": _replaced(_object_array),
    "a very large picture": _replaced(_large_picture),
    "a program": _replaced(lambda: b"\x7fELF" + bytes(60)),
    "a web page": _replaced(lambda: b"<html><body>404</body></html>"),
}
"""What any file may be instead, in words."""


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
    "nested a million times": _replaced(lambda: b"[" * 10**6),
    "a dictionary nested a million times": _replaced(lambda: b'{"a":' * 10**6),
    "a number of 10,000 digits": _replaced(lambda: b"9" * 10_000),
    "null": _replaced(lambda: b"null"),
    "40 MB of spaces": _replaced(lambda: b" " * 40_000_000),
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

PICTURES: dict[str, Mutation] = {
    f"a {kind} of mode {mode}": _replaced(_picture(kind, mode))
    for kind, mode in (
        *(("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("PNG", "1"), ("PNG", "LA"), ("JPEG", "CMYK")),
        *(("TIFF", "F"), ("TIFF", "I"), ("TIFF", "CMYK"), ("GIF", "P"), ("EPS", "RGB"), ("PCX", "L")),
        *(("ICO", "RGBA"), ("PDF", "RGB"), ("TGA", "RGB"), ("SGI", "L"), ("PPM", "L"), ("BMP", "L")),
    )
} | {
    "a pixel": _replaced(_picture("PNG", "L", (1, 1))),
    "a line of 60,000 pixels": _replaced(_picture("PNG", "L", (60000, 1))),
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
    "a cell of 2 MB": _replaced(lambda: b"object,split,label,image,mask\n" + b"a" * 2_000_000),
    "another head": _replaced(lambda: b"a,b,c\n1,2,3\n"),
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
