"""The scripts on images from files: the real sets, textures, tracks, and images that stay on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, TINY_AGENT, RunHere, later_wins, run_script
from PIL import Image

import train_detector
from stages import prepare as data_command

REAL = Path(__file__).parents[2] / "shared" / "data"
QUICK = later_wins(*TINY[1:], "autoencoder.steps=10", "detector.steps=8")
QUICK_PPO = [
    *QUICK,
    *TINY_AGENT[len(TINY) :],
    "agent.total_steps=64",
    "agent.n_steps=8",
    "agent.batch_size=16",
]

REAL_SETS = {
    "mvtec": ["dataset=mvtec", "dataset.category=bottle", "dataset.size=16"],
    "folder": ["dataset=folder", "dataset.root=folder/magnetic_tile", "dataset.size=16"],
    "bmad": ["dataset=bmad_custom", "dataset.name=BUSI", "dataset.size=16"],
    "mnist": ["dataset=mnist", "dataset.normal=3", "dataset.size=32"],
}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A tiny set in MVTec's layout: noise, and holes in it."""
    rng = np.random.default_rng(0)
    root = tmp_path / "mine"
    for folder, count in (("train/good", 9), ("test/good", 4), ("test/hole", 8), ("ground_truth/hole", 8)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(100, 140, (16, 16), dtype=np.uint8)
            name = f"{i:03}.png"
            if folder.endswith("hole"):
                image[5:9, 5:9] = 0
            if folder.startswith("ground_truth"):
                image, name = np.where(image == 0, 255, 0).astype(np.uint8), f"{i:03}_mask.png"
            Image.fromarray(image).save(root / folder / name)
    return root


DATA = ["dataset=folder", "dataset.root=mine", "data_root=.", "dataset.size=16"]
MINE = [*DATA, *QUICK]
MINE_AE = [*DATA, "device=cpu", "threads=1", "autoencoder.steps=5", "autoencoder.width=8"]


def metrics(folder: Path, stage: str = "detector") -> dict[str, float]:
    (path,) = folder.glob(f"*/{stage}/*/metrics.json")
    loaded: dict[str, float] = json.loads(path.read_text())
    return loaded


@pytest.mark.parametrize("name", REAL_SETS)
def test_real_sets_go_through_all_stages(name: str, tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not there")
    arguments = [*REAL_SETS[name], f"data_root={REAL}", "dataset.limit=24", *QUICK_PPO]
    done = run_script("train_ppo.py", *arguments, cwd=tmp_path)
    assert "image_AUROC" in done.stdout
    assert ("pixel_AUPRO" in done.stdout) == (name != "mnist")


@pytest.mark.slow
def test_images_from_disk_train_the_same_detector(mine: Path, tmp_path: Path) -> None:
    done = run_script("train_detector.py", *MINE, cwd=tmp_path)
    assert "pixel_AUPRO" in done.stdout
    assert "read as needed" not in done.stderr
    streamed = run_script("train_detector.py", *MINE, "memory=0.001", "runs=other", cwd=tmp_path)
    assert "read as needed" in streamed.stderr
    assert metrics(tmp_path / "other") == metrics(tmp_path / "runs")


@pytest.mark.slow
def test_the_same_images_elsewhere_are_not_trained_on_again(mine: Path, tmp_path: Path) -> None:
    run_script("train_ae.py", *MINE_AE, cwd=tmp_path)
    (tmp_path / "moved").mkdir()
    mine.rename(tmp_path / "moved" / "mine")
    moved = [argument for argument in MINE_AE if not argument.startswith("data_root=")]
    done = run_script("train_ae.py", *moved, "data_root=moved", cwd=tmp_path)
    assert "autoencoder: using" in done.stderr


@pytest.mark.slow
def test_textures_change_the_detector_and_are_prepared(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "dtd" / "dotted").mkdir(parents=True)
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (30, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "dtd" / "dotted" / f"{i}.jpg")
    arguments = [*MINE, "synthesis=perlin"]
    run_script("train_detector.py", *arguments, cwd=tmp_path)
    done = run_script("train_detector.py", *arguments, "texture_root=dtd", cwd=tmp_path)
    assert "textures: 3 from dtd" in done.stderr
    assert len(list(tmp_path.glob("runs/mine/detector/*/metrics.json"))) == 2
    with np.load(next(tmp_path.glob("prepared/textures/*/textures.npz"))) as held:
        assert held["images"].shape == (3, 1, 16, 16)


def test_tracks_decide_what_validation_holds(mine: Path, tmp_path: Path, run_here: RunHere) -> None:
    counts = {}
    for track in ("auto", "few_labelled", "one_class"):
        _, out, _ = run_here(data_command.main, "prepare", *DATA, f"track={track}", cwd=tmp_path)
        counts[track] = out.partition(" · 16×16")[0]
    assert counts["auto"] == counts["one_class"] == "mine: train 8 · valid 1 normal · test 4 + 8"
    assert counts["few_labelled"] == "mine: train 8 · valid 1 normal + 1 anomalous · test 4 + 7"


def test_detectors_take_more_steps_where_they_learn_from_real_anomalies(
    mine: Path, tmp_path: Path, run_here: RunHere
) -> None:
    step_multiplier = [*MINE, "labelled.step_multiplier=1.5", "labelled.train=1", "labelled.reference_set=0"]
    step_multiplier += ["detector=transformer", "dataset.valid_fraction=0.5", "detector.baselines=[]"]
    for track, steps in (("few_labelled", 12), ("one_class", 8)):
        code, _, log = run_here(
            train_detector.main, "train_detector", *step_multiplier, f"track={track}", cwd=tmp_path
        )
        assert code == 0, log
        assert f" {steps}/{steps} " in log.partition("detector ")[2]


def test_without_normal_validation_images_baselines_are_left_out(tmp_path: Path, run_here: RunHere) -> None:
    rng, root = np.random.default_rng(0), tmp_path / "odd"
    root.mkdir()
    for name, normal, anomalous in (("train", 12, 0), ("valid", 0, 3), ("test", 4, 4)):
        images = rng.integers(100, 140, (normal + anomalous, 16, 16), dtype=np.uint8)
        images[normal:, 5:9, 5:9] = 0
        np.savez(root / f"{name}.npz", images=images, labels=np.repeat([0, 1], [normal, anomalous]))
    odd = [
        "dataset=npz",
        "dataset.root=odd",
        "dataset.size=16",
        "data_root=.",
        "detector=transformer",
        *QUICK,
    ]
    code, out, log = run_here(train_detector.main, "train_detector", *odd, cwd=tmp_path)
    assert code == 0, log
    assert "without reconstruction, positional_knn: the valid split has no normal images" in log
    assert out.startswith("image_AP ")


@pytest.mark.slow
def test_a_broken_file_stops_before_any_training_or_is_skipped(mine: Path, tmp_path: Path) -> None:
    (mine / "train/good/000.png").write_text("not an image")
    done = run_script("train_ae.py", *MINE_AE, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "train/good/000.png" in done.stderr
    assert "dataset.on_error=skip" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/*"))
    skipping = ["dataset.on_error=skip", "dataset.valid_fraction=0.33"]
    done = run_script("train_ae.py", *MINE_AE, *skipping, cwd=tmp_path)
    assert "skipped 1 file" in done.stderr
    assert "train/good/000.png can't be read" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["track=both"], "track=both is unknown: choose one of auto"),
        (["memory=0"], "memory=0.0 must be above 0"),
        (["labelled.step_multiplier=0"], "labelled.step_multiplier=0 must be above 0"),
        (["labelled.step_multiplier=inf"], "labelled.step_multiplier=inf must be above 0 and finite"),
        (["dataset.on_error=ignore"], "dataset.on_error=ignore is unknown"),
        (["dataset.group='('"], "dataset.group=( is not a regular expression"),
        (["dataset.augment.shift=2"], "dataset.augment.shift=2.0 must lie from 0 to 0.5"),
        (["texture_root=nowhere"], "texture_root=nowhere is no folder"),
        (["dataset.labelled_dir=test/hole"], "dataset.normal_dir is missing"),
        (["dataset.limit=1"], "limit=1 leaves too few"),
    ],
)
def test_mistakes_are_one_clear_message(
    arguments: list[str], message: str, mine: Path, tmp_path: Path, run_here: RunHere
) -> None:
    code, _, log = run_here(train_detector.main, "train_detector", *MINE, *arguments, cwd=tmp_path)
    assert code == 2
    assert message in log
    assert not list(tmp_path.glob("runs/*/*"))
