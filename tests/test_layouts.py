"""Textures, data sets that are not there, and the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dataset_sources import bmad, cifar10, folder, goodsad, mnist, mvtec, npz, visa
from small_datasets import (
    SIDE,
    SmallDataset,
    contents,
    make_arrays,
    make_parts,
    read,
    real,
    save_arrays,
)

from latent_common.errors import UserError
from latent_env.data import (
    MVTEC,
    Problems,
    Source,
    Splitting,
    collection_source,
    mnist_source,
    prepare_textures,
)

# --- textures ---


def test_textures_are_read_from_any_depth(tmp_path: Path) -> None:
    written = SmallDataset(tmp_path / "dtd", channels=3)
    for name in ("images/banded/banded_0001.png", "images/woven/woven_0001.png", "more.png"):
        written.add("textures", name)
    prepared = prepare_textures(written.root, SIDE, 3, tmp_path / "prepared", Problems())
    assert contents(prepared.splits["textures"]) == written.contents("textures")


def test_missing_textures_say_where_to_get_them(tmp_path: Path) -> None:
    for root, message in ((tmp_path / "dtd", "is no folder"), (tmp_path, "holds no images")):
        with pytest.raises(UserError, match=rf"texture_root={root} {message}. DTD comes from https"):
            prepare_textures(root, SIDE, 3, tmp_path / "prepared", Problems())


# --- data sets that are not there ---

MISSING: dict[str, tuple[Callable[[Path], Source], tuple[str, ...]]] = {
    "bmad_liver": (
        bmad,
        ("Liver/ or Liver_AD/ or hist_DIY/", "train/good/img", "DorisBao/BMAD", "CC BY-NC-SA 4.0"),
    ),
    "mine": (lambda data: bmad(data, "mine"), ("mine/ or mine_AD/", "train/good/img", "a set of your own")),
    "mvtec_bottle": (
        mvtec,
        ("mvtec/ or mvtec_ad/", "bottle/train/good", "bottle/ground_truth/<defect>", "www.mvtec.com"),
    ),
    "goodsad_food_box": (goodsad, ("goodsad/", "food_box/test/good", "jianzhang96/GoodsAD")),
    "visa_candle": (visa, ("visa/", "split_csv/1cls.csv", "candle/Data/Images", "amazon-science/spot-diff")),
    "mnist": (mnist, ("mnist/", "train-images-idx3-ubyte.gz", "https://")),
    "cifar10": (cifar10, ("cifar10/", "data_batch_1.bin", "cs.toronto.edu")),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_data_set_says_what_was_expected_and_found_and_where_to_get_it(
    data: Path, name: str
) -> None:
    source, expected = MISSING[name]
    make_parts(data / "Photos")
    (data / "liver_copy.tar.gz").touch()
    (data / "Photos/Mine.ZIP").touch()
    with pytest.raises(UserError) as error:
        source(data)
    shown = str(error.value)
    assert shown.startswith(f"the data set {name} is not below data_root={data}\n")
    for part in (*expected, "data_root=/path", "LATENT_AUG_DATA"):
        assert part in shown
    tree = """\
  1 other files
  liver_copy.tar.gz  (an archive: unpack it first)
  Photos/
    Mine.ZIP  (an archive: unpack it first)
    bad/
      3 images
    ok/
      3 images
    ok_test/
      3 images
    truth/
      3 images
  other/
    train/
      good/
"""
    assert f"Found in {data}:\n{tree}" in shown


@pytest.mark.parametrize("name", MISSING)
def test_a_data_root_that_is_not_there_or_empty_is_said(tmp_path: Path, name: str) -> None:
    source, _ = MISSING[name]
    with pytest.raises(UserError, match=rf"Found: {tmp_path}/nowhere does not exist\."):
        source(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=rf"Found: {tmp_path}/empty is empty\."):
        source(tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"Found: {tmp_path}/file is a file\."):
        source(tmp_path / "file")


def test_a_large_tree_is_shown_in_part(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"folder {i:03d}").mkdir()
    with pytest.raises(UserError) as error:
        mnist(tmp_path)
    assert "folder 029/\n  …\n" in str(error.value)
    assert "folder 030" not in str(error.value)


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("train", "mine holds no train.npz. Expected there:"),
        ("test", "mine holds no test.npz. Expected there:"),
    ],
)
def test_missing_npz_files_are_named(tmp_path: Path, lacking: str, message: str) -> None:
    root = save_arrays(tmp_path / "mine", make_arrays())
    (root / f"{lacking}.npz").unlink()
    with pytest.raises(UserError, match=rf"{message}(.|\n)*Found in {root}:\n  2 other files"):
        npz(root)


# --- real images ---


def test_real_bottles(tmp_path: Path) -> None:
    source = collection_source(MVTEC, real("mvtec").parent, "bottle", Splitting(limit=20), Problems())
    dataset = read(source, tmp_path, size=32)
    assert dataset.summary() == (
        "mvtec_bottle: train 17 · valid 3 normal · test 20 + 20 · 32×32 RGB from 256×256 · pixel masks"
    )
    assert dataset.test.masks is not None
    assert dataset.test.masks[dataset.test.labels == 1].any((1, 2)).all()


def test_real_magnetic_tiles(tmp_path: Path) -> None:
    dataset = read(folder(real("folder", "magnetic_tile")), tmp_path, size=32)
    assert dataset.summary() == (
        "magnetic_tile: train 578 · valid 102 normal · test 272 + 392 · 32×32 grey from 256×256 · pixel masks"
    )
    assert dataset.test.masks is not None
    assert int(dataset.test.masks.any((1, 2)).sum()) == 388  # four of its masks are empty


def test_real_ultrasound(tmp_path: Path) -> None:
    dataset = read(bmad(real("bmad"), "busi"), tmp_path, size=32)
    assert dataset.summary() == (
        "bmad_busi: train 80 · valid 18 normal + 40 anomalous · test 35 + 260 · 32×32 grey from 256×256 · "
        "pixel masks"
    )


def test_real_digits(tmp_path: Path) -> None:
    source = mnist_source(real("mnist").parent, 3, Splitting(limit=50))
    assert read(source, tmp_path, size=32).summary() == (
        "mnist_3: train 50 · valid 50 normal + 50 anomalous · test 50 + 50 · 32×32 grey from 28×28 · "
        "no pixel masks"
    )
