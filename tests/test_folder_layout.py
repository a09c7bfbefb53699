"""Folders of a user's own are read back exactly, in MVTec AD's layout or named by their parts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_sources import folder, parts
from PIL import Image
from small_datasets import (
    SIDE,
    SmallDataset,
    contents,
    make_parts,
    read,
    save,
)

from conf.schema.runs import AutoencoderRun
from latent_common.errors import UserError
from latent_env.data import (
    Parts,
    Problems,
    Splitting,
    folder_source,
    prepare,
)
from latent_env.data.samples import FileSample
from stages.cli.checks import read_config
from stages.cli.compose import compose
from stages.datasets import load_dataset

# --- any folder in MVTec AD's layout ---


def test_folder_is_read_in_order(tmp_path: Path, widget: SmallDataset) -> None:
    dataset = read(folder(widget.root), tmp_path)
    widget.check(dataset)
    assert dataset.summary() == (
        "widget: train 5 · valid 1 normal · test 2 + 4 · 16×16 grey from 16×16 · pixel masks"
    )
    assert dataset.train.names == tuple(sorted(dataset.train.names))
    assert dataset.test.names == (
        *("test/good/000.png", "test/good/001.png", "test/dent/000.png", "test/dent/001.png"),
        *("test/scratch/000.png", "test/scratch/001.png"),
    )


def test_folder_may_have_a_name_of_its_own(widget: SmallDataset) -> None:
    source = folder_source(widget.root, "gadget", Parts(), Splitting(), Problems())
    assert source.name == "gadget"


def test_larger_images_and_masks_are_shrunk_in_the_same_way(tmp_path: Path) -> None:
    root = tmp_path / "widget"
    rising = np.tile(np.linspace(20, 220, 48).astype(np.uint8), (32, 1))
    left = np.zeros((32, 48), np.uint8)
    left[:, :24] = 255
    for name in ("train/good/0.png", "train/good/1.png", "test/good/0.png"):
        save(root / name, rising)
    save(root / "test/dent/0.png", rising)
    save(root / "ground_truth/dent/0_mask.png", left)
    dataset = read(folder(root), tmp_path)
    assert "16×16 grey from 48×32 · pixel masks" in dataset.summary()
    assert dataset.test.masks is not None
    assert not dataset.test.masks[0].any()
    assert dataset.test.masks[1].tolist() == [[True] * 8 + [False] * 8] * 16
    row = dataset.train.images[0, 0, 5].astype(int)
    assert np.abs(row - np.linspace(24, 216, 16)).max() <= 4


def test_valid_part_is_seeded(widget: SmallDataset) -> None:
    def valid(seed: int, fraction: float = 0.15) -> list[str]:
        return [s.name for s in folder(widget.root, seed=seed, valid_fraction=fraction).splits["valid"]]

    assert valid(0) == valid(0)
    assert len({*map(str, map(valid, range(5)))}) > 1
    assert len(valid(0, 0.01)) == 1
    assert len(valid(0, 0.99)) == 5  # one is left to learn from


def test_limit_keeps_every_kind(widget: SmallDataset) -> None:
    splits = folder(widget.root, limit=2).splits
    assert {split: len(samples) for split, samples in splits.items()} == {"train": 1, "valid": 1, "test": 4}
    assert {sample.kind for sample in splits["test"]} == {"good", "dent", "scratch"}


def test_masks_may_be_absent_altogether(tmp_path: Path, widget: SmallDataset) -> None:
    shutil.rmtree(widget.root / "ground_truth")
    widget.masked = False
    widget.check(read(folder(widget.root), tmp_path))


def test_files_that_are_no_images_are_passed_over(tmp_path: Path, widget: SmallDataset) -> None:
    (widget.root / "train/good/notes.txt").write_text("not an image")
    (widget.root / "train/good/.hidden.png").write_bytes(b"")
    (widget.root / "train/good/folder.png").mkdir()
    save(widget.root / "test/.thumbnails/000.png", np.zeros((SIDE, SIDE), np.uint8))
    save(widget.root / "test/__MACOSX/000.png", np.zeros((SIDE, SIDE), np.uint8))
    widget.add("train", "train/good/LOUD.PNG")
    widget.check(read(folder(widget.root), tmp_path))


def test_colour_is_decided_by_the_training_images(tmp_path: Path, widget: SmallDataset) -> None:
    def channels(wanted: int | None = None) -> int:
        source = folder_source(widget.root, "", Parts(), Splitting(), Problems(), wanted)
        return read(source, tmp_path).channels

    for path in (widget.root / "train/good").iterdir():
        with Image.open(path) as image:
            image.convert("RGB").save(path)
    assert channels() == 1  # stored as RGB, but grey
    train = folder(widget.root).splits["train"]
    Image.new("RGB", (SIDE, SIDE), (200, 30, 40)).save(widget.root / train[0].name)
    assert channels() == 3
    assert channels(1) == 1


def test_many_files_show_a_progress_bar(
    tmp_path: Path, widget: SmallDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(50):
        widget.add("train", f"train/good/more{i}.png")
    prepare(folder(widget.root), SIDE, tmp_path / "shown", Problems())
    assert "preparing widget" in capsys.readouterr().err
    prepare(folder(widget.root), SIDE, tmp_path / "hidden", Problems(), progress=False)
    assert not capsys.readouterr().err


def test_few_files_show_no_progress_bar(
    tmp_path: Path, widget: SmallDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(folder(widget.root), SIDE, tmp_path / "prepared", Problems())
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 1}, "limit=1"),
        ({"valid_fraction": 0.0}, "valid_fraction=0.0"),
        ({"valid_fraction": 1.0}, "valid_fraction=1.0"),
        ({"group": "("}, "dataset.group=("),
        ({"track": "best"}, "track=best"),
    ],
)
def test_wrong_settings_are_refused(widget: SmallDataset, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        folder(widget.root, **arguments)


@pytest.mark.parametrize(("size", "channels", "message"), [(20, None, "size=20"), (16, 2, "channels=2")])
def test_a_wrong_size_or_number_of_channels_is_refused(
    tmp_path: Path, widget: SmallDataset, size: int, channels: int | None, message: str
) -> None:
    source = folder_source(widget.root, "", Parts(), Splitting(), Problems(), channels)
    with pytest.raises(UserError, match=message):
        read(source, tmp_path, size=size)


def test_a_labelled_validation_moves_some_of_each_defect(tmp_path: Path, widget: SmallDataset) -> None:
    dataset = read(folder(widget.root, track="few_labelled"), tmp_path)
    assert {name.split("/")[1] for name in dataset.valid.names} == {"good", "dent", "scratch"}
    assert len(dataset.test) == 4
    assert "2 anomalies were moved from test to valid" in dataset.remarks[0]
    everything = widget.contents("train") | widget.contents("test")
    assert contents(dataset.train, dataset.valid, dataset.test) == everything


# --- a folder named by its parts ---


NAMED = {"normal_dir": "ok", "abnormal_dir": "bad", "normal_test_dir": "ok_test", "mask_dir": "truth"}


def test_parts_are_read_back(tmp_path: Path) -> None:
    written = make_parts(tmp_path / "data")
    dataset = read(parts(written.root, **NAMED), tmp_path)
    written.check(dataset)
    assert dataset.name == "data"
    assert dataset.remarks == ()


def test_parts_may_be_absolute_folders_from_anywhere(tmp_path: Path) -> None:
    written = make_parts(tmp_path / "here")
    (tmp_path / "there").mkdir()
    for key in ("bad", "truth"):
        (written.root / key).rename(tmp_path / "there" / key)
    named = {**NAMED, "abnormal_dir": str(tmp_path / "there/bad"), "mask_dir": str(tmp_path / "there/truth")}
    written.check(read(parts(written.root, **named), tmp_path))


def test_parts_without_masks_are_read_back(tmp_path: Path) -> None:
    written = make_parts(tmp_path / "data", masks=False)
    written.check(read(parts(written.root, **{**NAMED, "mask_dir": None}), tmp_path))


def test_parts_may_have_folders_in_them(tmp_path: Path) -> None:
    written = make_parts(tmp_path / "data", ["", "a/", "b/deep/"])
    written.check(read(parts(written.root, **NAMED), tmp_path))


def test_masks_may_lie_flat_where_images_lie_in_folders(tmp_path: Path) -> None:
    written = make_parts(tmp_path / "data", masks=False)
    for i in range(4):
        written.add("test", f"bad/kind {'ab'[i % 2]}/defect {i}.png", 1, f"truth/defect {i}_mask.png")
    for i in range(3):
        (written.root / f"bad/{i}.png").unlink()
        del written.splits["test"][f"bad/{i}.png"]
    source = parts(written.root, **NAMED)
    assert {sample.kind for sample in source.splits["test"]} == {"ok_test", "kind a", "kind b"}
    written.check(read(source, tmp_path))


def test_a_folder_with_a_number_holds_neighbours_not_a_kind(tmp_path: Path) -> None:
    written = SmallDataset(tmp_path / "data")
    for patient in range(4):
        for i in range(3):
            written.add("train", f"ok/patient{patient}/{i}.png", 0)
            written.add("test", f"bad/patient{patient}/{i}.png", 1)
    source = parts(written.root, normal_dir="ok", abnormal_dir="bad")
    assert {sample.kind for sample in source.splits["test"]} == {"ok", "bad"}
    held = [
        {sample.name.split("/")[1] for sample in source.splits[split] if not sample.label}
        for split in ("train", "valid", "test")
    ]
    assert [len(patients) for patients in held] == [2, 1, 1]
    assert len(set.union(*held)) == 4


def test_several_folders_of_masks_go_with_those_of_images_by_name(tmp_path: Path) -> None:
    written = SmallDataset(tmp_path / "data")
    for i in range(3):
        written.add("train", f"ok/{i}.png", 0)
        written.add("test", f"ok_test/{i}.png", 0)
        for kind in ("dent", "scratch"):
            written.add("test", f"test/{kind}/{i}.png", 1, f"truth/{kind}/{i}_mask.png")
    source = parts(
        written.root,
        normal_dir="ok",
        normal_test_dir="ok_test",
        abnormal_dir=["test/scratch", "test/dent"],
        mask_dir=["truth/dent", "truth/scratch"],
    )
    for sample in source.splits["test"]:
        assert isinstance(sample, FileSample)
        if sample.label:
            assert sample.mask_path == written.root / "truth" / sample.kind / f"{sample.path.stem}_mask.png"


def test_a_folder_named_twice_is_refused(tmp_path: Path) -> None:
    written = make_parts(tmp_path / "data")
    with pytest.raises(UserError, match=r"two folders of dataset\.normal_dir"):
        parts(written.root, **{**NAMED, "normal_dir": ["ok", "ok"]})


def test_parts_may_be_several_folders(tmp_path: Path) -> None:
    written = SmallDataset(tmp_path / "data")
    for place in ("one", "two"):
        for i in range(2):
            written.add("train", f"{place}/ok/{place}{i}.png", name=f"ok/{place}{i}.png")
            mask = f"{place}/truth/{place}{i}.png"
            written.add("test", f"{place}/bad/{place}{i}.png", 1, mask, f"bad/{place}{i}.png")
            written.add("test", f"{place}/fine/{place}{i}.png", name=f"fine/{place}{i}.png")
    named = {
        key: [f"one/{part}", f"two/{part}"]
        for key, part in zip(NAMED, ("ok", "bad", "fine", "truth"), strict=True)
    }
    written.check(read(parts(written.root, **named), tmp_path))


def test_without_normal_test_images_a_fifth_is_set_aside(tmp_path: Path) -> None:
    written = SmallDataset(tmp_path / "data")
    for i in range(10):
        written.add("train", f"ok/{i}.png")
    written.add("test", "bad/0.png", 1)
    dataset = read(parts(written.root, normal_dir="ok", abnormal_dir="bad"), tmp_path)
    everything = written.contents("train") | written.contents("test")
    assert contents(dataset.train, dataset.valid, dataset.test) == everything
    assert [len(split) for split in (dataset.train, dataset.valid, dataset.test)] == [7, 1, 3]
    assert dataset.remarks == (
        "test's normal images are 2 of them, set aside from normal_dir (no normal_test_dir)",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normal_dir": None}, "dataset.normal_dir is missing"),
        ({"abnormal_dir": None}, r"mask_dir=truth needs dataset.abnormal_dir(.|\n)*ok/\n *3 images"),
        ({"normal_dir": "okay"}, r"dataset.normal_dir=.*okay is no folder(.|\n)*ok/\n *3 images"),
        ({"abnormal_dir": "empty"}, r"dataset.abnormal_dir=empty holds no images(.|\n)*ok/\n *3 images"),
        ({"mask_dir": "masks"}, "dataset.mask_dir=.*masks is no folder"),
        ({"mask_dir": "empty"}, "dataset.mask_dir=empty holds no images"),
        ({"mask_dir": "few"}, "bad/1.png: this anomalous image has no mask"),
        ({"mask_dir": ["truth", "few"]}, "bad/0.png: 0.bmp, 0.png are all masks of it"),
        ({"normal_dir": "single"}, "dataset.normal_dir=single holds one image only"),
        (
            {"normal_dir": "pair", "normal_test_dir": None},
            "normal_dir holds too few images to set test and valid aside",
        ),
        ({"abnormal_dir": "ok"}, "ok/0.png lies in both dataset.normal_dir and dataset.abnormal_dir"),
        ({"normal_dir": "."}, "in both dataset.normal_dir and dataset.normal_test_dir"),
        (
            {"normal_test_dir": "linked"},
            "linked/0.png lies in both dataset.normal_dir and dataset.normal_test_dir",
        ),
        ({"mask_dir": "bad"}, "bad/0.png lies in both dataset.abnormal_dir and dataset.mask_dir"),
    ],
)
def test_wrong_parts_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    written = make_parts(tmp_path / "data")
    root = written.root
    for path in ("single/0.png", "pair/0.png", "pair/1.png", "few/0.bmp"):
        written.add("other", path)
    (root / "empty").mkdir()
    (root / "linked").symlink_to(root / "ok")
    with pytest.raises(UserError, match=message):
        parts(root, **{**NAMED, **change})


def test_a_folder_may_lie_where_the_command_is_called(
    tmp_path: Path, widget: SmallDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dataset.root=mine` is looked for below data_root, and else as it stands."""
    monkeypatch.chdir(widget.root.parent)
    (tmp_path / "sets").mkdir()
    keys = ["dataset=folder", f"dataset.root={widget.root.name}", "dataset.size=16"]
    config = read_config(
        compose("train_ae", [*keys, f"data_root={tmp_path}/sets", f"prepared={tmp_path}/p"]), AutoencoderRun
    )
    widget.check(load_dataset(config))
    shutil.copytree(widget.root, tmp_path / "sets" / widget.root.name)
    shutil.rmtree(tmp_path / "sets" / widget.root.name / "test" / "dent")
    shutil.rmtree(tmp_path / "sets" / widget.root.name / "ground_truth" / "dent")
    assert len(load_dataset(config).test) == 4, "what lies below data_root comes first"
