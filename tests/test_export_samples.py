"""`latent-aug export --samples`: images with masks that other programs read as they were made."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from test_full_size import ORIGINALS, SIZE, dataset  # noqa: F401 - a fixture
from test_predict_command import Run, latent  # noqa: F401 - a fixture

from agents.rollout import Augmented, save_augmented
from latent_common.artifacts import save_artifact, write_json
from latent_env.data import Dataset, Problems, Splitting, folder_source, prepare
from latent_env.data.layouts.folder import Parts
from stages.augmentation.sources import SOURCES, save_sources
from stages.export.samples.instances import box_of, outline_of, parts_of, run_lengths
from stages.export.selection import SELECTION, write_rejected

KINDS = ["copy_paste", "perturbation", "perturbation", "normal_variation"]
"""Of the samples in order; each was made from the start image of the same number."""

PLACES = [(slice(6, 10), slice(12, 20)), (slice(0, 5), slice(0, 3)), (slice(20, 32), slice(26, 32))]
"""What was changed in the anomalies; in the last one also the corner below left."""


def marks(count: int) -> NDArray[np.bool_]:
    masks = np.zeros((count, SIZE, SIZE), np.bool_)
    for mask, place in zip(masks, PLACES, strict=False):
        mask[place] = True
    masks[2, 28:32, 0:4] = True
    return masks


def make_run(folder: Path, dataset: Dataset) -> Augmented:  # noqa: F811
    starts = torch.from_numpy(np.array(dataset.train.images))
    count = len(KINDS)
    masks = torch.from_numpy(marks(count))[:, None]
    images = starts[torch.arange(count) % len(starts)].int() + 40 * masks
    nothing = torch.zeros(count, 1, 1, 1)
    labels = torch.tensor([1, 1, 1, 0])
    made = Augmented(
        images.clamp(max=255).byte(),
        masks,
        nothing.bool(),
        labels,
        torch.arange(count) % len(starts),
        torch.full((count, 4, 2, 2), 0.5),
        torch.tensor([0.1, 0.9, 0.5, 0.2]),
        torch.tensor([2, -1, -1, -1]),
        torch.zeros(count, 3, dtype=torch.bool),
    )
    folder.mkdir()
    save_augmented(folder / "augmented.npz", made)
    save_artifact(folder, "images", "images", {"images": starts}, {"count": len(starts)})
    save_sources(folder, dataset, np.arange(len(starts)))
    return made


@pytest.fixture
def made(tmp_path: Path, dataset: Dataset) -> Augmented:  # noqa: F811
    """A run in the folder ``run``, of a data set of files of several sizes, depths and orientations."""
    return make_run(tmp_path / "run", dataset)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "samples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def expected(dataset: Dataset, row: int, size: tuple[int, int]) -> NDArray[np.bool_]:  # noqa: F811
    grey = Image.fromarray(marks(4)[row].astype(np.uint8) * 255)
    return np.asarray(grey.resize(size, Image.Resampling.BICUBIC)) >= 128


def test_mvtec_folders_hold_the_originals_changed_where_the_mask_says(
    latent: Run,  # noqa: F811
    made: Augmented,
    dataset: Dataset,  # noqa: F811
    tmp_path: Path,
) -> None:
    done = latent("export", "run", "--samples", "out/samples")
    assert done.code == 0, done.said
    assert "4 of 4 samples, 4 of them in their original files' size, 0 rejected" in done.said
    out = tmp_path / "out/samples"
    kinds = sorted(path.name for path in (out / "train").iterdir())
    assert kinds == ["copy_paste", "good", "perturbation"]
    rows = rows_of(out)
    assert [row["kind"] for row in rows] == KINDS
    for number, row in enumerate(rows):
        file = dataset.files[dataset.train.names[number % len(dataset.train)]]
        assert Path(row["source"]) == file
        with Image.open(out / row["image"]) as image, Image.open(file) as original:
            upright = original.size[::-1] if original.getexif().get(0x0112) == 6 else original.size
            assert image.size == upright == (int(row["width"]), int(row["height"]))
            assert (image.mode == "I;16") == (original.mode == "I;16")
        if row["label"] == "0":
            assert row["mask"] == ""
            continue
        image_path = Path(row["image"])
        assert row["mask"] == f"ground_truth/{image_path.parent.name}/{image_path.stem}_mask.png"
        with Image.open(out / row["mask"]) as mask:
            assert set(np.unique(np.asarray(mask))) == {0, 255}
            np.testing.assert_array_equal(np.asarray(mask) > 0, expected(dataset, number, mask.size))
    assert [row["copied"] for row in rows] == ["2", "-1", "-1", "-1"]
    assert {row["delta_norm"] for row in rows} == {"2.0000"}
    assert float(rows[1]["reward"]) == pytest.approx(0.9)


def test_mvtec_folders_can_be_learned_from(
    latent: Run,  # noqa: F811
    made: Augmented,
    tmp_path: Path,
) -> None:
    """Beside test images of one's own, our reader of folders takes them for labelled anomalies."""
    latent("export", "run", "--samples", "out")
    for name in ("good", "bad"):
        (tmp_path / "out/test" / name).mkdir(parents=True)
        for number in range(2):
            shade = np.full((40, 40), 90 * number + (10 if name == "bad" else 60), np.uint8)
            Image.fromarray(shade).save(tmp_path / "out/test" / name / f"{number}.png")
    (tmp_path / "out/ground_truth/bad").mkdir()
    for number in range(2):
        Image.fromarray(np.full((40, 40), 255, np.uint8)).save(
            tmp_path / f"out/ground_truth/bad/{number}_mask.png"
        )
    for number in range(4):
        Image.fromarray(np.full((40, 40), number, np.uint8)).save(
            tmp_path / f"out/train/good/more{number}.png"
        )
    parts = Parts(None, None, None, None, None)
    source = folder_source(
        tmp_path / "out", "mine", parts, Splitting("few_labelled", 0, 0.25, None, None), Problems(), None
    )
    read = prepare(source, SIZE, tmp_path / "again", Problems())
    assert read.valid.labels.sum() == 3
    assert read.valid.masks is not None
    for name, mask, label in zip(read.valid.names, read.valid.masks, read.valid.labels, strict=True):
        if label:
            wanted = marks(4)[int(Path(name).stem)]
            assert (mask & wanted).sum() / (mask | wanted).sum() > 0.7


def test_coco_is_read_by_pycocotools(
    latent: Run,  # noqa: F811
    made: Augmented,
    dataset: Dataset,  # noqa: F811
    tmp_path: Path,
) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    assert latent("export", "run", "--samples", "out", "--layout", "coco").code == 0
    read = coco.COCO(str(tmp_path / "out/annotations.json"))
    assert [each["name"] for each in read.loadCats(read.getCatIds())] == ["anomaly"]
    assert sorted(read.getImgIds()) == [1, 2, 3, 4]
    counts = []
    for facts in read.loadImgs([1, 2, 3, 4]):
        with Image.open(tmp_path / "out/images" / facts["file_name"]) as image:
            assert image.size == (facts["width"], facts["height"])
            size = image.size
        annotations = read.loadAnns(read.getAnnIds(facts["id"]))
        counts.append(len(annotations))
        found = np.zeros(size[::-1], np.bool_)
        for each in annotations:
            part = read.annToMask(each).astype(bool)
            assert part.sum() == each["area"]
            left, top, width, height = each["bbox"]
            assert part[top : top + height, left : left + width].sum() == each["area"]
            found |= part
        if annotations:
            np.testing.assert_array_equal(found, expected(dataset, facts["id"] - 1, size))
    assert counts == [1, 1, 2, 0]


def test_yolo_polygons_cover_the_masks(
    latent: Run,  # noqa: F811
    made: Augmented,
    dataset: Dataset,  # noqa: F811
    tmp_path: Path,
) -> None:
    assert latent("export", "run", "--samples", "out", "--layout", "yolo").code == 0
    out = tmp_path / "out"
    assert "train: images/train" in (out / "data.yaml").read_text()
    for number, path in enumerate(sorted((out / "images/train").iterdir())):
        lines = (out / "labels/train" / f"{path.stem}.txt").read_text().splitlines()
        with Image.open(path) as image:
            drawn = Image.new("1", image.size)
        for line in lines:
            kind, *corners = line.split()
            points = np.array(corners, float).reshape(-1, 2)
            assert kind == "0"
            assert len(points) >= 3
            assert points.min() >= 0
            assert points.max() <= 1
            ImageDraw.Draw(drawn).polygon([tuple(point) for point in points * drawn.size], fill=1)
        wanted, found = expected(dataset, number, drawn.size), np.asarray(drawn)
        if number == 3:
            assert lines == []
        else:
            assert (wanted & found).sum() / (wanted | found).sum() > 0.8


def test_arrays_are_those_that_the_agent_made(
    latent: Run,  # noqa: F811
    made: Augmented,
    tmp_path: Path,
) -> None:
    assert latent("export", "run", "--samples", "out", "--layout", "npz").code == 0
    with np.load(tmp_path / "out/samples.npz", allow_pickle=False) as held:
        np.testing.assert_array_equal(held["images"], made.images.numpy())
        np.testing.assert_array_equal(held["masks"], made.masks[:, 0].numpy())
        assert held["labels"].tolist() == [1, 1, 1, 0]
        assert held["kinds"].tolist() == KINDS
        assert held["names"].tolist() == ["00000", "00001", "00002", "00003"]


def test_what_a_person_rejected_is_left_out(
    latent: Run,  # noqa: F811
    made: Augmented,
    tmp_path: Path,
) -> None:
    write_rejected(tmp_path / "run", [1, 3])
    assert "2 of 4 samples" in latent("export", "run", "--samples", "out").said
    rows = rows_of(tmp_path / "out")
    assert [row["kept"] for row in rows] == ["yes", "no", "yes", "no"]
    assert [bool(row["image"]) for row in rows] == [True, False, True, False]
    assert len(list((tmp_path / "out").rglob("*.png"))) == 4
    assert "1 of 4 samples" in latent("export", "run", "--samples", "best", "--best", "1").said
    assert [row["image"] for row in rows_of(tmp_path / "best")][2] == "train/perturbation/00002.png"


def test_originals_that_have_changed_or_gone_are_not_drawn_into(
    latent: Run,  # noqa: F811
    made: Augmented,
    dataset: Dataset,  # noqa: F811
    tmp_path: Path,
) -> None:
    files = [dataset.files[name] for name in dataset.train.names]
    files[0].unlink()
    ORIGINALS["L"].transpose(Image.Transpose.ROTATE_180).save(files[1])
    assert "1 of them in their original" in latent("export", "run", "--samples", "out").said
    rows = rows_of(tmp_path / "out")
    for row, samples in zip(rows, made.images.numpy(), strict=True):
        if row["original"] == "no":
            with Image.open(tmp_path / "out" / row["image"]) as image:
                np.testing.assert_array_equal(np.asarray(image), samples[0])
    assert {row["original"] for row in rows[:2]} == {"no"}
    assert rows[2]["original"] == "yes"


def test_a_folder_appears_whole_or_not_at_all(
    latent: Run,  # noqa: F811
    made: Augmented,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from stages.export.samples import layouts

    write, written = layouts.write_png, []

    def stopping(path: Path, image: Image.Image) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write(path, image)

    monkeypatch.setattr(layouts, "write_png", stopping)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert latent("export", "run", "--samples", "out").code == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_mistakes_are_one_line(
    latent: Run,  # noqa: F811
    made: Augmented,
    tmp_path: Path,
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    (tmp_path / "none").mkdir()
    (tmp_path / "other").mkdir()
    for name in ("augmented.npz", "images.json", "images.safetensors"):
        (tmp_path / "other" / name).write_bytes((tmp_path / "run" / name).read_bytes())
    write_json(tmp_path / "other" / SELECTION, {"rejected": [4]})
    for arguments, message in [
        ("run --samples full", "--samples full: something is there already"),
        ("run --samples full/file/deep", "--samples full/file/deep: can't write there"),
        ("none --samples out", "none holds no samples: `latent-aug train` makes some"),
        ("nowhere --samples out", "nowhere is no folder"),
        ("run --samples out --layout voc", "invalid choice: 'voc'"),
        ("run --layout coco", "nothing to export"),
        ("run --onnx model.onnx --layout coco", "--layout coco is of samples"),
        ("run --samples out --best 0", "--best 0 must be at least 1"),
        ("other --samples out", "rejects sample 4, but there are 4"),
    ]:
        done = latent("export", *arguments.split())
        assert done.code == 2, arguments
        assert message in done.said
        assert len(done.said.strip().splitlines()) == 1, done.said
        assert not (tmp_path / "out").exists()
    write_rejected(tmp_path / "run", range(4))
    assert "all are rejected in kept.json" in latent("export", "run", "--samples", "out").said
    (tmp_path / "run" / SOURCES).write_text('{"sources": [1]}')
    assert "doesn't list the" in latent("export", "run", "--samples", "out").said


def test_a_folder_of_runs_stands_for_the_newest(
    latent: Run,  # noqa: F811
    made: Augmented,
    tmp_path: Path,
) -> None:
    target = tmp_path / "runs/mine/agent"
    target.mkdir(parents=True)
    (tmp_path / "run").rename(target / "ppo-1")
    assert latent("export", "runs", "--samples", "out").code == 2
    (target / "ppo-1/metrics.json").write_text("{}")
    assert latent("export", "runs", "--samples", "out").code == 0


def test_run_lengths_and_outlines_of_odd_parts() -> None:
    ring = np.zeros((7, 9), np.bool_)
    ring[1:6, 2:8] = True
    ring[3, 4:6] = False
    ring[0, 0] = True
    corner, whole = parts_of(ring)
    assert box_of(corner) == (0, 0, 1, 1)
    assert box_of(whole) == (2, 1, 6, 5)
    assert run_lengths(corner) == [0, 1, 62]
    assert sum(run_lengths(whole)) == ring.size
    assert sum(run_lengths(whole)[1::2]) == whole.sum()
    edge = outline_of(whole)
    assert edge.min(0).tolist() == [2, 1]
    assert edge.max(0).tolist() == [8, 6]
    assert len(outline_of(np.ones((4, 4), np.bool_))) >= 4
