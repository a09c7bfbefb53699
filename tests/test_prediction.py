"""A run's folder alone predicts: every detector, every kind of image, and every way to get it wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_backbones
import torch
from composed_runs import SMALL_PHANTOM
from conftest import ROOT
from numpy.typing import NDArray
from PIL import Image

import latent_env
from conf.schema.runs import DetectorRun
from latent_common.errors import UserError
from latent_env.data.builtin.phantom import make_phantom_dataset
from latent_env.data.images import open_image, shrink_image
from stages.cli.compose import compose
from stages.context import start
from stages.detector.base import FinishedDetector
from stages.detector.plan import plan_detector
from stages.training_data import load_training_data

SMALL = [each for each in SMALL_PHANTOM if not each.startswith(("env", "samples"))]
FITTED = [each for each in SMALL if not each.startswith("detector")]
BACKBONE = ["detector.backbone=net", "detector.grid=4", "detector.components=8"]
TEST = make_phantom_dataset(32, 24, 24, 8).test.images

CASES = {
    "transformer": [*SMALL, "detector=transformer"],
    "rdna": [*SMALL[:-5], "detector.width=8", "detector.steps=4", "detector.batch_size=8", "detector=rdna"],
    "ensemble": [*SMALL, "detector=ensemble"],
    "knn": [*FITTED, "detector=knn"],
    "positional_knn": [*FITTED, "detector=positional_knn"],
    "gaussian": [*FITTED, "detector=gaussian"],
    "reconstruction": [*FITTED, "detector=reconstruction"],
    "transformer on features": [*SMALL, "detector=transformer", "detector.input=features", *BACKBONE],
    "knn on features": [*FITTED, "detector=knn", "detector.input=features", *BACKBONE],
    "supersimple on features": [
        *FITTED,
        *("detector=supersimple", "detector.steps=4", "detector.width=16", "detector.batch_size=8"),
        *BACKBONE,
    ],
    "ensemble on latents": [*SMALL, "detector=ensemble", "detector.input=latent"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which runs are made, with a tiny backbone in it."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tiny_backbones.mobilenet(folder / "net")
        yield folder


def finished(*arguments: str) -> FinishedDetector:
    """The detector of ``train_detector.py`` with these arguments, trained and evaluated."""
    config, context = start(compose("train_detector", arguments), DetectorRun)
    torch.set_num_threads(1)
    detector = plan_detector(config, context, load_training_data(config, context)).train()
    detector.evaluate()
    return detector


@pytest.fixture(scope="module")
def gaussian(place: Path) -> Path:
    return place / finished(*CASES["gaussian"]).run.path


@pytest.mark.parametrize("case", CASES)
def test_a_folder_alone_scores_as_the_evaluation_did(case: str, place: Path, tmp_path: Path) -> None:
    trained = finished(*CASES[case])
    shutil.copytree(trained.run.path, tmp_path / "away")
    detector = latent_env.load_detector(tmp_path / "away", device="cpu")
    found = detector.predict(TEST)
    with np.load(trained.run.path / "scores.npz") as stored:
        scores = stored["scores"]
    assert np.allclose([each.raw_score for each in found], scores, rtol=1e-3, atol=1e-3)
    assert "false alarms, promised" in trained.summary()
    for each in found:
        assert each.is_anomaly == (each.score > 0.5) == (each.p_value <= detector.decision.least)
        assert each.map.shape == (32, 32)
        assert each.map.dtype == np.float32
        assert 0 <= each.map.min() <= each.map.max() <= 1
    normal = detector.predict(make_phantom_dataset(32, 24, 24, 8).valid.images[:12])
    assert np.allclose(sorted(each.raw_score for each in normal), detector.decision.normal, atol=1e-3)
    assert np.sum([each.mask.any() for each in normal]) <= 1


def test_every_form_of_an_image_gives_the_same(gaussian: Path, tmp_path: Path) -> None:
    detector, image = latent_env.load_detector(gaussian, device="cpu"), TEST[0, 0]
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(image.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    forms: list[object] = [
        image,
        image[None],
        image[:, :, None],
        np.stack([image] * 3, 2),
        np.stack([image] * 3),
        np.stack([image] * 3 + [np.full_like(image, 255)], 2),
        image.astype(np.uint16) * 257,
        image / 255,
        (image / 255).astype(np.float32),
        torch.from_numpy(image),
        torch.from_numpy(image)[None] / 255,
        torch.from_numpy(np.stack([image] * 3)),
        Image.fromarray(image),
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        tmp_path / "deep.png",
    ]
    scores = [each.raw_score for each in detector.predict(forms)]
    assert np.allclose(scores, scores[0], atol=1e-5)
    assert detector.predict(tmp_path / "image.png").raw_score == pytest.approx(scores[0], abs=1e-5)
    assert detector.predict(torch.from_numpy(TEST[:3]))[2].name == "image 2"
    assert detector.predict([]) == []


def test_files_are_resized_as_training_images_are(gaussian: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large = np.kron(rng.integers(0, 256, (20, 30, 3)), np.ones((40, 40, 1))).astype(np.uint8)
    Image.fromarray(large).save(tmp_path / "large.jpg")
    detector = latent_env.load_detector(gaussian, device="cpu")
    prediction = detector.predict(tmp_path / "large.jpg")
    pixels = shrink_image(open_image(tmp_path / "large.jpg", 32)[0], 32, 1)
    assert prediction.raw_score == pytest.approx(detector.predict(pixels).raw_score, abs=1e-5)
    assert prediction.native == (1200, 800)
    assert prediction.map_at_native().shape == (800, 1200)


def test_a_finding_is_where_the_anomaly_is(gaussian: Path) -> None:
    image: NDArray[np.uint8] = np.array(TEST[0, 0])
    image[8:16, 16:24] = np.random.default_rng(0).integers(0, 2, (8, 8)) * 255
    large = np.kron(image, np.ones((10, 10), np.uint8))
    prediction = latent_env.load_detector(gaussian, device="cpu").predict(large)
    assert prediction.is_anomaly
    finding = prediction.finding
    assert finding is not None
    assert finding.left < 200 < finding.left + finding.width
    assert finding.top < 120 < finding.top + finding.height
    assert 0 < finding.area < 1


def test_another_threshold_needs_no_training(gaussian: Path) -> None:
    detector = latent_env.load_detector(gaussian, device="cpu")
    assert "12 normal validation images can't promise 1.000% false alarms" in detector.threshold.note
    lenient = detector.with_false_alarms(0.4)
    assert lenient.threshold.note == ""
    strict, mild = detector.predict(TEST), lenient.predict(TEST)
    assert [each.raw_score for each in strict] == [each.raw_score for each in mild]
    assert sum(each.is_anomaly for each in strict) < sum(each.is_anomaly for each in mild)
    assert [each.is_anomaly for each in mild] == [each.p_value <= 0.4 for each in mild]
    assert latent_env.load_detector(gaussian, device="cpu", false_alarms=0.4).threshold == lenient.threshold
    assert detector.with_best_f1().threshold.f1 is not None


WRONG = [
    (np.zeros((5, 6, 7), np.uint8), "has the shape (5, 6, 7), which has no axis of 1 to 4 channels"),
    (np.zeros((0, 4), np.uint8), "has the shape (0, 4): give an image as (H, W)"),
    (np.zeros((4, 4), np.int64), "the image holds int64: give uint8, uint16, or floats in [0, 1]"),
    (np.full((4, 4), 255.0), "holds floats from 255 to 255: give floats in [0, 1]"),
    (np.full((4, 4), np.nan), "holds floats from nan to nan"),
    (3, "the image is a int: give a file, an array, a tensor, or a list of them"),
    ("nowhere.png", "nowhere.png is not there"),
    ([np.zeros((4, 4), np.uint8), "README.md"], "README.md can't be read as an image"),
]


@pytest.mark.parametrize(("image", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_is_no_image_is_one_line(
    image: object, message: str, gaussian: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = latent_env.load_detector(gaussian, device="cpu")
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as raised:
        detector.predict(image)  # type: ignore[call-overload]
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_newest_run_below_a_folder_is_found(gaussian: Path, place: Path) -> None:
    for folder in (place / "runs", place / "runs/phantom/detector"):
        assert latent_env.load_detector(folder, device="cpu").folder.parent == gaussian.parent


def damaged(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)


def test_what_is_no_detector_is_one_line(gaussian: Path, tmp_path: Path) -> None:
    def refused(folder: Path | str, message: str) -> None:
        with pytest.raises(UserError) as raised:
            latent_env.load_detector(folder, device="cpu")
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)

    refused("nowhere", "nowhere is neither a folder nor a built-in detector (digits, phantom)")
    refused("", "must be a name or a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no detector: `python train_detector.py dataset=…` makes one")
    for name in ("detector", "decision", "autoencoder"):
        shutil.copytree(gaussian, tmp_path / name)
        damaged(tmp_path / name, f"{name}.safetensors")
        refused(tmp_path / name, f"{name}.safetensors is damaged")
    (tmp_path / "decision" / "decision.json").unlink()
    refused(tmp_path / "decision", "holds a detector but no threshold")
    (tmp_path / "autoencoder" / "autoencoder.json").unlink()
    refused(tmp_path / "autoencoder", "autoencoder.json can't be read (No such file or directory)")
