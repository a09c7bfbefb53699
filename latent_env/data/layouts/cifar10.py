"""CIFAR-10 in its binary version, and in the Python version as its authors wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latent_common.errors import UserError
from latent_common.files import read_bytes
from latent_env.data.finding import find_file, find_place, not_found_error
from latent_env.data.layouts.cifar10_pickle import read_pickled_batch
from latent_env.data.layouts.one_class import Classified, check_normal, one_class_source
from latent_env.data.samples import Source
from latent_env.data.splitting import Splitting

ALIASES = ("cifar10", "cifar10_data")
TREE = """\
  data_batch_1.bin … data_batch_5.bin, test_batch.bin    the binary version, or
  data_batch_1 … data_batch_5, test_batch                the Python version,
  directly there or in the folder cifar-10-batches-bin or cifar-10-batches-py of the archive"""
ORIGIN = "CIFAR-10 comes from https://www.cs.toronto.edu/~kriz/cifar.html (either version; unpack it)."
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE, ROW = 32, 1 + 3 * 32 * 32
MOST_BYTES = 2**26
"""A batch of the archive has about half as many."""

SHOWN = 100
"""So many letters of what is wrong with a pickle are shown."""

BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


def cifar10_source(data_root: Path, normal: int | Sequence[int], splitting: Splitting) -> Source:
    """CIFAR-10 below ``data_root``; the classes in ``normal`` are normal, all others anomalies."""
    classes = check_normal(normal, "dataset.normal=0")
    place = find_place(
        data_root,
        (*ALIASES, "cifar-10-batches-bin", "cifar-10-batches-py"),
        lambda folder: bool(_files(folder)),
    )
    if place is None:
        raise not_found_error("cifar10", data_root, ("cifar10",), TREE, ORIGIN)
    files = _files(place)
    parts = [_read_binary(path) if path.suffix == ".bin" else _read_pickled(path) for path in files]
    train = Classified(
        np.concatenate([part.images for part in parts[:-1]]),
        np.concatenate([part.classes for part in parts[:-1]]),
    )
    return one_class_source("cifar10", train, parts[-1], classes, splitting, files, CLASSES)


def _files(folder: Path) -> list[Path]:
    """The five training batches and the test batch of either version, or nothing."""
    for ending in (".bin", ""):
        found = [find_file(folder, f"{stem}{ending}") for stem in (*BATCHES, "test_batch")]
        files = [path for path in found if path is not None]
        if len(files) == len(BATCHES) + 1:
            return files
    return []


def _read_binary(path: Path) -> Classified:
    content = np.frombuffer(read_bytes(path, MOST_BYTES), np.uint8)
    if not len(content) or len(content) % ROW:
        raise UserError(
            f"{path} should hold rows of {ROW} bytes but holds {len(content)}: download it again."
        )
    rows = content.reshape(-1, ROW)
    return _classified(path, rows[:, 1:], rows[:, 0].astype(np.int64))


def _read_pickled(path: Path) -> Classified:
    content = read_bytes(path, MOST_BYTES)
    try:
        held = read_pickled_batch(content)
        pixels, labels = held["data"], held["labels"]
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = ascii(str(error))[1:-1][:SHOWN]
        raise UserError(
            f"{path} is damaged or no batch of CIFAR-10 ({reason}): download it again."
        ) from error
    if not isinstance(pixels, np.ndarray) or pixels.shape[1] != ROW - 1:
        found = pixels.shape if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise UserError(f"{path} holds data of {found}, expected (N, {ROW - 1}) bytes")
    whole = isinstance(labels, list) and all(type(label) is int for label in labels)
    if not whole or len(labels) != len(pixels):
        raise UserError(f"{path} doesn't hold a label for each of its {len(pixels)} images")
    return _classified(path, pixels, np.array(labels, np.int64))


def _classified(path: Path, pixels: NDArray[np.uint8], classes: NDArray[np.int64]) -> Classified:
    """From rows of all red, then all green, then all blue values."""
    wrong = classes[(classes < 0) | (classes > 9)]
    if len(wrong):
        raise UserError(f"{path} holds the label {wrong[0]}, but classes go from 0 to 9: download it again.")
    images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Classified(np.ascontiguousarray(images), classes)
