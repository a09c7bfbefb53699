"""Splits as ``.npz`` files: ``np.load`` opens them, and here they are mapped into memory."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from latent_env.data.dataset import Split

COPIED_AT_ONCE = 1 << 22  # bytes


class SplitWriter:
    """Collects the images of a split one by one in plain files, then packs them as ``<name>.npz``.

    The number of images is known only at the end, as broken files may be skipped, but it comes before the
    values in the header of an array. So the values are copied once.
    """

    def __init__(self, folder: Path, name: str, channels: int, size: int, with_masks: bool) -> None:
        self.path = folder / f"{name}.npz"
        self._shape = (channels, size, size)
        self._images_path, self._masks_path = folder / f"{name}.images", folder / f"{name}.masks"
        self._images: BinaryIO = self._images_path.open("wb")
        self._masks: BinaryIO | None = self._masks_path.open("wb") if with_masks else None
        self._labels: list[int] = []
        self._names: list[str] = []
        self._empty = np.zeros(self._shape[1:], np.bool_)

    def append(self, image: NDArray[np.uint8], mask: NDArray[np.bool_] | None, label: int, name: str) -> None:
        """Add an image ``(C, H, W)`` and its mask ``(H, W)``, if it has one."""
        self._images.write(np.ascontiguousarray(image).data)
        if self._masks is not None:
            self._masks.write(np.ascontiguousarray(self._empty if mask is None else mask).data)
        self._labels.append(label)
        self._names.append(name)

    def finish(self) -> None:
        """Pack all images, and remove the plain files."""
        count = len(self._labels)
        with zipfile.ZipFile(self.path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            self._images.close()
            _pack(archive, "images", np.dtype(np.uint8), (count, *self._shape), self._images_path)
            if self._masks is not None:
                self._masks.close()
                _pack(archive, "masks", np.dtype(np.bool_), (count, *self._shape[1:]), self._masks_path)
            for name, array in (
                ("labels", np.array(self._labels, np.int64)),
                ("names", np.array(self._names, str)),
            ):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    npy.write_array(member, array, allow_pickle=False)
        self.close()

    def close(self) -> None:
        """Close and remove the plain files."""
        for file, path in ((self._images, self._images_path), (self._masks, self._masks_path)):
            if file is not None:
                file.close()
            path.unlink(missing_ok=True)


def _pack(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], values: Path
) -> None:
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member, values.open("rb") as file:
        npy.write_array_header_2_0(member, header)
        while part := file.read(COPIED_AT_ONCE):
            member.write(part)


def open_split(path: Path, check: bool = False) -> Split:
    """A split whose images and masks stay on disk until they are used.

    :param check: compare them with their checksums first, for which all is read once.
    :raises OSError, ValueError, KeyError, zipfile.BadZipFile: for a file that is missing or damaged.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        small = {}
        for name in ("labels", "names"):
            with archive.open(members[name]) as file:
                small[name] = npy.read_array(file, allow_pickle=False)
        images = _map(path, members["images"], check)
        masks = _map(path, members["masks"], check) if "masks" in members else None
    return Split(images, small["labels"], masks, tuple(map(str, small["names"])))


def _map(path: Path, member: zipfile.ZipInfo, check: bool) -> NDArray[Any]:
    """An array inside an uncompressed archive, mapped into memory."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    with path.open("rb") as file:
        # The header of a member in the file itself: its length differs from that in the directory.
        file.seek(member.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
        begin = member.header_offset + 30 + name_length + extra_length
        file.seek(begin)
        if check and _checksum(file, member.file_size) != member.CRC:
            raise ValueError(f"{member.filename} doesn't match its checksum")
        file.seek(begin)
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = read_header(file)
        if fortran_order or dtype.hasobject:
            raise ValueError(f"{member.filename} holds an array that can't be mapped")
        return np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape)


def _checksum(file: BinaryIO, count: int) -> int:
    """The checksum of the next ``count`` bytes, as archives have it."""
    checksum = 0
    while count > 0 and (part := file.read(min(count, COPIED_AT_ONCE))):
        checksum, count = zlib.crc32(part, checksum), count - len(part)
    return checksum
