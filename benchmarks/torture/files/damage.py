"""What can be wrong with a file: damage by chance, other things under its name, contents made to do harm."""

from __future__ import annotations

import gzip
import io
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
from PIL import Image

OUTSIDE = "outside"
"""The folder beside the one that is attacked in which nothing may be read."""

Mutation = Callable[[Path, random.Random], None]

HUGE = 2**33


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


def replaced(make: Callable[[], bytes]) -> Mutation:
    """Another file in its place, with the content that ``make`` returns."""

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
    "a packed gigabyte": replaced(lambda: gzip.compress(bytes(2**28))),
    "an archive of a gigabyte": replaced(_zipped),
    "a pickle that runs a command": replaced(lambda: pickle.dumps(Payload())),
    "an array of objects": replaced(_object_array),
    "a very large picture": replaced(_large_picture),
    "a program": replaced(lambda: b"\x7fELF" + bytes(60)),
    "a web page": replaced(lambda: b"<html><body>404</body></html>"),
}
"""What any file may be instead, in words."""


PICTURES: dict[str, Mutation] = {
    f"a {kind} of mode {mode}": replaced(_picture(kind, mode))
    for kind, mode in (
        *(("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("PNG", "1"), ("PNG", "LA"), ("JPEG", "CMYK")),
        *(("TIFF", "F"), ("TIFF", "I"), ("TIFF", "CMYK"), ("GIF", "P"), ("EPS", "RGB"), ("PCX", "L")),
        *(("ICO", "RGBA"), ("PDF", "RGB"), ("TGA", "RGB"), ("SGI", "L"), ("PPM", "L"), ("BMP", "L")),
    )
} | {
    "a pixel": replaced(_picture("PNG", "L", (1, 1))),
    "a line of 60,000 pixels": replaced(_picture("PNG", "L", (60000, 1))),
}
