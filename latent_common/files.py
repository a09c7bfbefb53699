"""Files and folders: what others wrote is read within limits, and names from elsewhere never lead outside."""

from __future__ import annotations

import errno
import gzip
import math
import os
import re
import secrets
import stat
import tempfile
import zipfile
from pathlib import Path, PurePath
from typing import BinaryIO

from numpy.lib import format as npy

from latent_common.errors import UserError

MOST_RATIO, SLACK = 100, 2**24
"""Packed data may unpack to so many times its size, and so many bytes more: images shrink to a half or a
tenth, masks to a hundredth."""

MOST_JSON = 2**24
"""A JSON file has at most so many bytes."""

LONGEST_PATH, LONGEST_PART = 4000, 255
"""A path, and each of its parts, may have so many bytes."""

LONGEST_NAME = 200
"""A name of a file or folder may have so many bytes; with what is added it fits any file system."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading; a device or a pipe is a ``UserError``.

    :raises OSError: if it isn't there or can't be opened.
    """
    # Without O_NONBLOCK opening a pipe waits for somebody to write into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise UserError(f"{path} is no regular file, but a device or pipe: it was not read")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """All of a regular file; one of more than ``most`` bytes is a ``UserError``.

    :raises OSError: if it isn't there or can't be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise UserError(f"{path} has {size:,} bytes, more than the {most:,} that such a file may have")
        return file.read(size)


def gunzip(path: Path, most: int) -> bytes:
    """The content of a ``.gz`` file, of at most ``most`` bytes and :data:`MOST_RATIO` times its own size.

    :raises OSError, EOFError, zlib.error: if it isn't there or is damaged.
    """
    with open_regular(path) as file, gzip.GzipFile(fileobj=file) as unpacked:
        size = os.fstat(file.fileno()).st_size
        if size > most + SLACK:  # as by zeros at its end, which unpacking would read one by one
            raise UserError(
                f"{path} has {size:,} bytes, more than what it may hold ({most:,}): it was not read"
            )
        most = min(most, MOST_RATIO * size + SLACK)
        content = unpacked.read(most + 1)
    if len(content) > most:
        raise UserError(f"{path} unpacks to more than {most:,} bytes: that is no data, it was not read")
    return content


def check_archive(path: Path) -> None:
    """Raise a ``UserError`` if an ``.npz`` file would take up far more memory than its size explains.

    :raises OSError, ValueError, zipfile.BadZipFile: if it isn't there or is damaged.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        most = MOST_RATIO * os.fstat(file.fileno()).st_size + SLACK
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > most:
            raise UserError(f"{path} unpacks to {total:,} bytes, but {most:,} are the most for its size")
        for member in members:
            if not member.filename.endswith(".npy"):
                continue
            with archive.open(member) as content:
                read = (
                    npy.read_array_header_1_0
                    if npy.read_magic(content) == (1, 0)
                    else npy.read_array_header_2_0
                )
                shape, _, kind = read(content)
            if not kind.hasobject and math.prod(shape) * kind.itemsize > member.file_size:
                raise UserError(f"{path} claims an array {shape} in {member.filename}, larger than it is")


def create(path: Path) -> tuple[int, Path]:
    """Create a file beside ``path`` under a new name: its handle for writing, and where it is.

    Its permissions are those that the user's umask leaves, as of any new file.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    return os.open(beside, flags, 0o666), beside


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of writing ``path``; no other process may be writing it now."""
    for left in path.parent.glob(f".{path.name}.*"):
        if re.fullmatch(r"[0-9a-f]{8}", left.name.rpartition(".")[2]):
            left.unlink(missing_ok=True)


def path_below(root: Path, name: str, key: str) -> Path:
    """``root / name``, for a path that was read from a file or given as ``key``.

    One that leads out of ``root`` is a ``UserError``.
    """
    parts = PurePath(name)
    if not name or "\0" in name or parts.is_absolute() or ".." in re.split(r"[/\\]", name):
        raise UserError(f"{key}={shortened(name)} leads out of {root}: name what lies below it, without ..")
    return root / parts


def check_file_name(name: str, key: str) -> str:
    """Return ``name``, given as ``key``; a ``UserError`` if it can't be the name of one file or folder."""
    if not re.fullmatch(r"[^/\\.\0][^/\\\0]*", name) or len(os.fsencode(name)) > LONGEST_NAME:
        raise UserError(
            f"{key}={shortened(name)} can't be the name of a folder: use up to {LONGEST_NAME} letters, "
            "no / and no \\, and no dot as the first"
        )
    return name


def check_path(text: object, key: str) -> str:
    """Return ``text``, given as ``key``; a ``UserError`` if it is no path that a file system could have."""
    if not isinstance(text, str) or not text:
        raise UserError(f"{key}={text!r} must be a name or a folder")
    longest = max(len(os.fsencode(part)) for part in (*PurePath(text).parts, ""))
    if "\0" in text or len(os.fsencode(text)) > LONGEST_PATH or longest > LONGEST_PART:
        raise UserError(f"{key}={shortened(text)!r} can't be the path of a folder")
    return text


def shortened(text: str) -> str:
    """A name or path for a message: of one that is too long to be meant, the beginning and the length."""
    return text if len(text) <= 2 * LONGEST_NAME else f"{text[:20]}… ({len(text):,} letters)"


def check_writable(folder: str, key: str) -> None:
    """Raise a ``UserError`` if ``folder``, which the setting ``key`` names, can't be written to."""
    if not folder:
        raise UserError(f"{key}= is empty: name a folder, for example {key}=my_{key}")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{key}={shortened(folder)}: can't write there ({reason})") from error
