"""Small harmless data sets in published formats."""

from __future__ import annotations

import csv
import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16


def mnist(folder: Path, _: object) -> None:
    """MNIST: four images of each digit to learn from, two to be tested on."""
    rng = np.random.default_rng(0)
    for stem, each in (("train", 4), ("t10k", 2)):
        labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), each))
        images = rng.integers(0, 256, (len(labels), 28, 28), np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{stem}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))


def cifar(ending: str) -> Callable[[Path, object], None]:
    """CIFAR-10's binary version, or with an empty ending the one for Python."""

    def make(folder: Path, _: object) -> None:
        rng = np.random.default_rng(0)
        folder.mkdir(parents=True)
        for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
            rows = rng.integers(0, 256, (20, 3072), np.uint8)
            classes = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), 2))
            content = np.column_stack([classes, rows]).tobytes() if ending else _pickled(rows, classes)
            (folder / f"{name}{ending}").write_bytes(content)

    return make


def _pickled(rows: NDArray[np.uint8], classes: NDArray[np.uint8]) -> bytes:
    """As CIFAR-10's authors pickled a batch, with Python 2: byte strings, NumPy's modules by old names."""

    def text(value: str) -> bytes:
        return pickle.SHORT_BINSTRING + bytes([len(value)]) + value.encode()

    def number(value: int) -> bytes:
        return pickle.BININT + struct.pack("<i", value)

    def named(module: str, name: str) -> bytes:
        return pickle.GLOBAL + f"{module}\n{name}\n".encode()

    dtype = (
        *(named("numpy", "dtype"), text("u1"), number(0), number(1), pickle.TUPLE3, pickle.REDUCE),
        *(pickle.MARK, number(3), text("|"), pickle.NONE * 3, number(-1) * 2, number(0), pickle.TUPLE),
        pickle.BUILD,
    )
    array = (
        *(named("numpy.core.multiarray", "_reconstruct"), named("numpy", "ndarray"), number(0)),
        *(pickle.TUPLE1, text("b"), pickle.TUPLE3, pickle.REDUCE, pickle.MARK, number(1)),
        *(number(len(rows)), number(rows.shape[1]), pickle.TUPLE2, *dtype, pickle.NEWFALSE),
        *(pickle.BINSTRING, struct.pack("<i", rows.nbytes), rows.tobytes(), pickle.TUPLE, pickle.BUILD),
    )
    labels = (pickle.EMPTY_LIST, pickle.MARK, *map(number, classes.tolist()), pickle.APPENDS)
    head = (pickle.PROTO, b"\x02", pickle.EMPTY_DICT, pickle.MARK)
    return b"".join([*head, text("labels"), *labels, text("data"), *array, pickle.SETITEMS, pickle.STOP])


def arrays(folder: Path, _: object) -> None:
    """Splits as npz files."""
    rng = np.random.default_rng(0)
    (folder / "mine").mkdir(parents=True)
    for split, labels in (("train", [0] * 6), ("valid", [0, 0, 1, 1]), ("test", [0, 1, 0, 1])):
        images = rng.integers(0, 256, (len(labels), 1, SIDE, SIDE), np.uint8)
        masks = (images[:, 0] > 200) & (np.array(labels)[:, None, None] > 0)
        np.savez(folder / "mine" / f"{split}.npz", images=images, labels=np.array(labels), masks=masks)


def visa(folder: Path, _: object) -> None:
    """A category of VisA with its table of splits."""
    rng, rows = np.random.default_rng(0), [["object", "split", "label", "image", "mask"]]
    for number in range(12):
        split, label = ("train", "normal") if number < 6 else ("test", ("normal", "anomaly")[number % 2])
        image = f"candle/Data/Images/{label.title()}/{number:03d}.png"
        mask = f"candle/Data/Masks/Anomaly/{number:03d}.png" if label == "anomaly" else ""
        rows.append(["candle", split, label, image, mask])
        for name in (image, mask):
            if name:
                path = folder / "visa" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), np.uint8)).save(path)
    (folder / "visa" / "split_csv").mkdir()
    with (folder / "visa" / "split_csv" / "1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
