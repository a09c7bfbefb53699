"""No anomaly to test on: sets of normal images and a few labelled ones are read, trained on and reported."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_backbones
from conftest import RunHere
from dataset_sources import folder, parts
from PIL import Image
from small_datasets import SmallDataset, contents, read, save
from test_predict_command import QUICK, Run, latent

import train_detector
import train_ppo
from latent_common.errors import UserError
from latent_env.data import Dataset, Problems, Splitting, folder_source
from latent_env.data import Parts as Named
from latent_env.training.run_folder import Run as RunFolder

_ = latent  # the fixture that test_predict_command has


# --- reading ---


def make_set(root: Path, normal: int = 10, labelled: int = 3, masks: bool = True) -> SmallDataset:
    """``train/good``, and anomalies in ``train/dent``."""
    written = SmallDataset(root)
    for number in range(normal):
        written.add("train", f"train/good/{number:03}.png")
    for number in range(labelled):
        mask = f"ground_truth/dent/{number:03}_mask.png" if masks else None
        written.add("valid", f"train/dent/{number:03}.png", 1, mask)
    return written


def counts(dataset: Dataset) -> dict[str, tuple[int, int]]:
    """Normal and anomalous images of each split."""
    splits = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
    return {name: (int((each.labels == 0).sum()), int(each.labels.sum())) for name, each in splits.items()}


@pytest.mark.parametrize("masks", [True, False])
def test_a_fifth_of_the_normal_images_is_the_test(tmp_path: Path, masks: bool) -> None:
    written = make_set(tmp_path / "mine", masks=masks)
    dataset = read(folder(written.root), tmp_path)
    assert counts(dataset) == {"train": (7, 0), "valid": (1, 3), "test": (2, 0)}
    everything = written.contents("train") | written.contents("valid")
    assert contents(dataset.train, dataset.valid, dataset.test) == everything
    assert (
        dataset.remarks[0] == "test's normal images are 2 of them, set aside from train/good (no test/good)"
    )
    assert dataset.remarks[1].startswith("test has no anomalous images")
    assert "valid 1 normal + 3 anomalous · test 2 normal · 16×16 grey" in dataset.summary()


def test_an_empty_test_folder_is_none(tmp_path: Path) -> None:
    written = make_set(tmp_path / "mine")
    (written.root / "test" / ".cache").mkdir(parents=True)
    assert counts(read(folder(written.root), tmp_path))["test"] == (2, 0)


def test_normal_test_images_are_taken_where_they_are_given(tmp_path: Path) -> None:
    written = make_set(tmp_path / "mine")
    for number in range(4):
        written.add("test", f"test/good/{number}.png")
    dataset = read(folder(written.root), tmp_path)
    assert contents(dataset.test) == written.contents("test")
    assert counts(dataset) == {"train": (8, 0), "valid": (2, 3), "test": (4, 0)}
    assert [remark[:8] for remark in dataset.remarks] == ["test has"]


def test_parts_without_anomalies_to_test_on(tmp_path: Path) -> None:
    written = make_set(tmp_path / "mine")
    named = {"normal_dir": "train/good", "labelled_dir": "train/dent", "mask_dir": "ground_truth/dent"}
    dataset = read(parts(written.root, **named), tmp_path)
    assert counts(dataset) == {"train": (7, 0), "valid": (1, 3), "test": (2, 0)}
    assert dataset.valid.masks is not None
    assert dataset.valid.masks[dataset.valid.labels == 1].any((1, 2)).all()
    assert "set aside from normal_dir (no normal_test_dir)" in dataset.remarks[0]


@pytest.mark.parametrize("settings", [{}, {"track": "few_labelled"}, {"labelled": 0}])
def test_normal_images_alone_are_a_set(tmp_path: Path, settings: dict[str, Any]) -> None:
    written = make_set(tmp_path / "mine", labelled=0)
    expected = {"train": (7, 0), "valid": (1, 0), "test": (2, 0)}
    dataset = read(folder(written.root, **settings), tmp_path)
    assert counts(dataset) == expected
    assert not any("moved" in remark for remark in dataset.remarks)
    assert counts(read(parts(written.root, normal_dir="train/good"), tmp_path)) == expected


def test_so_many_of_the_labelled_ones_are_taken(tmp_path: Path) -> None:
    written = make_set(tmp_path / "mine")
    for count in range(4):
        dataset = read(folder(written.root, labelled=count), tmp_path)
        assert counts(dataset) == {"train": (7, 0), "valid": (1, count), "test": (2, 0)}
    assert counts(read(folder(written.root), tmp_path).for_track("one_class"))["valid"] == (1, 0)


def add(*names: str) -> Callable[[Path], None]:
    """Writes images, and folders where a name has no ending."""

    def act(root: Path) -> None:
        for name in names:
            if Path(name).suffix:
                save(root / name, np.zeros((16, 16), np.uint8))
            else:
                (root / name).mkdir(parents=True)

    return act


def keep(count: int) -> Callable[[Path], None]:
    """Leaves so many normal images."""

    def act(root: Path) -> None:
        for path in sorted((root / "train/good").iterdir())[count:]:
            path.unlink()

    return act


FLAWS: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty kind": (add("train/crack"), "train/crack holds no images .* anomalous images there, or delete"),
    "kind in folders": (add("train/crack/a/0.png"), "train/crack holds no images"),
    "empty kind to test on": (add("test/good/0.png", "test/crack"), "test/crack holds no images"),
    "images in test": (add("test/0.png"), "test holds images that lie in none of its folders, such as 0.png"),
    "images in train": (add("train/7.png"), "train holds images .* such as 7.png. Put normal ones into"),
    "normal ones elsewhere": (add("test/ok/0.png", "test/dent/9.png"), "test/good does not exist"),
    "empty test/good": (add("test/good"), "test/good holds no images"),
    "two normal images": (keep(2), "train/good holds too few images to set test and valid aside"),
    "one normal image": (keep(1), "train/good holds one image only"),
    "no normal image": (keep(0), "train/good holds no images"),
    "mask of no image": (add("ground_truth/dent/9_mask.png"), "9_mask.png: this mask has no image"),
    "masks of no kind": (
        add("ground_truth/crack/0_mask.png"),
        "ground_truth/crack holds masks, but there is",
    ),
    "image without mask": (add("train/dent/9.png"), "train/dent/9.png: this anomalous image has no mask"),
    "broken image": (
        lambda root: (root / "train/dent/000.png").write_bytes(b"no") and None,
        "train/dent/000.png can't be read as an image",
    ),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_mistakes_in_such_a_set_are_named(tmp_path: Path, flaw: str) -> None:
    written = make_set(tmp_path / "mine")
    spoil, message = FLAWS[flaw]
    spoil(written.root)
    with pytest.raises(UserError, match=message):
        read(folder(written.root), tmp_path)


@pytest.mark.parametrize("flaw", ["empty kind", "images in test", "mask of no image", "broken image"])
def test_what_is_wrong_can_be_skipped(tmp_path: Path, flaw: str) -> None:
    written = make_set(tmp_path / "mine")
    FLAWS[flaw][0](written.root)
    problems = Problems("skip")
    source = folder_source(written.root, "", Named(), Splitting(), problems)
    assert counts(read(source, tmp_path, problems))["test"] == (2, 0)
    assert len(problems.skipped) == 1


@pytest.mark.parametrize(
    ("labelled", "count", "message"),
    [(3, 4, "the set labels 3"), (0, 1, "test must keep one, so it can give 0")],
)
def test_more_labelled_ones_than_there_are_are_refused(
    tmp_path: Path, labelled: int, count: int, message: str
) -> None:
    written = make_set(tmp_path / "mine", labelled=labelled)
    with pytest.raises(UserError, match=f"labelled.count={count} is more than can be had: {message}"):
        folder(written.root, labelled=count)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"labelled_dir": "train/dent"}, "dataset.normal_dir is missing"),
        ({"normal_dir": "train/good", "labelled_dir": "train/crack"}, "labelled_dir=.*crack is no folder"),
        ({"normal_dir": "train/good", "labelled_dir": "empty"}, "labelled_dir=empty holds no images"),
        ({"normal_dir": "train", "labelled_dir": "train/dent"}, "lies in both dataset.normal_dir and"),
        (
            {"normal_dir": "train/good", "mask_dir": "ground_truth"},
            "mask_dir=ground_truth needs dataset.abnormal_dir or dataset.labelled_dir",
        ),
    ],
)
def test_wrong_parts_of_such_a_set_are_refused(tmp_path: Path, named: dict[str, str], message: str) -> None:
    written = make_set(tmp_path / "mine")
    (written.root / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        parts(written.root, **named)


# --- commands ---

DATA = ["dataset=folder", "dataset.root=mine", "dataset.size=32", "dataset.valid_fraction=0.4"]
KEYS = [
    *(*DATA, "data_root=.", "device=cpu", "threads=1", "autoencoder.steps=3", "autoencoder.width=8"),
    *("detector.backbone=mobilenet", "detector.grid=4", "detector.components=8"),
]
PROBE = [*KEYS, "detector=probe"]
RANDOM = [
    *("agent=random", "env.num_envs=4", "samples=32", "rounds=1", "reward_ensemble.count=0", "full_size=2"),
    *("env.shell_ratio=1.2", "mixture.few_share=0.25"),
]
ALL_NORMAL = "All test images are normal, so there is no AUROC"


def textured(folder: Path, count: int, dark: bool) -> None:
    rng = np.random.default_rng(count)
    folder.mkdir(parents=True)
    for number in range(count):
        image = rng.integers(100, 140, (32, 32), dtype=np.uint8)
        if dark:
            image[8:16, 8:16] = 0
        Image.fromarray(image).save(folder / f"{number:03}.png")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with ``mine``: 20 normal images, 3 dark ones, nothing to test on."""
    tiny_backbones.mobilenet(tmp_path / "mobilenet")
    textured(tmp_path / "mine/train/good", 20, dark=False)
    textured(tmp_path / "mine/train/dent", 3, dark=True)
    return tmp_path


def finished(here: Path, stage: str) -> tuple[Path, dict[str, float]]:
    (path,) = here.glob(f"runs/mine/{stage}/*/metrics.json")
    loaded: dict[str, float] = json.loads(path.read_text())
    assert not [name for name in loaded if "image_" in name or "pixel_" in name]
    assert all(np.isfinite(value) for value in loaded.values())
    return path.parent, loaded


def detect(here: Path, run_here: RunHere, *keys: str) -> tuple[str, str]:
    code, out, log = run_here(train_detector.main, "train_detector", *keys, cwd=here)
    assert code == 0, log
    return out, log


def test_a_detector_tells_what_labelled_anomalies_say(
    here: Path, run_here: RunHere, latent: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, log = detect(here, run_here, *PROBE)
    assert "mine: test has no anomalous images" in log
    assert out.startswith(f"{ALL_NORMAL} on them")
    assert "3 labelled ones, each judged by a detector that hadn't learned from it: image AUROC" in out
    assert "none there" in out
    run, metrics = finished(here, "detector")
    assert metrics["normal_test_images"] == 4
    assert f"image AUROC {metrics['labelled_AUROC']:.3f} against" in out
    assert f"{metrics['false_alarms']:.2%} (" in out
    pictures = sorted(path.name for path in (run / "pictures").iterdir())
    assert pictures == ["test_detections.png", "valid_labelled.png"]
    monkeypatch.setattr(RunFolder, "finish", None)  # what was evaluated isn't evaluated again
    again, log = detect(here, run_here, *PROBE)
    assert again == out
    assert f"detector: using {Path('runs') / run.relative_to(here / 'runs')}" in log
    table = latent("runs").out
    assert f"labelled_AUROC {metrics['labelled_AUROC']:.3f}, false_alarms" in table
    done = latent("predict", str(run), "mine/train/dent/000.png", "--out", "checked", *QUICK)
    assert done.code == 0, done.said


def test_baselines_have_nothing_to_be_compared_on(here: Path, run_here: RunHere) -> None:
    out, log = detect(here, run_here, *PROBE, "detector.baselines=[knn]", "labelled.folds=0")
    assert "memory bank" not in log
    assert "No labelled anomaly tells how many are found either" in out
    assert "labelled.folds" in out
    assert "labelled_AUROC" not in finished(here, "detector")[1]


@pytest.mark.parametrize("detector", ["gaussian", "reconstruction"])
def test_detectors_that_learn_from_no_anomaly_are_judged_by_all(
    here: Path, run_here: RunHere, detector: str
) -> None:
    keys = KEYS if detector == "gaussian" else KEYS[: KEYS.index("detector.backbone=mobilenet")]
    out, _ = detect(here, run_here, *keys, f"detector={detector}")
    assert "3 labelled ones that the detector didn't learn from" in out
    assert set(finished(here, "detector")[1]) == {"normal_test_images", "false_alarms", "labelled_AUROC"}


def test_normal_images_alone_make_a_detector_with_a_threshold(here: Path, run_here: RunHere) -> None:
    for path in (here / "mine/train/dent").iterdir():
        path.unlink()
    (here / "mine/train/dent").rmdir()
    out, _ = detect(here, run_here, *KEYS, "detector=gaussian")
    assert "No labelled anomaly tells how many are found either: there is none" in out
    assert "% false alarms" in out
    assert set(finished(here, "detector")[1]) == {"normal_test_images", "false_alarms"}


@pytest.mark.slow
def test_both_detectors_are_compared_by_labelled_anomalies(here: Path, run_here: RunHere) -> None:
    code, out, log = run_here(train_ppo.main, "train_ppo", *PROBE, *RANDOM, cwd=here)
    assert code == 0, log
    run, metrics = finished(here, "agent")
    report = json.loads((run / "report.json").read_text())
    assert set(report["metrics"]) == {"labelled_AUROC", "false_alarms"}
    assert report["metrics"]["labelled_AUROC"]["with"] == metrics["labelled_AUROC"]
    assert report["verdict"].startswith(ALL_NORMAL)
    assert "it can't be told whether samples help" in report["verdict"]
    assert report["verdict"] in out
    assert "the share was fixed, nothing was chosen" in out
    assert report["baselines"] == {}
    assert not (run / "pictures/test_curves.png").exists()
    assert (run / "pictures/valid_labelled.png").is_file()
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "mine: no anomalies to test on" in page
    assert "AUROC of labelled anomalies" in page
    assert "false positive" not in page
    assert not re.search(r"undefined|nan\b|0 of 0", page)
    assert "anomalous ones downwards" not in page


@pytest.mark.slow
def test_an_agent_without_any_anomaly_adds_nothing(here: Path, run_here: RunHere) -> None:
    keys = [*PROBE, *RANDOM, "track=one_class", "mixture.by_synthetic=false"]
    code, out, log = run_here(train_ppo.main, "train_ppo", *keys, cwd=here)
    assert code == 0, log
    assert "Nothing was added" in out
    assert "nor how many anomalies are found" in out
    run, metrics = finished(here, "agent")
    assert set(metrics) == {"false_alarms", "gain_false_alarms"}
    assert "mine: nothing was added" in (run / "report.html").read_text(encoding="utf-8")
