"""Miniatures of data sets: random images of exactly the prepared size, arranged as users have them."""

from __future__ import annotations

import csv
import gzip
import pickle
import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from latent_env.data import Dataset, Problems, Source, Split, prepare

SIDE = 16
REAL = Path(__file__).parents[2] / "shared" / "data"


class Item(NamedTuple):
    """An image as it should be read, in bytes so that two of them compare."""

    label: int
    pixels: bytes
    mask: bytes | None


Contents = dict[str, Item]
"""Images by name."""


def contents(*splits: Split) -> Contents:
    found: Contents = {}
    for split in splits:
        for row, name in enumerate(split.names):
            assert name not in found
            mask = None if split.masks is None else split.masks[row].tobytes()
            found[name] = Item(int(split.labels[row]), split.images[row].tobytes(), mask)
    return found


def save(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """Write ``(H, W)`` or ``(H, W, C)`` as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    image.save(path, **options)
    return path


class SmallDataset:
    """Writes random images below ``root`` and remembers what should be read back of each split."""

    def __init__(self, root: Path, channels: int = 1) -> None:
        self.root = root
        self.channels = channels
        self.splits: dict[str, Contents] = defaultdict(dict)
        self.masked = False
        self._rng = np.random.default_rng(0)

    def add(
        self,
        split: str,
        path: str,
        label: int = 0,
        mask: str | None = None,
        name: str | None = None,
        values: Sequence[int] = (255,),
    ) -> None:
        """Write one image, and its mask whose set pixels have these ``values``."""
        pixels = self._rng.integers(0, 256, (SIDE, SIDE, self.channels), np.uint8)
        save(self.root / path, pixels)
        marked = np.zeros((SIDE, SIDE), np.bool_)
        if mask is not None:
            marked = self._rng.random((SIDE, SIDE)) < 0.3
            save(
                self.root / mask, np.where(marked, self._rng.choice(values, marked.shape), 0).astype(np.uint8)
            )
            self.masked = True
        self.splits[split][name or path] = Item(label, pixels.transpose(2, 0, 1).tobytes(), marked.tobytes())

    def contents(self, split: str) -> Contents:
        found = self.splits[split]
        return found if self.masked else {name: item._replace(mask=None) for name, item in found.items()}

    def check(self, dataset: Dataset) -> None:
        """Everything must have been read as it was written; without ``valid``, a part of ``train`` is it."""
        assert contents(dataset.test) == self.contents("test")
        if "valid" in self.splits:
            assert contents(dataset.train) == self.contents("train")
            assert contents(dataset.valid) == self.contents("valid")
        else:
            assert contents(dataset.train, dataset.valid) == self.contents("train")
        assert dataset.channels == self.channels


def read(source: Source, tmp_path: Path, problems: Problems | None = None, size: int = SIDE) -> Dataset:
    """Prepare ``source`` outside of the folder that is searched for data sets, without a picture of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latent_env.data.prepared.preparation.save_overview", lambda *_: None)
        return prepare(source, size, tmp_path / "prepared", problems or Problems(), progress=False)


def real(*folders: str) -> Path:
    """A folder of real images, which not everybody has."""
    path = REAL.joinpath(*folders)
    if not path.is_dir():
        pytest.skip(f"{'/'.join(folders)} is not below {REAL}")
    return path


# --- MVTec AD, GoodsAD and VisA ---


@dataclass(frozen=True)
class MvtecLayout:
    train: str = "train"
    test: str = "test"
    good: str = "good"
    truth: str | None = "ground_truth"
    ending: str = ".png"
    mask_ending: str = "_mask.png"


def make_mvtec(
    root: Path,
    layout: MvtecLayout | None = None,
    channels: int = 1,
    defects: Sequence[str] = ("dent", "scratch"),
) -> SmallDataset:
    layout = layout or MvtecLayout()
    written = SmallDataset(root, channels)
    for i in range(6):
        written.add("train", f"{layout.train}/{layout.good}/{i:03d}{layout.ending}")
    for i in range(2):
        written.add("test", f"{layout.test}/{layout.good}/{i:03d}{layout.ending}")
        for defect in defects:
            mask = layout.truth and f"{layout.truth}/{defect}/{i:03d}{layout.mask_ending}"
            written.add("test", f"{layout.test}/{defect}/{i:03d}{layout.ending}", 1, mask)
    return written


VISA_HEAD = "object,split,label,image,mask"


def make_visa(root: Path, categories: Sequence[str] = ("candle", "pcb1")) -> dict[str, SmallDataset]:
    """VisA as it is published: several categories, one table of their splits, masks of class numbers."""
    rows = []
    made = {}
    for category in categories:
        written = made[category] = SmallDataset(root, channels=3)
        images, masks = f"{category}/Data/Images", f"{category}/Data/Masks/Anomaly"
        for i in range(6):
            split = "train" if i < 4 else "test"
            image = f"{images}/Normal/{i:04d}.png"
            written.add(split, image)
            rows.append([category, split, "normal", image, ""])
        for i in range(3):
            image, mask = f"{images}/Anomaly/{i:03d}.png", f"{masks}/{i:03d}.png"
            written.add("test", image, 1, mask, values=(1, 2))
            rows.append([category, "test", "anomaly", image, mask])
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir()
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([VISA_HEAD.split(","), *rows])
    return made


# --- BMAD ---


@dataclass(frozen=True)
class BmadLayout:
    """``masks`` is the folder of a split's masks, ``{}`` the name of the split's folder."""

    train: str = "train"
    valid: str | None = "valid"
    test: str = "test"
    good: str = "good"
    bad: str = "Ungood"
    images: str = "/img"
    masks: str | None = "{}/Ungood/anomaly_mask"


def make_bmad(root: Path, layout: BmadLayout | None = None) -> SmallDataset:
    layout = layout or BmadLayout()
    written = SmallDataset(root)
    for i in range(4):
        written.add("train", f"{layout.train}/{layout.good}{layout.images}/{i}.png")
    for split, folder in (("valid", layout.valid), ("test", layout.test)):
        for i in range(2 if folder else 0):
            mask = layout.masks and f"{layout.masks.format(folder)}/{i}.png"
            written.add(split, f"{folder}/{layout.good}{layout.images}/{i}.png")
            written.add(split, f"{folder}/{layout.bad}{layout.images}/{i}.png", 1, mask)
    return written


# --- MNIST and CIFAR-10 ---


@dataclass(frozen=True)
class Digits:
    """MNIST's images ``(N, 28, 28)`` and labels ``(N,)`` of a split."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = head + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def make_mnist(folder: Path, dot: str = "-", ending: str = ".gz") -> dict[str, Digits]:
    """Four images of each digit to learn from, two to measure on."""
    rng = np.random.default_rng(0)
    made = {}
    for split, stem, each in (("train", "train", 4), ("test", "t10k", 2)):
        labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), each))
        images = rng.integers(0, 256, (len(labels), 28, 28), np.uint8)
        write_idx(folder / f"{stem}-images{dot}idx3-ubyte{ending}", images)
        write_idx(folder / f"{stem}-labels{dot}idx1-ubyte{ending}", labels)
        made[split] = Digits(images, labels)
    return made


@dataclass(frozen=True)
class Batch:
    """CIFAR-10's rows ``(N, 3072)`` of red, green and blue values, and their classes ``(N,)``."""

    rows: NDArray[np.uint8]
    classes: NDArray[np.uint8]

    def binary(self) -> bytes:
        return np.column_stack([self.classes, self.rows]).tobytes()

    def pickled(self) -> bytes:
        return pickled_by_python_2(
            {"batch_label": "training batch 1 of 5", "labels": self.classes.tolist(), "data": self.rows}
        )


def pickled_by_python_2(held: dict[str, Any]) -> bytes:
    """As CIFAR-10's authors pickled their batches: byte strings throughout, NumPy's modules by old names."""

    def text(value: str) -> bytes:
        return pickle.SHORT_BINSTRING + bytes([len(value)]) + value.encode()

    def small(value: int) -> bytes:
        return pickle.BININT + struct.pack("<i", value)

    def named(module: bytes, name: bytes) -> bytes:
        return pickle.GLOBAL + module + b"\n" + name + b"\n"

    def array(rows: NDArray[Any]) -> bytes:
        kind = rows.dtype.str
        dtype = (
            *(named(b"numpy", b"dtype"), text(kind[1:]), small(0), small(1), pickle.TUPLE3, pickle.REDUCE),
            *(pickle.MARK, small(3), text(kind[0]), pickle.NONE * 3, small(-1) * 2, small(0), pickle.TUPLE),
            pickle.BUILD,
        )
        parts = (
            *(named(b"numpy.core.multiarray", b"_reconstruct"), named(b"numpy", b"ndarray")),
            *(small(0), pickle.TUPLE1, text("b"), pickle.TUPLE3, pickle.REDUCE),
            *(pickle.MARK, small(1), small(rows.shape[0]), small(rows.shape[1]), pickle.TUPLE2),
            *(*dtype, pickle.NEWFALSE),
            *(pickle.BINSTRING, struct.pack("<i", rows.nbytes), rows.tobytes(), pickle.TUPLE, pickle.BUILD),
        )
        return b"".join(parts)

    def written(value: Any) -> bytes:
        if isinstance(value, np.ndarray):
            return array(value)
        if isinstance(value, list):
            return b"".join([pickle.EMPTY_LIST, pickle.MARK, *map(written, value), pickle.APPENDS])
        return text(value) if isinstance(value, str) else small(value)

    items = (part for key, value in held.items() for part in (text(key), written(value)))
    head = (pickle.PROTO, b"\x02", pickle.EMPTY_DICT, pickle.MARK)
    return b"".join([*head, *items, pickle.SETITEMS, pickle.STOP])


CIFAR_BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def make_batches() -> dict[str, Batch]:
    """Two images of each class in every batch."""
    rng = np.random.default_rng(0)
    return {
        name: Batch(
            rng.integers(0, 256, (20, 3072), np.uint8),
            rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), 2)),
        )
        for name in CIFAR_BATCHES
    }


def make_cifar(folder: Path, ending: str = ".bin") -> dict[str, Batch]:
    """The binary version, or with an empty ending the Python version."""
    folder.mkdir(parents=True, exist_ok=True)
    batches = make_batches()
    for name, batch in batches.items():
        (folder / f"{name}{ending}").write_bytes(batch.binary() if ending else batch.pickled())
    return batches


Arrays = dict[str, Any]


def make_arrays(channels: int = 1, size: int = SIDE) -> dict[str, Arrays]:
    """Splits in the style that data sets are prepared in."""
    rng = np.random.default_rng(0)
    made = {}
    for split, labels in (("train", [0] * 6), ("valid", [0, 0, 1, 1]), ("test", [0, 1, 0, 1])):
        count = len(labels)
        masks = (rng.random((count, size, size)) < 0.3) & (np.array(labels)[:, None, None] > 0)
        made[split] = {
            "images": rng.integers(0, 256, (count, channels, size, size), np.uint8),
            "labels": np.array(labels),
            "masks": masks,
            "names": np.array([f"{split} {i}" for i in range(count)]),
        }
    return made


def save_arrays(root: Path, arrays: dict[str, Arrays], change: Callable[[Arrays], Arrays] = dict) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for split, held in arrays.items():
        np.savez(root / f"{split}.npz", **change(held))
    return root


def make_parts(root: Path, places: Sequence[str] = ("",), masks: bool = True) -> SmallDataset:
    """Images in ``ok``, ``bad`` and ``ok_test``, masks of ``bad`` in ``truth``."""
    written = SmallDataset(root)
    for place in places:
        for i in range(3):
            written.add("train", f"ok/{place}{i}.png")
            written.add("test", f"bad/{place}{i}.png", 1, f"truth/{place}{i}.png" if masks else None)
            written.add("test", f"ok_test/{place}{i}.png")
    return written


class Payload:
    """Once pickled, calls a function with these arguments when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, Any]:
        return self.call[0], self.call[1:]
