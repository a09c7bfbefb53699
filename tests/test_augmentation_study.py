"""The study of augmentation: its plan, its report of made-up runs, its figures, and a small real one."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from torch import uint8, zeros

from benchmarks.augmentation import __main__ as study
from benchmarks.augmentation.choices import AGENTS, SETTINGS, STUDY_DATASETS, VARIANTS
from benchmarks.augmentation.figures import colour
from benchmarks.augmentation.plan import Plan, make_plan
from benchmarks.augmentation.samples import MOST_BYTES, first_rows, save_small
from benchmarks.cases import Case
from benchmarks.command import parse
from benchmarks.scripts import composed
from detectors.metrics import image_AUROC
from latent_common.errors import UserError
from latent_env.training.evaluation import SCORES
from latent_env.worlds.store import COMPLETE

LABELS = np.repeat([0, 1], [30, 20])


def planned(*arguments: str) -> Plan:
    return make_plan(parse(study.parser(), arguments))


# --- the plan ---


def test_plan_expands_every_table(tmp_path: Path) -> None:
    for folder in ("mvtec/bottle", "folder/magnetic_tile", "bmad/BUSI"):
        (tmp_path / folder).mkdir(parents=True)
    asked = ["--data", str(tmp_path), "--backbone", "net", "--seeds", "2", "--out", "here"]
    plan = planned(*asked, "--also", "mine=dataset=digits device=cpu", "--variants", *VARIANTS)
    assert plan.remarks[0].startswith("setting generator is left out")
    assert [remark.split()[2] for remark in plan.remarks[1:]] == [
        *("kolektor", "mnist_0", "mnist_3", "mnist_8")
    ]
    assert len({case.name for case in plan.cases}) == len(plan.cases)
    defaults = [case for case in plan.cases if case.place[3] == "default"]
    by_setting = {name: {case.place[2] for case in defaults if case.place[0] == name} for name in SETTINGS}
    assert by_setting["scratch"] == {"phantom", "bottle", "magnetic_tile", "busi", "mine"}
    assert by_setting["pretrained"] == by_setting["scratch"] - {"phantom"}
    assert len(defaults) == (5 + 4) * 2 * 4 * 2  # data sets, tracks, agents, seeds
    varied = [case for case in plan.cases if case.place[3] != "default"]
    assert {case.method for case in varied} == {"none", "random", "ppo"}
    assert len([case for case in varied if case.place[3] == "ensemble"]) == (5 + 4) * 2 * 2 * 2
    few = [case for case in varied if case.place[3].startswith("labelled")]
    assert {case.place[:3] for case in few} == {
        *(("scratch", "few_labelled", dataset) for dataset in ("phantom", "busi"))
    }

    (bottle,) = [
        case
        for case in defaults
        if (*case.place[:3], case.method, case.seed) == ("pretrained", "one_class", "bottle", "random", 1)
    ]
    assert list(bottle.arguments) == [
        "detector=transformer",
        *(*SETTINGS["pretrained"], "dataset=mvtec", "dataset.category=bottle", f"data_root={tmp_path}/mvtec"),
        *("track=one_class", "agent=random", "runs=here/runs", "autoencoder.backbone=net", "seed=1"),
    ]


def test_a_generator_and_a_backbone_take_part_together(tmp_path: Path) -> None:
    (tmp_path / "mvtec/bottle").mkdir(parents=True)
    asked = ["--data", str(tmp_path), "--backbone", "net", "--weights", "tiny", "--seeds", "1"]
    chosen = ["--settings", "generator", "--tracks", "few_labelled", "--datasets", "bottle", "phantom"]
    plan = planned(*asked, *chosen, "--agents", "none", "pastes", "ppo")
    assert [case.method for case in plan.cases] == ["none", "pastes", "ppo"]  # phantom is too small
    assert {"autoencoder.weights=tiny", "detector.backbone=net"} <= set(plan.cases[1].arguments)
    assert "env.edits=pastes" in plan.cases[1].arguments


@pytest.mark.slow
def test_every_key_of_the_plan_exists(tmp_path: Path) -> None:
    for data in STUDY_DATASETS.values():
        (tmp_path / (data.needs or "")).mkdir(parents=True, exist_ok=True)
    asked = ["--data", str(tmp_path), "--backbone", "net", "--weights", "tiny", "--seeds", "1"]
    plan = planned(*asked, "--tracks", "few_labelled", "--variants", *VARIANTS, "--agents", *AGENTS)
    assert not plan.remarks
    met: set[object] = set()
    for case in plan.cases:  # a composition takes a tenth of a second, and keys don't depend on others
        setting, _, dataset, variant = case.place
        of_tables = {(setting, dataset), ("variant", variant), ("agent", case.method)}
        if of_tables - met:
            composed(case)
            met |= of_tables
    assert {("variant", name) for name in VARIANTS} | {("agent", name) for name in AGENTS} <= met


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datasets", "moon"], "--datasets moon is unknown: choose among phantom"),
        (["--agents", "genius"], "--agents genius is unknown"),
        (["--variants", "x"], "--variants x is unknown"),
        (["--also", "mine"], "--also 'mine' must look like"),
        (["--also", "phantom=dataset=digits"], "there is a data set of that name"),
        (["--settings", "pretrained"], "nothing is left to run .setting pretrained is left out"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        planned(*arguments)


def test_data_lie_where_the_scripts_look_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATENT_AUG_DATA", raising=False)
    assert study.parser().parse_args([]).data == Path("data")
    monkeypatch.setenv("LATENT_AUG_DATA", "/somewhere")
    assert study.parser().parse_args([]).data == Path("/somewhere")
    assert study.parser().parse_args(["--data", "here"]).data == Path("here")


# --- the report of made-up runs ---


def fabricate(case: Case) -> Path:
    """What a run would leave behind, in no time: ppo is a little better than the others."""
    root = next(key for key in case.arguments if key.startswith("runs=")).removeprefix("runs=")
    folder = Path(root) / case.name
    gain = {"ppo": 1.5, "random": 0.8}.get(case.method, 0.0)
    rng = np.random.default_rng(case.seed)
    before = (rng.normal(size=50) + 0.5 * LABELS).astype(np.float32)
    after = before + np.float32(gain) * LABELS.astype(np.float32)
    folder.mkdir(parents=True)
    auroc = {"without": image_AUROC(before, LABELS), "with": image_AUROC(after, LABELS)}
    pixels = {"without": 0.5, "with": 0.5 + gain / 10 + case.seed / 100}
    report: dict[str, Any] = {
        "metrics": {"image_AUROC": auroc, "pixel_AUPRO": pixels, "pixel_AP": {"without": None, "with": None}},
        "baselines": {"knn_image_AUROC": 0.6 + case.seed / 50, "positional_knn_image_AUROC": 0.5},
        "verdict": "whatever",
        "seed": case.seed,
        "coverage": 0.25,
        "candidates": [{"test": 0.9}],
    }
    (folder / "report.json").write_text(json.dumps(report))
    np.savez(folder / SCORES, labels=LABELS, without=before, **{"with": after})  # type: ignore[arg-type]
    images = rng.integers(0, 256, (8, 1, 16, 16)).astype(np.uint8)
    made: dict[str, Any] = {"images": images, "labels": np.array([0, 1] * 4), "source": np.zeros(8, np.int64)}
    made |= {"masks": images > 128, "tokens": images[..., ::4, ::4] > 128}
    np.savez_compressed(folder / "augmented.npz", **made)
    save_file({"images": zeros(1, 1, 16, 16, dtype=uint8)}, folder / "images.safetensors")
    (folder / COMPLETE).write_text("{}")
    return folder


def test_the_report(tmp_path: Path) -> None:
    asked = ["--datasets", "phantom", "--settings", "scratch", "--tracks", "few_labelled", "--seeds", "2"]
    asked += ["--variants", "default", "labelled=5", "ensemble"]
    assert study.main([*asked, "--out", str(tmp_path)], {"train_ppo": fabricate}) == 0
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    for row in (
        "| scratch | few_labelled | phantom  | default ",
        "| ppo - none ",
        "| ppo - random ",
        "| ppo - gradient ",
        "| ppo - positional_knn ",
        "| ppo - ppo (default) ",
        "| none - none (default) ",
    ):
        assert row in text
    rows = {
        line.split(" | ")[4].strip(): line for line in reversed(text.splitlines()) if line.startswith("| ")
    }
    assert "| 2     | +0.24" in rows["ppo - none"]
    assert "+0.0000 (+0.0000 to +0.0000)" in rows["random - random (default)"]  # made up to be the same
    assert "pixel_AP" not in text.replace("pixel_AUPRO", "")
    links = re.findall(r"\((figures/.*?\.png)\)", text)
    assert links == [f"figures/{name}.png" for name in ("differences", "labelled", "samples-phantom")]
    for link in links:
        assert Image.open(tmp_path / link).width > 200
        assert (tmp_path / link).stat().st_size < MOST_BYTES
    with (tmp_path / "runs.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == (4 + 3 + 2) * 2
    assert lines[0]["coverage"] == "0.25"
    assert lines[0]["positional_knn_image_AUROC"] == "0.5"
    assert not {"verdict", "candidates"} & lines[0].keys()  # nothing of candidates that were not chosen
    assert float(lines[-1]["image_AUROC"]) > float(lines[-1]["image_AUROC_without"])


# --- pictures ---


def test_only_the_first_rows_are_unpacked(tmp_path: Path) -> None:
    images = np.arange(5 * 3 * 2 * 2, dtype=np.uint8).reshape(5, 3, 2, 2)
    np.savez_compressed(tmp_path / "made.npz", images=images, labels=np.arange(2))
    np.testing.assert_array_equal(first_rows(tmp_path / "made.npz", "images", 2), images[:2])
    np.testing.assert_array_equal(first_rows(tmp_path / "made.npz", "labels", 9), [0, 1])


def test_no_two_agents_have_one_colour() -> None:
    assert len({colour(agent) for agent in AGENTS}) == len(AGENTS)


def test_pictures_are_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3)).astype(np.uint8)
    assert save_small(tmp_path / "noise.png", noise).stat().st_size < MOST_BYTES


# --- the real thing ---

TINY = [
    *("autoencoder.steps=20", "autoencoder.width=8", "detector.steps=10", "detector.width=16"),
    *("env.num_envs=8", "samples=32", "rounds=1", "threads=1", "device=cpu"),
]
SMALL = "small=dataset=phantom dataset.train=24 dataset.valid=8 dataset.test=12"


@pytest.mark.slow
def test_a_real_study_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--also", SMALL, "--datasets", "small", "--settings", "scratch", "--tracks", "one_class"]
    arguments += ["--agents", "none", "random", "--seeds", "1", "--out", str(tmp_path), "--set", *TINY]
    assert study.main(arguments) == 0
    first = capsys.readouterr().out
    assert "| random - none " in first
    assert "samples-small.png" in (tmp_path / "RESULTS.md").read_text()
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/phantom/*/*/metrics.json")}
    assert len(list(tmp_path.glob("runs/phantom/detector/*"))) == 1  # whatever the agent
    assert study.main([*arguments, "--report-only"]) == 0
    assert capsys.readouterr().out == first
    (
        tmp_path / "cases" / "scratch-one_class-small-default-none-0.json"
    ).unlink()  # made elsewhere, as far as it knows
    assert study.main(arguments) == 0
    assert capsys.readouterr().out == first
    assert runs == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/phantom/*/*/metrics.json")}
