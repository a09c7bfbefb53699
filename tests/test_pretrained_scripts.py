"""The three scripts with a pretrained backbone, and with detectors that only measure distances."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import tiny_backbones
from conftest import RunHere, later_wins, run_script
from omegaconf import DictConfig

import train_ae
import train_detector
import train_ppo

DATA = ["dataset=phantom", "dataset.size=32", "dataset.train=24", "dataset.valid=8", "dataset.test=8"]
MACHINE = ["device=cpu", "threads=1"]
BACKBONE = ["autoencoder=pretrained", "autoencoder.backbone=mobilenet", "autoencoder.grid=4"]
DECODER = ["autoencoder.width=4", "autoencoder.steps=3", "autoencoder.batch_size=4"]
AUTOENCODER = [*DATA, *MACHINE, *BACKBONE, "autoencoder.components=8", *DECODER]
DETECTOR = [*AUTOENCODER, "detector=transformer", "detector.steps=3", "detector.width=16", "synthesis.pool=8"]
AGENT = [*DETECTOR, "env.num_envs=4", "samples=16", "rounds=1"]
PPO = ["agent.total_steps=32", "agent.n_steps=4", "agent.batch_size=8", "agent.hidden=[8]"]
SEEN = (8 * 4 * 4 + 27,)
"""The shape of an observation: the latent, and the anomaly that is asked for."""
DISTANCES = ["knn", "positional_knn", "gaussian"]
METRICS = ["image_AP", "image_AUROC", "image_F1Max", "pixel_AP", "pixel_AUPRO", "pixel_AUROC"]

Main = Callable[[DictConfig], None]
MAINS: dict[str, Main] = {
    "train_ae": train_ae.main,
    "train_detector": train_detector.main,
    "train_ppo": train_ppo.main,
}
Command = Callable[..., tuple[str, str]]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A user's folder with a backbone in it."""
    tiny_backbones.mobilenet(tmp_path / "mobilenet")
    return tmp_path


@pytest.fixture
def command(here: Path, run_here: RunHere) -> Command:
    def run(script: str, *arguments: str, code: int = 0) -> tuple[str, str]:
        ended, out, error = run_here(MAINS[script], script, *later_wins(*arguments), cwd=here)
        assert ended == code, error
        return out, error

    return run


def stage(here: Path, name: str) -> list[Path]:
    """The finished runs of a stage."""
    return [path.parent for path in sorted((here / "runs/phantom").glob(f"{name}/*/metrics.json"))]


def only(here: Path, name: str) -> Path:
    (run,) = stage(here, name)
    return run


def metrics(run: Path) -> dict[str, float]:
    held: dict[str, float] = json.loads((run / "metrics.json").read_text())
    return held


def encoded(log: str) -> list[str]:
    """Of what images were put through the backbone."""
    lines = [re.split(r" +\d+%", line)[0] for line in log.replace("\r", "\n").splitlines()]
    return sorted({line for line in lines if line.startswith("features")})


def names(table: str) -> list[str]:
    """Of the metrics that a table without baselines begins with."""
    return sorted(line.split()[0] for line in table.splitlines()[: len(METRICS)])


def test_the_first_stage(here: Path, command: Command) -> None:
    out, log = command("train_ae", *AUTOENCODER)
    assert "dB, SSIM" in out
    assert "latent 8x4x4" in out
    assert "backbone: layers 9, 21 at 4×4, 8 components with" in log
    assert "little in images of 32 pixels" in log
    features, autoencoder = only(here, "features"), only(here, "autoencoder")
    assert (features / "pictures/features.png").is_file()
    assert (autoencoder / "pictures/reconstructions.png").is_file()
    assert set(metrics(autoencoder)) == {"valid_psnr", "valid_ssim"}
    assert metrics(features)["components"] == 8
    assert 0 < metrics(features)["explained_variance"] < 1
    assert 0 <= metrics(features)["near_copies"] <= 1
    assert encoded(log) == ["features", "features, valid"]

    again, log = command("train_ae", *AUTOENCODER)
    assert again == out
    assert "autoencoder: using" in log
    assert not encoded(log)


def test_the_second_stage_with_its_baselines(here: Path, command: Command) -> None:
    out, log = command("train_detector", *DETECTOR)
    header, *rows = (line.split() for line in out.splitlines()[:7])
    assert header[0] == "transformer"
    assert sorted(header[1:]) == sorted(DISTANCES)
    held = metrics(only(here, "detector"))
    assert sorted(row[0] for row in rows) == METRICS
    for name, *values in rows:
        found = [held[name], *(held[f"{baseline}_{name}"] for baseline in header[1:])]
        assert [f"{value:.4f}" for value in found] == values
    assert encoded(log) == [
        "features",
        "features, anomalous",
        "features, choice",
        "features, mirrored",
        "features, reference_set",
        "features, test",
        "features, valid",
        "features, varied",
    ]
    env = gym.make("LatentAug-v0", artifacts=str(only(here, "detector")))
    assert env.reset(seed=0)[0].shape == SEEN

    again, log = command("train_detector", *DETECTOR)
    assert again == out
    assert not encoded(log)

    # Another seed, decoder and detector: the same backbone, and all its features.
    _, log = command("train_detector", *DETECTOR, "seed=1", "detector.baselines=[]", "autoencoder.steps=2")
    assert len(stage(here, "detector")) == len(stage(here, "autoencoder")) == 2
    assert f"backbone: using {Path('runs/phantom/features')}" in log
    assert not encoded(log)


def test_baselines_can_be_left_out(here: Path, command: Command) -> None:
    out, _ = command("train_detector", *DETECTOR, "detector.baselines=[]", "export=out")
    assert set(metrics(only(here, "detector"))) == set(METRICS)
    assert names(out) == METRICS
    assert gym.make("LatentAug-v0", artifacts=str(here / "out")).reset(seed=0)[0].shape == SEEN


@pytest.mark.slow
def test_distances_need_no_decoder(here: Path, command: Command) -> None:
    for number, name in enumerate(DISTANCES):
        out, log = command("train_detector", *AUTOENCODER, f"detector={name}")
        assert names(out) == METRICS
        assert "gym.make" not in out
        assert ("backbone: using" in log) == (number > 0)
        assert encoded(log) == ([] if number else ["features", "features, test", "features, valid"])
    assert len(stage(here, "detector")) == 3
    assert not (here / "runs/phantom/autoencoder").exists()

    # Beside the transformer each baseline has the figures that it has alone.
    command("train_detector", *DETECTOR)
    runs = {run.name.rpartition("-")[0]: metrics(run) for run in stage(here, "detector")}
    for name in DISTANCES:
        beside = {key: runs["transformer"][f"{name}_{key}"] for key in METRICS}
        assert beside == pytest.approx(runs[name], abs=1e-6)
    _, log = command("train_detector", *AUTOENCODER, "detector=knn")
    assert "detector: using" in log


def test_other_decoders_mean_nothing_to_distances(here: Path, command: Command) -> None:
    command("train_detector", *AUTOENCODER, "detector=gaussian")
    _, log = command("train_detector", *AUTOENCODER, "detector=gaussian", "autoencoder.steps=99")
    assert "detector: using" in log
    command("train_detector", *AUTOENCODER, "detector=gaussian", "autoencoder.components=0.5")
    assert len(stage(here, "features")) == len(stage(here, "detector")) == 2


AGENTS: list[tuple[str, list[str]]] = [
    ("random", []),
    ("feature_noise", []),
    ("glass", ["agent.steps=3"]),
    ("ppo", PPO),
]


def test_the_third_stage(here: Path, command: Command) -> None:
    for name, more in AGENTS:
        out, log = command("train_ppo", *AGENT, f"agent={name}", *more)
        assert "| image_AUROC |" in out
        (run,) = [path for path in stage(here, "agent") if path.name.startswith(f"{name}-")]
        report = (run / "report.md").read_text()
        assert f"agent {name}, 1 round, seed 0" in report
        (line,) = [line for line in report.splitlines() if line.startswith("Image AUROC of other detectors")]
        before = metrics(only(here, "detector"))
        for baseline in DISTANCES:
            assert f"{baseline} {before[f'{baseline}_image_AUROC']:.4f}" in line
        assert json.loads((run / "report.json").read_text())["baselines"].keys() >= {
            "positional_knn_pixel_AP"
        }
        with np.load(run / "augmented.npz") as made:
            assert made["delta"].shape[1:] == (8, 4, 4)
            assert made["tokens"].shape[1:] == (1, 4, 4)
            if name in ("feature_noise", "glass"):
                assert len(made["labels"]) == 16
                assert (made["labels"] == 1).all()
        assert gym.make("LatentAug-v0", artifacts=str(run)).reset(seed=0)[0].shape == SEEN
        if name != "random":
            assert "detector: using" in log
            assert not encoded(log)
    assert list((here / "runs").glob("phantom/agent/ppo-*/round_1/policy.zip"))


def test_the_same_backbone_from_elsewhere(here: Path, command: Command) -> None:
    command("train_detector", *DETECTOR)
    shutil.move(here / "mobilenet", here / "elsewhere")
    _, log = command("train_detector", *DETECTOR, "autoencoder.backbone=elsewhere")
    for name in ("autoencoder", "detector"):
        assert f"{name}: using" in log
        only(here, name)
    only(here, "features")


def test_another_backbone_is_another_run(here: Path, command: Command) -> None:
    command("train_detector", *AUTOENCODER, "detector=gaussian")
    shutil.rmtree(here / "mobilenet")
    tiny_backbones.dino(here / "mobilenet")
    _, log = command("train_detector", *AUTOENCODER, "detector=gaussian")
    assert "using" not in log
    assert len(stage(here, "features")) == len(stage(here, "detector")) == 2


@pytest.mark.slow
def test_tokens_of_an_autoencoder_trained_from_scratch(here: Path, command: Command) -> None:
    conv = [*DATA, *MACHINE, "autoencoder=conv", "autoencoder.steps=3", "autoencoder.width=8"]
    read = ["detector=transformer", "detector.input=latent", "detector.steps=3", "detector.width=16"]
    out, _ = command("train_ppo", *conv, *read, "synthesis.pool=8", *AGENT[-3:], "agent=random")
    assert "| image_AUROC |" in out
    assert "positional_knn_image_AUROC" in metrics(only(here, "detector"))
    for name in DISTANCES:
        out, log = command("train_detector", *conv, f"detector={name}")
        assert names(out) == METRICS
        assert "autoencoder: using" in log


@pytest.mark.slow
def test_images_of_a_pretrained_backbone(here: Path, command: Command) -> None:
    """The detector may look at reconstructions as well, whatever made them."""
    out, _ = command("train_detector", *DETECTOR, "detector.input=image", "detector.baselines=[]")
    assert names(out) == METRICS
    # Others stand beside it with the same backbone, whether they read images or latents.
    baselines = "detector.baselines=[reconstruction,gaussian]"
    out, log = command("train_detector", *DETECTOR, "detector.input=image", baselines)
    assert sorted(out.splitlines()[0].split()) == ["gaussian", "reconstruction", "transformer"]
    assert "autoencoder: using" in log
    held = [metrics(run) for run in stage(here, "detector") if "gaussian_image_AP" in metrics(run)]
    for name in ("gaussian", "reconstruction"):
        command("train_detector", *AUTOENCODER, f"detector={name}")
        (run,) = [run for run in stage(here, "detector") if run.name.startswith(f"{name}-")]
        assert {key: held[0][f"{name}_{key}"] for key in METRICS} == pytest.approx(metrics(run), abs=1e-6)


MISTAKES: list[tuple[str, list[str], str]] = [
    ("train_ppo", ["detector=knn"], "detector=knn learns from normal images alone"),
    ("train_ppo", ["detector=gaussian"], "detector=gaussian learns from normal images alone"),
    ("train_detector", ["detector=knn", "export=out"], "export=out: detector=knn makes no environment"),
    (
        "train_detector",
        ["detector=transformer", "detector.input=smell"],
        "detector.input=smell is unknown: choose one of image, latent",
    ),
    (
        "train_detector",
        ["detector.baselines=[nobody]"],
        "detector.baselines=nobody is unknown: choose among recon",
    ),
    ("train_detector", ["detector=oracle"], "detector=oracle is unknown: choose one of ensemble, gaussian"),
    ("train_ae", ["autoencoder.backbone="], "autoencoder.backbone is missing"),
    (
        "train_ae",
        ["autoencoder.backbone=./nowhere"],
        "autoencoder.backbone=./nowhere: there is no such folder",
    ),
    ("train_ae", ["autoencoder.layers=[99]"], "autoencoder.layers=[99]: this backbone has no usable map"),
    ("train_ppo", ["agent=glass", "env.perturbation=brush"], "they need env.perturbation=dense"),
    ("train_ppo", ["agent=feature_noise", "env.perturbation=principal"], "they need env.perturbation=dense"),
    (
        "train_detector",
        ["detector=transformer", "detector.heads=3"],
        "detector.heads=3 must divide detector.width=64",
    ),
    ("train_detector", ["synthesis.pool=0"], "synthesis.pool=0 must be above 0"),
    ("train_detector", ["synthesis.weights={cutpaste: 0, perlin: 0}"], "synthesis"),
    *(
        ("train_ppo", [f"autoencoder.components={value}"], "autoencoder.components=")
        for value in ("0", "-1", "2.5", "9999", "inf", "nan")
    ),
    ("train_ae", ["autoencoder.grid=0"], "autoencoder.grid=0 must be above 0"),
]


@pytest.mark.parametrize(("script", "mistake", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_clear_line(
    script: str, mistake: list[str], message: str, here: Path, command: Command
) -> None:
    _, error = command(script, *DATA, *MACHINE, *BACKBONE, *mistake, code=2)
    (line,) = [line for line in error.splitlines() if line.startswith(f"{script}.py: ")]
    assert message in line
    assert "Traceback" not in error
    assert not list(here.glob("runs/**/metrics.json"))  # nothing was made before it was noticed


@pytest.mark.slow
def test_as_a_user_calls_it(here: Path) -> None:
    done = run_script("train_detector.py", *AUTOENCODER, "detector=gaussian", cwd=here)
    assert "image_AUROC" in done.stdout
    assert "Warning" not in done.stderr


def test_a_detector_that_was_trained_before_a_stop_is_not_trained_again(here: Path, command: Command) -> None:
    command("train_detector", *DETECTOR)
    run = only(here, "detector")
    before = (run / "detector.safetensors").read_bytes()
    (run / "metrics.json").unlink()
    _, log = command("train_detector", *DETECTOR)
    assert not [line for line in log.replace("\r", "\n").splitlines() if line.startswith("detector  ")]
    assert (run / "detector.safetensors").read_bytes() == before
    assert (run / "metrics.json").is_file()
