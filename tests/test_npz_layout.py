"""A user's own .npz files are read back exactly, and nothing in them is run unasked."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_sources import folder, npz
from numpy.typing import NDArray
from small_datasets import (
    Arrays,
    Contents,
    Item,
    Payload,
    SmallDataset,
    contents,
    make_arrays,
    read,
    save_arrays,
)

from latent_common.errors import UserError
from latent_env.data import (
    Dataset,
    Problems,
    Splitting,
    npz_source,
)


def array_contents(held: Arrays, masked: bool = True) -> Contents:
    rows = zip(held["names"], held["labels"], held["images"], held["masks"], strict=True)
    return {
        str(name): Item(int(label), image.tobytes(), mask.tobytes() if masked else None)
        for name, label, image, mask in rows
    }


def check_arrays(dataset: Dataset, arrays: dict[str, Arrays], masked: bool = True) -> None:
    for split, held in arrays.items():
        assert contents(getattr(dataset, split)) == array_contents(held, masked)


def reshaped(change: Callable[[NDArray[np.uint8]], Any]) -> Callable[[Arrays], Arrays]:
    return lambda held: {**held, "images": change(held["images"])}


GREY_STYLES = {
    "ours": lambda held: held,
    "channels last": reshaped(lambda images: images.transpose(0, 2, 3, 1)),
    "no channels": reshaped(lambda images: images[:, 0]),
    "integers": reshaped(lambda images: images.astype(np.int64)),
    "floats": reshaped(lambda images: images.astype(np.float32) / 255),
    "inexact floats": reshaped(lambda images: (images / 255 - 0.001).clip(0)),
    "other names": lambda held: {
        "x": held["images"],
        "Y": held["labels"].astype(np.float32),
        "mask": held["masks"].astype(np.uint8)[:, None],
        "paths": held["names"],
    },
    "column of labels": lambda held: {**held, "labels": held["labels"][:, None]},
}


@pytest.mark.parametrize("style", GREY_STYLES)
def test_grey_npz_is_read_back(tmp_path: Path, style: str) -> None:
    arrays = make_arrays()
    dataset = read(npz(save_arrays(tmp_path / "mine", arrays, GREY_STYLES[style])), tmp_path)
    check_arrays(dataset, arrays)
    assert dataset.summary() == (
        "mine: train 6 · valid 2 normal + 2 anomalous · test 2 + 2 · 16×16 grey from 16×16 · pixel masks"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images,
        lambda images: images.transpose(0, 2, 3, 1),
        lambda images: images.transpose(0, 2, 3, 1) / 255,
    ],
)
def test_rgb_npz_is_read_back(tmp_path: Path, change: Callable[[NDArray[np.uint8]], Any]) -> None:
    arrays = make_arrays(channels=3)
    check_arrays(read(npz(save_arrays(tmp_path / "mine", arrays, reshaped(change))), tmp_path), arrays)


def test_what_was_prepared_can_be_read_as_npz(tmp_path: Path, widget: SmallDataset) -> None:
    dataset = read(folder(widget.root), tmp_path)
    assert dataset.folder is not None
    again = read(npz(dataset.folder), tmp_path / "again")
    for split in ("train", "valid", "test"):
        assert contents(getattr(again, split)) == contents(getattr(dataset, split))


def test_npz_may_lack_masks_names_and_labels_of_train(tmp_path: Path) -> None:
    arrays = make_arrays()
    root = save_arrays(
        tmp_path / "mine", arrays, lambda held: {key: held[key] for key in ("images", "labels")}
    )
    np.savez(root / "train.npz", arrays["train"]["images"])
    for split, held in arrays.items():
        held["names"] = [f"{split}.npz[{row}]" for row in range(len(held["labels"]))]
    check_arrays(read(npz(root), tmp_path), arrays, masked=False)


def test_npz_may_be_compressed_and_valid_be_called_val(tmp_path: Path) -> None:
    arrays = make_arrays()
    root = tmp_path / "mine"
    root.mkdir()
    for split, held in arrays.items():
        np.savez_compressed(root / f"{split.replace('valid', 'Val')}.npz", **held)
    check_arrays(read(npz(root), tmp_path), arrays)


def test_without_valid_npz_a_part_of_train_is_set_aside(tmp_path: Path) -> None:
    arrays = make_arrays()
    del arrays["valid"]
    dataset = read(npz(save_arrays(tmp_path / "mine", arrays)), tmp_path)
    assert contents(dataset.train, dataset.valid) == array_contents(arrays["train"])
    assert (len(dataset.train), len(dataset.valid)) == (5, 1)
    assert dataset.remarks == ("there is no valid.npz: a part of train was set aside for it",)


def objects(values: Sequence[Any]) -> NDArray[np.object_]:
    held = np.empty(len(values), object)
    held[:] = values
    return held


def enlarged(array: NDArray[Any], row: int) -> NDArray[Any]:
    """An array ``(H, W)`` that shrinks to the same again: each value ``row + 1`` times in each direction."""
    return array.repeat(row + 1, 0).repeat(row + 1, 1)


def in_native_sizes(held: Arrays) -> Arrays:
    return {
        "images": objects([enlarged(image[0], row) for row, image in enumerate(held["images"])]),
        "masks": objects([enlarged(mask, row) for row, mask in enumerate(held["masks"])]),
        "labels": objects(held["labels"].tolist()),
        "names": objects(held["names"].tolist()),
    }


def test_object_arrays_are_only_read_with_trust(tmp_path: Path) -> None:
    arrays = make_arrays()
    for held in arrays.values():
        held["images"][:] = held["images"][:, :, :1, :1]  # even, so that resizing changes nothing
    root = save_arrays(tmp_path / "mine", arrays, in_native_sizes)
    with pytest.raises(UserError) as error:
        npz(root)
    for part in ("train.npz holds object arrays", "can run any code", "dataset.trust_pickle=true"):
        assert part in str(error.value)
    dataset = read(npz(root, trust_pickle=True), tmp_path)
    check_arrays(dataset, arrays)
    assert dataset.native == ((16, 16), (96, 96))


def test_code_in_an_npz_is_not_run_without_trust(tmp_path: Path) -> None:
    arrays = make_arrays()
    marker = tmp_path / "it ran"
    code = objects([Payload(os.mkdir, str(marker))])
    root = save_arrays(tmp_path / "mine", arrays, lambda held: {**held, "extra": code})
    with pytest.raises(UserError, match="trust_pickle"):
        npz(root)
    assert not marker.exists()


def changed(**values: Any) -> Callable[[Arrays], Arrays]:
    return lambda held: {**held, **values}


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("test", changed(labels=np.array([0, 1, 2, 0])), r"test.npz\[2\]: the label 2 is neither"),
        ("test", changed(labels=np.array([0, 0.5, 1, 0])), r"test.npz\[1\]: the label 0.5 is neither"),
        ("test", changed(labels=np.array(["good", "bad"] * 2)), r"test.npz\[0\]: the label good is neither"),
        ("test", changed(labels=np.eye(4, dtype=int)), r"test.npz\[0\]: the label \[1 0 0 0\] is neither"),
        (
            "test",
            changed(labels=np.zeros(3, int)),
            r"labels must be one an image, but are \(3,\) for 4 images",
        ),
        (
            "test",
            lambda held: {"images": held["images"]},
            "test.npz holds no labels .*needs to say what is an",
        ),
        ("test", lambda held: {"pictures": held["images"]}, "test.npz holds pictures, but no images or"),
        (
            "test",
            changed(masks=np.zeros((4, 8, 8), bool)),
            r"test 1: the mask is 8×8 pixels, its image 16×16",
        ),
        ("test", changed(masks=np.zeros((4, 16, 16, 3))), r"test.npz\[1\]: its mask is \(16, 16, 3\)"),
        ("test", changed(masks=np.zeros(4)), r"test.npz\[1\]: its mask is \(\)"),
        ("test", changed(names=np.array(["one"])), "names must be one an image"),
        ("train", changed(labels=np.array([0, 0, 1, 0, 0, 0])), "train 2 is labelled an anomaly"),
        ("train", changed(images=np.zeros((6, 16, 16, 4), np.uint8)), r"train.npz\[0\] is \(16, 16, 4\)"),
        (
            "train",
            changed(images=np.full((6, 16, 16), 300)),
            "is int64 from 300 to 300: expected whole numbers",
        ),
        ("train", changed(images=np.full((6, 16, 16), -0.5)), "is float64 from -0.5 to -0.5"),
        ("train", changed(images=np.full((6, 16, 16), np.nan)), "is float64 from nan"),
        ("train", changed(images=np.full((6, 16, 16), "a")), "is <U1: expected numbers"),
    ],
)
def test_wrong_npz_says_what_is_wrong(
    tmp_path: Path, split: str, change: Callable[[Arrays], Arrays], message: str
) -> None:
    arrays = make_arrays()
    arrays[split] = change(arrays[split])
    with pytest.raises(UserError, match=message):
        read(npz(save_arrays(tmp_path / "mine", arrays)), tmp_path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\3\4 cut short"])
def test_a_damaged_npz_is_named(tmp_path: Path, content: bytes) -> None:
    root = save_arrays(tmp_path / "mine", make_arrays())
    (root / "valid.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"valid\.npz"):
        npz(root)


def test_broken_rows_of_an_npz_can_be_skipped(tmp_path: Path) -> None:
    arrays = make_arrays()
    root = save_arrays(tmp_path / "mine", arrays)
    np.savez(root / "test.npz", **{**arrays["test"], "labels": np.array([0, 1, 0, 7])})
    problems = Problems("skip")
    dataset = read(npz_source(root, "", Splitting(), problems, False), tmp_path, problems)
    assert dataset.test.names == ("test 0", "test 2", "test 1")
    assert len(problems.skipped) == 1
    assert "test.npz[3]: the label 7" in dataset.remarks[0]


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    root = save_arrays(tmp_path / "mine", make_arrays())
    np.savez_compressed(root / "train.npz", images=np.zeros((2**26,), np.uint8))
    with pytest.raises(
        UserError, match=r"train.npz unpacks to 67,\d+,\d+ bytes, but 2\d,\d+,\d+ are the most"
    ):
        npz(root)


def test_an_array_that_claims_more_than_its_file(tmp_path: Path) -> None:
    root = save_arrays(tmp_path / "mine", make_arrays())
    head = io.BytesIO()
    np.lib.format.write_array_header_2_0(
        head, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8)}
    )
    with zipfile.ZipFile(root / "train.npz", "w") as archive:
        archive.writestr("images.npy", head.getvalue())
    with pytest.raises(UserError, match=r"train.npz claims an array \(1000000000000, 8, 8\) in images.npy"):
        npz(root)


def test_a_pipe_is_no_archive(tmp_path: Path) -> None:
    root = save_arrays(tmp_path / "mine", make_arrays())
    (root / "train.npz").unlink()
    (root / "train.npz").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"no train\.npz"):
        npz(root)
