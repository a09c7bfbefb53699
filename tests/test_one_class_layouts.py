"""MNIST and CIFAR-10 are read back exactly in every version, and nothing in them is run."""

from __future__ import annotations

import gzip
import os
import pickle
import pickletools
import re
import shutil
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_sources import cifar10, mnist
from numpy.typing import NDArray
from small_datasets import (
    CIFAR_BATCHES,
    Contents,
    Item,
    Payload,
    contents,
    make_batches,
    make_cifar,
    make_mnist,
    pickled_by_python_2,
    read,
    write_idx,
)

from latent_common.errors import UserError
from latent_env.data import (
    Dataset,
    Source,
)
from latent_env.data.layouts.cifar10_pickle import read_pickled_batch

# --- MNIST ---


def check_one_class(dataset: Dataset, train: Contents, test: Contents) -> None:
    """Test is the archive's; train and valid hold its normal training images and other anomalies."""
    assert contents(dataset.test) == test
    found, validated = contents(dataset.train), contents(dataset.valid)
    assert not found.keys() & validated.keys()
    assert found.items() <= train.items()
    assert validated.items() <= train.items()
    normal = {name for name, item in train.items() if not item.label}
    assert {name for name, item in (found | validated).items() if not item.label} == normal
    assert dataset.valid.labels.any()


def digit_contents(
    split: str, images: NDArray[np.uint8], labels: NDArray[np.uint8], normal: Sequence[int]
) -> Contents:
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return {
        f"{split}/digit {label}/{row:05d}": Item(int(label not in normal), padded[row].tobytes(), None)
        for row, label in enumerate(labels)
    }


@pytest.mark.parametrize("place", ["mnist", "MNIST/raw", "mnist_original", "MNIST_original/MNIST/raw", "."])
@pytest.mark.parametrize(("dot", "ending"), [("-", ".gz"), ("-", ""), (".", ".gz"), (".", "")])
def test_mnist_is_read_back(tmp_path: Path, data: Path, place: str, dot: str, ending: str) -> None:
    made = make_mnist(data / place, dot, ending)
    dataset = read(mnist(data), tmp_path, size=32)
    train, test = (digit_contents(split, made[split].images, made[split].labels, [3]) for split in made)
    check_one_class(dataset, train, test)
    assert dataset.summary() == (
        "mnist_3: train 3 · valid 1 normal + 9 anomalous · test 2 + 18 · 32×32 grey from 28×28 · "
        "no pixel masks"
    )


def test_mnist_with_several_normal_digits(tmp_path: Path, data: Path) -> None:
    made = make_mnist(data / "mnist")
    dataset = read(mnist(data, [1, 7]), tmp_path, size=32)
    train, test = (digit_contents(split, made[split].images, made[split].labels, [1, 7]) for split in made)
    check_one_class(dataset, train, test)
    assert dataset.name == "mnist_1_7"


@pytest.mark.parametrize(
    ("normal", "message"),
    [
        (10, "normal=10 holds 10, which is no class"),
        (-1, "holds -1"),
        ([], "names no class"),
        ("3", "normal='3' names no class"),
        (True, "normal=True names no class"),
        ([3, 3], "names 3 twice"),
        (list(range(10)), "leaves no class to be the anomaly"),
    ],
)
@pytest.mark.parametrize("source", [mnist, cifar10])
def test_classes_that_cannot_be_normal_are_refused(
    data: Path, source: Callable[..., Source], normal: object, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        source(data, normal)


def overwrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return act


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (overwrite(IMAGES, lambda old: old[:-1]), f"{IMAGES} should hold 31360 bytes .* but holds 31359"),
        (overwrite(IMAGES, lambda old: old + b"\0"), f"{IMAGES} should hold 31360 bytes .* but holds 31361"),
        (overwrite(IMAGES, lambda _: b""), f"{IMAGES} is no idx file of 3 dimensions"),
        (overwrite(IMAGES, lambda old: b"\0\0\x0d\3" + old[4:]), f"{IMAGES} is no idx file of 3 dimensions"),
        (overwrite(LABELS, lambda old: b"\0\0\x08\3" + old[4:]), f"{LABELS} is no idx file of 1 dimensions"),
        (
            lambda folder: write_idx(folder / LABELS, np.zeros(39, np.uint8)),
            f"{IMAGES} holds 40 images, but .*{LABELS} 39 labels",
        ),
        (
            lambda folder: write_idx(folder / LABELS, np.full(40, 10, np.uint8)),
            f"{LABELS} holds 10, which is no",
        ),
    ],
)
def test_damaged_mnist_names_the_file(data: Path, spoil: Callable[[Path], None], message: str) -> None:
    make_mnist(data / "mnist", ending="")
    spoil(data / "mnist")
    with pytest.raises(UserError, match=message):
        mnist(data)


@pytest.mark.parametrize(
    "change", [lambda old: old[:-9], lambda _: b"not compressed", lambda old: old[:20] + b"x" * 20]
)
def test_damaged_compressed_mnist_names_the_file(data: Path, change: Callable[[bytes], bytes]) -> None:
    make_mnist(data / "mnist")
    overwrite(f"{IMAGES}.gz", change)(data / "mnist")
    with pytest.raises(UserError, match=f"{IMAGES}.gz is damaged or cut short"):
        mnist(data)


def test_a_gz_that_unpacks_to_gigabytes_is_not_unpacked(data: Path) -> None:
    make_mnist(data / "mnist")
    path = data / f"mnist/{IMAGES}.gz"
    path.write_bytes(gzip.compress(bytes(2**20)) * 128)
    tracemalloc.start()
    with pytest.raises(UserError, match=f"{IMAGES}.gz unpacks to more than 3.,...,... bytes"):
        mnist(data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**27


def test_gigabytes_of_zeros_behind_a_gz_are_not_read(data: Path) -> None:
    make_mnist(data / "mnist")
    path = data / f"mnist/{IMAGES}.gz"
    os.truncate(path, 2**36)  # a file with a hole takes no room on the disk
    with pytest.raises(UserError, match=f"{IMAGES}.gz has 68,719,476,736 bytes, more than what it may hold"):
        mnist(data)


def test_a_head_that_claims_more_than_a_number_holds(data: Path) -> None:
    make_mnist(data / "mnist", ending="")
    (data / f"mnist/{IMAGES}").write_bytes(b"\0\0\x08\3" + b"\xff" * 12)
    with pytest.raises(UserError, match="should hold 79228162458924105385300197375 bytes"):
        mnist(data)


# --- CIFAR-10 ---

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def check_cifar(source: Source, tmp_path: Path, normal: Sequence[int] = (0,)) -> None:
    batches = make_batches()

    def expected(split: str, names: Sequence[str]) -> Contents:
        rows = np.concatenate([batches[name].rows for name in names])
        labels = np.concatenate([batches[name].classes for name in names])
        return {
            f"{split}/{CLASSES[label]}/{row:05d}": Item(int(label not in normal), rows[row].tobytes(), None)
            for row, label in enumerate(labels)
        }

    dataset = read(source, tmp_path, size=32)
    check_one_class(dataset, expected("train", CIFAR_BATCHES[:5]), expected("test", CIFAR_BATCHES[5:]))
    assert dataset.channels == 3


@pytest.mark.parametrize(
    "place", ["cifar10", "CIFAR-10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "."]
)
def test_binary_cifar10_is_read_back(tmp_path: Path, data: Path, place: str) -> None:
    make_cifar(data / place)
    check_cifar(cifar10(data), tmp_path)


@pytest.mark.parametrize("place", ["cifar10", "cifar-10-batches-py", "CIFAR10/cifar-10-batches-py", "."])
def test_cifar10_as_its_authors_pickled_it_is_read_back(tmp_path: Path, data: Path, place: str) -> None:
    make_cifar(data / place, ending="")
    check_cifar(cifar10(data), tmp_path)


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda marker: (os.system, f"touch '{marker}'"), f"{os.system.__module__}.system"),
        (
            lambda marker: (eval, f"__import__('pathlib').Path({str(marker)!r}).touch()"),
            r"(builtins|__builtin__)\.eval",
        ),
        (lambda marker: (shutil.copy, __file__, str(marker)), "shutil.copy"),
        (lambda marker: (np.save, str(marker), 0), r"numpy\.save"),
    ],
)
def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, data: Path, call: Callable[[Path], tuple[Any, ...]], named: str, protocol: int
) -> None:
    marker = tmp_path / "it ran.npy"
    make_cifar(data / "cifar10", "")
    pickled = pickle.dumps([Payload(*call(marker))], protocol)
    pickle.loads(pickled)
    assert marker.exists()  # so it would run
    marker.unlink()
    (data / "cifar10/data_batch_2").write_bytes(pickled)
    refusal = f"asks to run {named}" if protocol == 2 else "holds FRAME"
    with pytest.raises(UserError, match=f"data_batch_2 {refusal}, which no batch of CIFAR-10 needs"):
        cifar10(data)
    assert not marker.exists()


def batch(data: object, labels: object) -> bytes:
    return pickled_by_python_2({"data": data, "labels": labels})


ROWS = np.zeros((2, 3072), np.uint8)
LARGER = batch(ROWS, [0, 1]).replace(b"J\x00\x0c\0\0", b"J\xff\xff\xff\x7f")
WITH_OBJECTS = batch(ROWS, [0, 1]).replace(b"J\xff\xff\xff\xff", b"J\x3f\0\0\0")
WRITTEN = make_batches()["test_batch"].pickled()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WRITTEN[:-200], "is damaged or no batch of CIFAR-10"),
        (WRITTEN[:5000], "is damaged or no batch of CIFAR-10"),
        (b"", "is damaged or no batch"),
        (b"no pickle at all", "is damaged or no batch"),
        (b"I" + b"9" * 5000 + b"x\n.", r"is damaged or no batch of CIFAR-10 \(.{1,100}\): download"),
        (b"]K\x01a.", "holds a list, and no dictionary"),
        (pickle.dumps({"data": ROWS}, 4), "holds FRAME, which no batch of CIFAR-10 needs"),
        (b"}(" + b"(" * 50 + b")" * 50 + b"u.", "holds EMPTY_TUPLE, which no batch of CIFAR-10 needs"),
        (b"}K\x01" + b"\x85" * 190_000 + b"K\x01s.", "is damaged or no batch of CIFAR-10 .*no str"),
        (b"]" * 300_000 + b".", "has more than 200,000 parts"),
        (pickled_by_python_2({"data": ROWS}), "is damaged or no batch of CIFAR-10 .*labels"),
        (batch(ROWS[:, :100], [0, 1]), r"holds data of \(2, 100\), expected \(N, 3072\)"),
        (batch([1, 2], [0, 1]), r"holds data of list, expected \(N, 3072\)"),
        (batch(ROWS.astype(float), [0, 1]), "asks for an array other than of bytes"),
        (LARGER, "holds an array other than .*cut short"),
        (WITH_OBJECTS, "holds an array other than"),
        (batch(ROWS, [0]), "doesn't hold a label for each of its 2 images"),
        (batch(ROWS, ["cat", "dog"]), "doesn't hold a label for each of its 2 images"),
        (batch(ROWS, [0, 10]), "holds the label 10, but classes go from 0 to 9"),
        (batch(ROWS, [-1, 9]), "holds the label -1, but classes go from 0 to 9"),
    ],
)
def test_damaged_pickles_name_the_file(data: Path, content: bytes, message: str) -> None:
    make_cifar(data / "cifar10", "")
    (data / "cifar10/test_batch").write_bytes(content)
    with pytest.raises(UserError, match=f"test_batch {message}"):
        cifar10(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda old: old[:-1], "data_batch_3.bin should hold rows of 3073 bytes but holds 61459"),
        (lambda _: b"", "data_batch_3.bin should hold rows of 3073 bytes but holds 0"),
        (lambda old: b"\x0b" + old[1:], "data_batch_3.bin holds the label 11"),
    ],
)
def test_damaged_binary_cifar10_names_the_file(
    data: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    make_cifar(data / "cifar10")
    overwrite("data_batch_3.bin", change)(data / "cifar10")
    with pytest.raises(UserError, match=message):
        cifar10(data)


def test_an_empty_batch_leaves_the_others(data: Path) -> None:
    make_cifar(data / "cifar10", "")
    (data / "cifar10/data_batch_1").write_bytes(batch(ROWS[:0], []))
    assert len(cifar10(data).splits["train"]) + len(cifar10(data).splits["valid"]) == 8 + 9


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A pickle with some bytes changed, mostly where its structure is, and perhaps a piece moved or cut."""
    changed = bytearray(content)
    structure = np.r_[0:300, len(content) - 400 : len(content)]
    for _ in range(rng.integers(1, 6)):
        at = int(rng.choice(structure)) % len(changed)
        changed[at] = rng.choice(OPCODES) if rng.random() < 0.5 else int(rng.integers(256))
    if rng.random() < 0.3:
        first, second, to = (int(rng.choice(structure)) for _ in range(3))
        changed[to:to] = changed[min(first, second) : max(first, second)]
    return bytes(changed[: rng.integers(len(changed))] if rng.random() < 0.1 else changed)


OPCODES = np.frombuffer(b"".join(opcode.code.encode("latin1") for opcode in pickletools.opcodes), np.uint8)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_no_pickle_crashes_or_takes_much_memory(data: Path) -> None:
    rng, written = np.random.default_rng(0), make_batches()["test_batch"]
    content = batch(written.rows, written.classes.tolist())
    read = 0
    tracemalloc.start()
    for _ in range(2000):
        try:
            held = read_pickled_batch(mutated(content, rng))
        except (UserError, ValueError, LookupError, TypeError, AttributeError):
            continue
        read += 1
        assert all(isinstance(key, str) for key in held)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < read < 2000
    assert most < 20 * len(content)
