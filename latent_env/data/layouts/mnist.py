"""MNIST in its own format: idx files, compressed or not."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latent_common.errors import UserError
from latent_common.files import gunzip, read_bytes
from latent_env.data.finding import find_file, find_place, not_found_error
from latent_env.data.layouts.one_class import Classified, check_normal, one_class_source
from latent_env.data.samples import Source
from latent_env.data.splitting import Splitting

ALIASES = ("mnist", "mnist_original")
TREE = """\
  train-images-idx3-ubyte.gz    or without .gz; perhaps in a folder raw
  train-labels-idx1-ubyte.gz
  t10k-images-idx3-ubyte.gz
  t10k-labels-idx1-ubyte.gz"""
ORIGIN = (
    "MNIST is hosted in many places, such as https://ossci-datasets.s3.amazonaws.com/mnist/ (four files)."
)
MOST_BYTES = 2**29
"""MNIST's largest file has a tenth as many."""

UNSIGNED_BYTE = 8
BORDER = 2
"""Black pixels on every side turn MNIST's 28 pixels into 32 without blurring."""


def mnist_source(data_root: Path, normal: int | Sequence[int], splitting: Splitting) -> Source:
    """MNIST below ``data_root``; the digits in ``normal`` are normal, all others anomalies."""
    digits = check_normal(normal, "dataset.normal=3")
    place = find_place(data_root, ALIASES, lambda folder: len(_files(folder)) == 4)
    if place is None:
        raise not_found_error("mnist", data_root, ALIASES, TREE, ORIGIN)
    files = _files(place)
    train, test = _read_pair(*files[:2]), _read_pair(*files[2:])
    names = [f"digit {digit}" for digit in range(10)]
    return one_class_source("mnist", train, test, digits, splitting, files, names, BORDER)


def _files(folder: Path) -> list[Path]:
    """Images and labels of train, images and labels of test; fewer than four if some are missing."""
    stems = [f"{split}-{what}" for split in ("train", "t10k") for what in ("images{}idx3", "labels{}idx1")]
    wanted = [[f"{stem.format(dot)}-ubyte{end}" for dot in "-." for end in ("", ".gz")] for stem in stems]
    found = [find_file(folder, *names) for names in wanted]
    return [path for path in found if path is not None]


def _read_pair(images: Path, labels: Path) -> Classified:
    pixels, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(classes):
        raise UserError(f"{images} holds {len(pixels)} images, but {labels} {len(classes)} labels")
    if classes.size and classes.max() > 9:
        raise UserError(f"{labels} holds {classes.max()}, which is no digit")
    return Classified(pixels, classes)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, compressed if its name ends in ``.gz``."""
    try:
        content = gunzip(path, MOST_BYTES) if path.suffix == ".gz" else read_bytes(path, MOST_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged or cut short ({error}). Download it again.") from error
    head = 4 + 4 * dimensions
    if len(content) < head or content[:4] != bytes([0, 0, UNSIGNED_BYTE, dimensions]):
        raise UserError(f"{path} is no idx file of {dimensions} dimensions. Download it again.")
    shape = struct.unpack(f">{dimensions}I", content[4:head])
    expected = math.prod(shape)
    if len(content) - head != expected:
        raise UserError(
            f"{path} should hold {expected} bytes after its head but holds {len(content) - head}. "
            "Download it again."
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
