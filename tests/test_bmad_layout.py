"""BMAD's data sets, and a user's own arranged like them, are read back exactly in every layout."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from dataset_sources import bmad
from small_datasets import (
    BmadLayout,
    make_bmad,
    read,
)

from latent_common.errors import UserError
from latent_env.data import (
    Problems,
    Splitting,
    bmad_source,
)
from latent_env.data.layouts.bmad import ALIASES


@pytest.mark.parametrize(
    ("name", "place"), [(name, alias) for name, aliases in ALIASES.items() for alias in aliases]
)
def test_each_bmad_set_is_found_by_each_of_its_names(
    tmp_path: Path, data: Path, name: str, place: str
) -> None:
    written = make_bmad(data / place)
    dataset = read(bmad(data, name), tmp_path)
    written.check(dataset)
    assert dataset.summary() == (
        f"{name}: train 4 · valid 2 normal + 2 anomalous · test 2 + 2 · 16×16 grey from 16×16 · pixel masks"
    )


@pytest.mark.parametrize(
    "place",
    [
        *("Liver", "liver", "LIVER_AD", "liver-ad", "bmad/Liver", "BMAD/liver_ad"),
        *("Liver/Train/hist_DIY", "Liver/Liver", "bmad/Liver/Train/hist_DIY", "hist_DIY", "."),
    ],
)
def test_bmad_is_found_however_it_is_nested(tmp_path: Path, data: Path, place: str) -> None:
    make_bmad(data / place).check(read(bmad(data), tmp_path))


BMAD_LAYOUTS = {
    "pixel level": BmadLayout(),
    "label": BmadLayout(masks="{}/Ungood/label"),
    "image level": BmadLayout(images="", masks=None),
    "img without masks": BmadLayout(masks=None),
    "masks beside images without img": BmadLayout(images=""),
    "val": BmadLayout(valid="val"),
    "capitals": BmadLayout(
        "Train", "Val", "TEST", good="Good", bad="UNGOOD", images="/Img", masks="{}/UNGOOD/Anomaly_Mask"
    ),
    "train in a folder": BmadLayout(train="Train/hist_DIY"),
    "all in folders": BmadLayout(
        "Train/hist_DIY", "valid/hist_DIY", "test/hist_DIY", masks="{}/Ungood/anomaly_mask"
    ),
    "images in folders": BmadLayout(images="/volume 1/slices"),
    "masks in the root": BmadLayout(valid="val", masks="{}_label/Ungood"),
    "masks in the root, nested": BmadLayout(valid="Val", masks="{}_label/Ungood/img"),
    "masks in the root, without Ungood": BmadLayout(valid="val", masks="{}_label"),
    "masks in the split": BmadLayout(valid="val", masks="{0}/{0}_label/Ungood"),
    "masks in the split, valid": BmadLayout(masks="{0}/{0}_label/Ungood"),
}


@pytest.mark.parametrize("layout", BMAD_LAYOUTS)
@pytest.mark.parametrize("name", ["bmad_resc", "RESC"])
def test_bmad_is_read_back_in_each_layout(tmp_path: Path, data: Path, layout: str, name: str) -> None:
    written = make_bmad(data / "RESC", BMAD_LAYOUTS[layout])
    dataset = read(bmad(data, name), tmp_path)
    written.check(dataset)
    assert (dataset.test.masks is not None) is written.masked
    assert dataset.name == "bmad_resc"


def test_bmad_without_valid_sets_a_part_of_train_aside(tmp_path: Path, data: Path) -> None:
    written = make_bmad(data / "Brain", BmadLayout(valid=None))
    dataset = read(bmad(data, "bmad_brain"), tmp_path)
    written.check(dataset)
    assert (len(dataset.train), len(dataset.valid)) == (3, 1)
    assert dataset.remarks == ("there is no valid split: a part of train was set aside for it",)


def test_bmad_limit_counts_each_label(data: Path) -> None:
    make_bmad(data / "Liver")
    splits = bmad_source(data, "bmad_liver", Splitting(limit=2), Problems()).splits
    assert {split: [sample.label for sample in samples] for split, samples in splits.items()} == {
        "train": [0, 0],
        "valid": [0, 0, 1, 1],
        "test": [0, 0, 1, 1],
    }


def test_a_bmad_set_of_ones_own_needs_its_name(tmp_path: Path, data: Path) -> None:
    written = make_bmad(data / "Knee MRI")
    dataset = read(bmad(data, "knee_mri"), tmp_path)
    written.check(dataset)
    assert dataset.name == "bmad_knee_mri"
    with pytest.raises(UserError, match=re.escape("dataset.name is missing")):
        bmad(data, "")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("train/good/img", "no images in train/good"),
        ("valid/good", "no images in valid/good"),
        ("test/good", "no images in test/good"),
        ("test/Ungood", "no images in test/Ungood"),
        ("test/Ungood/img/1.png", "Ungood/anomaly_mask/1.png: this mask has no image"),
        ("test/Ungood/anomaly_mask/1.png", "test/Ungood/img/1.png: this anomalous image has no mask"),
        ("test/Ungood/anomaly_mask", "test/Ungood/img/0.png: this anomalous image has no mask"),
    ],
)
def test_incomplete_bmad_names_what_is_missing(data: Path, path: str, message: str) -> None:
    make_bmad(data / "Liver")
    target = data / "Liver" / path
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()
    with pytest.raises(UserError, match=re.escape(message)):
        bmad(data)
