"""The study of augmentation: its plan, how it is run, and what it says of made-up runs."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from safetensors.torch import save_file
from torch import uint8, zeros

import benchmarks.augmentation.__main__ as command
from benchmarks.augmentation import tables
from benchmarks.augmentation.collect import collect
from benchmarks.augmentation.pictures import MOST_BYTES, first_rows, save_small
from benchmarks.augmentation.plan import Choice, Plan, Planned, commands, make_plan
from benchmarks.augmentation.plotting import colour
from benchmarks.augmentation.records import FAILED, STOPPED, WHOLE, Outcome, Records
from benchmarks.augmentation.runner import batches, make
from benchmarks.augmentation.running import composed
from benchmarks.augmentation.tables import DATASETS, SETTINGS
from detectors.metrics import image_AUROC
from latent_common.errors import UserError
from latent_env.data import Split

PHANTOM = Choice(datasets=["phantom"], seeds=3, variants=["default"], tracks=["one_class"])
LABELS = np.repeat([0, 1], [30, 20])


# --- the plan ---


def test_plan_expands_every_table(tmp_path: Path) -> None:
    for folder in ("mvtec/bottle", "folder/magnetic_tile", "bmad/BUSI"):
        (tmp_path / folder).mkdir(parents=True)
    plan = make_plan(
        Choice(data=tmp_path, backbone="features", seeds=2, also=["mine=dataset=digits device=cpu"])
    )
    assert [remark.split()[2] for remark in plan.remarks] == ["mnist_0", "mnist_3", "mnist_8"]
    assert len({run.key for run in plan.runs}) == len({run.file_name for run in plan.runs}) == len(plan.runs)
    defaults = [run for run in plan.runs if run.variant == "default"]
    scratch = {run.dataset for run in defaults if run.setting == "scratch"}
    pretrained = {run.dataset for run in defaults if run.setting == "pretrained"}
    assert scratch == {"phantom", "bottle", "magnetic_tile", "busi", "mine"}
    assert pretrained == scratch - {"phantom"}
    assert len(defaults) == (5 + 4) * 2 * 6 * 2  # data sets, tracks, agents, seeds
    varied = [run for run in plan.runs if run.variant != "default"]
    assert {run.agent for run in varied} == {"none", "random", "ppo"}
    joined = [run for run in varied if run.variant == "second opinion"]
    assert len(joined) == (5 + 4) * 2 * 2 * 2  # everywhere: data sets, tracks, agents, seeds
    varied = [run for run in varied if run not in joined]
    assert {run.dataset for run in varied} == {"phantom", "busi"}
    assert {run.track for run in varied if run.variant.startswith("labelled")} == {"few_labelled"}
    curves = [run for run in varied if "=" in run.variant]
    assert {(run.dataset, run.setting) for run in curves} == {("phantom", "scratch"), ("busi", "scratch")}
    assert {run.variant for run in curves if run.dataset == "busi"} == {"labelled=5"}
    assert len(curves) == (2 * 2 + 2 * 1 + 1) * 3 * 2  # points by tracks, agents, seeds
    assert len(varied) - len(curves) == (9 * 3 + 3) * 2  # ablations by agents, three of one agent, seeds

    (bottle,) = [
        run
        for run in defaults
        if (run.setting, run.track, run.dataset, run.agent, run.seed)
        == ("pretrained", "one_class", "bottle", "none (cutpaste)", 1)
    ]
    assert SETTINGS["pretrained"][0] == "autoencoder=pretrained"
    assert bottle.arguments == [
        *(*SETTINGS["pretrained"], "dataset=mvtec", "dataset.category=bottle"),
        *("curves=true", "track=one_class", "agent=none", "synthesis=cutpaste", "seed=1"),
        *("runs=runs/study", f"data_root={tmp_path}/mvtec", "autoencoder.backbone=eyes"),
    ]


def test_every_key_of_the_plan_exists(tmp_path: Path) -> None:
    for data in DATASETS.values():
        (tmp_path / (data.needs or "")).mkdir(parents=True, exist_ok=True)
    choice = Choice(data=tmp_path, backbone="features", seeds=1, tracks=["few_labelled"])
    plan = make_plan(choice)
    assert not plan.remarks
    met: set[tuple[str, ...]] = set()
    for (
        run
    ) in plan.runs:  # one composition takes a tenth of a second and more, and keys don't depend on others
        of_tables = {(run.setting, run.dataset), ("variant", run.variant), ("agent", run.agent)}
        if of_tables - met:
            composed(run)
            met |= of_tables
    assert {name for kind, name in met if kind == "variant"} == set(tables.VARIANTS)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (Choice(datasets=["moon"]), "--datasets moon is unknown: choose among phantom"),
        (Choice(agents=["genius"]), "--agents genius is unknown"),
        (Choice(variants=["x"]), "--variants x is unknown"),
        (Choice(seeds=0), "--seeds 0 must be at least 1"),
        (Choice(also=["mine"]), "--also 'mine' must look like"),
        (Choice(also=["phantom=dataset=digits"]), "there is a data set of that name"),
    ],
)
def test_mistakes(choice: Choice, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_plan(choice)


def test_list_prints_one_command_for_agents_and_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--datasets", "phantom", "--tracks", "one_class", "--variants", "default", "--seeds", "2"]
    assert command.run([*arguments, "--list", "--agents", "none", "perlin", "ppo"]) == 0
    out, error = capsys.readouterr()
    budget = " ".join(SETTINGS["scratch"])
    shared = f"python train_ppo.py -m {budget} dataset=phantom curves=true track=one_class"
    assert out.splitlines() == [
        f"{shared} runs=runs/study agent=none,ppo seed=0,1",
        f"{shared} synthesis=perlin runs=runs/study agent=none seed=0,1",
    ]
    assert "--backbone names no network" in error
    one = Choice(["scratch"], ["one_class"], ["phantom"], ["ppo"], ["default"], seeds=1)
    (single,) = commands(make_plan(one).runs)
    assert single.startswith(f"python train_ppo.py {budget} dataset=phantom")


def test_data_lie_where_the_scripts_look_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATENT_AUG_DATA", raising=False)
    assert command.parser().parse_args([]).data == Path("data")
    monkeypatch.setenv("LATENT_AUG_DATA", "/somewhere")
    assert command.parser().parse_args([]).data == Path("/somewhere")
    assert command.parser().parse_args(["--data", "here"]).data == Path("here")


def test_batches_never_make_the_same_thing_at_the_same_time() -> None:
    runs = make_plan(PHANTOM).runs
    first, *others = batches(runs)
    assert {run.before for run in first.runs} == {run.before for run in runs}
    assert {run.seed for run in first.runs} == {0}
    assert all(batch.after == first.name for batch in others)
    assert [{run.seed for run in batch.runs} for batch in others] == [{0}, {1}, {2}]
    assert sum(len(batch.runs) for batch in (first, *others)) == len(runs)


# --- made-up runs, and what is said of them ---


def fabricate(run: Planned, log: Path) -> Outcome:
    """What a run would leave behind, in no time: ppo is a little better than the others.

    The folder of the made-up runs stands in the run's place; a file ``fail`` there lets ppo fail.
    """
    root = Path(next(part for part in run.place if part.startswith("runs=")).removeprefix("runs="))
    root.mkdir(parents=True, exist_ok=True)
    with (root / "calls").open("a") as calls:
        calls.write(f"{run.key} {os.getpid()}\n")
    if (root / "fail").exists() and run.agent == "ppo":
        return Outcome(FAILED, error="the moon | was\nfull", seconds=1.0)
    if (root / "die").exists() and run.agent == "ppo" and run.seed == 0:
        os._exit(3)
    if (root / "stop").exists() and run.agent == "random":
        return Outcome(STOPPED)
    folder = root / "phantom" / "agent" / run.file_name
    if (folder / "metrics.json").is_file():
        return Outcome(WHOLE, str(folder))
    gain = {"ppo": 1.5, "random": 0.8}.get(run.agent, 0.0)
    rng = np.random.default_rng(run.seed)
    before = (rng.normal(size=50) + 0.5 * LABELS).astype(np.float32)
    after = before + np.float32(gain) * LABELS.astype(np.float32)
    folder.mkdir(parents=True)
    auroc = {"without": image_AUROC(before, LABELS), "with": image_AUROC(after, LABELS)}
    report = {
        "metrics": {
            "image_AUROC": {**auroc, "difference": auroc["with"] - auroc["without"], "interval": None},
            "pixel_AUPRO": {"without": 0.5, "with": 0.5 + gain / 10 + run.seed / 100, "interval": None},
            "pixel_AP": {"without": float("nan"), "with": float("nan")},
        },
        "baselines": {
            "knn_image_AUROC": 0.6 + run.seed / 50,
            "knn_by_place_image_AUROC": 0.5,
            "weight_knn": 1,
        },
        "verdict": "whatever",
        "seed": run.seed,
        "coverage": 0.25,
        "mixture": {"agent": 0.5, "image": 0.5},
        "detector_before": "/home/somebody/runs",
    }
    if run.variant == "second opinion":
        report["baselines"] = {"knn_image_AUROC": 0.5, "transformer_image_AUROC": auroc["with"] - 0.0125}
    (folder / "report.json").write_text(json.dumps(report))
    np.savez(folder / "scores.npz", labels=LABELS, without=before, **{"with": after})
    points = [{"step": step, "metrics": {"image_AUROC": 0.5 + gain * step / 1000}} for step in (0, 50, 100)]
    curves = {"without": points, "with": points if gain else []}
    (folder / "curves.json").write_text(json.dumps(curves))
    images = rng.integers(0, 256, (8, 1, 16, 16)).astype(np.uint8)
    made = {"images": images, "labels": np.array([0, 1] * 4), "source": np.zeros(8, np.int64)}
    made |= {"masks": images > 128, "tokens": images[..., ::4, ::4] > 128}
    np.savez_compressed(folder / "augmented.npz", **made)
    save_file({"images": zeros(1, 1, 16, 16, dtype=uint8)}, folder / "images.safetensors")
    (folder / "metrics.json").write_text("{}")
    return Outcome(WHOLE, str(folder), 1.5)


AGENTS = ["none", "random", "gradient", "ppo"]


def plan_of(tmp_path: Path, **more: Any) -> tuple[Planned, ...]:
    chosen: dict[str, Any] = {"settings": ["scratch"], "tracks": ["few_labelled"], "seeds": 3}
    chosen |= {"datasets": ["phantom"], "agents": AGENTS, "runs": tmp_path / "runs"}
    return make_plan(Choice(**(chosen | more))).runs


def calls(tmp_path: Path) -> list[str]:
    return [line.split()[0] for line in (tmp_path / "runs" / "calls").read_text().splitlines()]


def write(tmp_path: Path, runs: tuple[Planned, ...], monkeypatch: pytest.MonkeyPatch) -> str:
    test = Split(np.zeros((50, 1, 16, 16), np.uint8), LABELS, None, tuple(map(str, range(50))))
    monkeypatch.setattr(command, "test_images", lambda _: test)
    plan = Plan(runs, ("data set moon is left out",))
    command.report(plan, tmp_path, "python -m benchmarks.augmentation …", started=False)
    return (tmp_path / "RESULTS.md").read_text(encoding="utf-8")


def test_the_report_has_all_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = plan_of(tmp_path) + plan_of(tmp_path, agents=["cem"], variants=["default"])
    make(runs, tmp_path, perform=fabricate)
    (tmp_path / "DISCUSSION.md").write_text("By hand: *it depends*.\n")
    text = write(tmp_path, runs, monkeypatch)
    parts = [
        "# Does augmentation by an agent help?",
        "By hand: *it depends*.",
        "The question:",
        "57 runs: 57 complete",
        "python -m benchmarks.augmentation …",
        "data set moon is left out",
        "## Verdict: ppo minus others, image_AUROC",
        "### scratch, few_labelled",
        "| minus none ",
        "Compared with none 1 time, ppo is better in 1 and worse in 0",
        "(figures/forest-scratch-few_labelled.png)",
        "## ppo minus others, pixel_AUPRO",
        "### scratch, few_labelled, differences of pixel_AUPRO",
        "## image_AUROC of agents",
        "## pixel_AUPRO of agents",
        "## Other agents",
        "ppo minus it",
        "## Rivals",
        "positional_knn",
        "## A second opinion",
        "| knn (3) ",
        "| **+0.0125 (+0.0125 to +0.0125)** |",
        "## Learning curves",
        "## Variants",
        "max_train_images=40",
        "labelled=20",
        "curve-normals",
        "curve-labelled",
        "## What agents make",
        "## Where the detector is most wrong",
        "## Runs that failed\n\nNone.",
        "## All runs as commands",
    ]
    places = [text.find(part) for part in parts]
    assert -1 not in places, parts[places.index(-1)]
    assert places[:3] == sorted(places[:3])
    for link in (part.partition(")")[0] for part in text.split("](")[1:]):
        picture = tmp_path / link
        assert Image.open(picture).width > 200
        assert picture.stat().st_size < MOST_BYTES
    assert str(tmp_path) not in text
    shown = capsys.readouterr().out
    assert "minus random" in shown
    assert str(tmp_path / "RESULTS.md") in shown

    found = json.loads((tmp_path / "RESULTS.json").read_text())
    assert set(found) == {"command", "commit", "comparisons", "runs"}
    (best,) = [
        each
        for each in found["comparisons"]
        if (each["agent"], each["against"], each["metric"], each["variant"])
        == ("ppo", "none", "image_AUROC", "default")
    ]
    assert set(best) == {
        *("setting", "track", "dataset", "metric", "agent", "against", "mean", "low", "high", "seeds"),
        "variant",
    }
    assert best["seeds"] == 3
    assert 0 < best["low"] < best["mean"] < best["high"]
    pairs = {(each["agent"], each["against"]) for each in found["comparisons"]}
    assert {("ppo", "cem"), ("cem", "none"), ("cem", "random"), ("cem", "knn")} <= pairs
    assert not {("none", "cem"), ("random", "cem")} & pairs
    assert {"knn", "positional_knn"} <= {each["against"] for each in found["comparisons"]}
    with_default = [each for each in found["comparisons"] if each["against"] == "default"]
    of_variants = {run.variant for run in runs} - {"default"}
    assert {each["variant"] for each in with_default} == of_variants
    # Made-up runs of a variant are as those without its keys: an agent minus itself, seed by seed.
    assert {each["mean"] for each in with_default} == {0.0}
    assert {each["agent"] for each in with_default} == {"none", "random", "ppo"}
    assert "minus its default" in text
    run = found["runs"][0]
    assert (run["state"], run["seconds"], run["facts"]["mixture"]["agent"]) == ("complete", 1.5, 0.5)
    assert run["metrics"]["pixel_AP"]["with"] is None
    assert "detector_before" not in run["facts"]
    assert str(tmp_path) not in (tmp_path / "RESULTS.json").read_text()
    for name, length in (("runs.csv", 57), ("comparisons.csv", len(found["comparisons"]))):
        with (tmp_path / name).open(newline="") as file:
            lines = list(csv.DictReader(file))
        assert len(lines) == length
    assert "NaN" not in (tmp_path / "RESULTS.json").read_text()


def test_what_failed_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = plan_of(tmp_path, variants=["default"])
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "fail").touch()
    make(runs, tmp_path, perform=fabricate)
    text = write(tmp_path, runs, monkeypatch)
    assert "12 runs: 9 complete, 3 failed" in text
    assert r"the moon \| was full" in text
    assert "Nothing to compare" in text
    failed = [run for run in json.loads((tmp_path / "RESULTS.json").read_text())["runs"] if run["error"]]
    assert {run["state"] for run in failed} == {"failed"}
    assert len(failed) == 3

    (tmp_path / "runs" / "fail").unlink()  # asked for once more, what failed is tried again
    make(runs, tmp_path, perform=fabricate)
    assert "12 runs: 12 complete." in write(tmp_path, runs, monkeypatch)


def test_an_empty_study_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = write(tmp_path, plan_of(tmp_path), monkeypatch)
    assert "54 runs: 54 not started." in text
    assert "Nothing to compare" in text
    assert "## Runs without an end" in text


def test_stopped_and_taken_up_again(tmp_path: Path) -> None:
    runs = plan_of(tmp_path, variants=["default"])
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        make(runs, tmp_path, perform=fabricate)
    states = [row.outcome.state for row in collect(runs, Records(tmp_path / "study.json"))]
    assert states.count(STOPPED) == 1
    (tmp_path / "runs" / "stop").unlink()
    make(runs, tmp_path, perform=fabricate)
    rows = collect(runs, Records(tmp_path / "study.json"))
    assert {row.outcome.state for row in rows} == {WHOLE}
    assert {row.outcome.seconds for row in rows} == {1.5}  # also of those that were only found again
    assert {row.outcome.commit for row in rows} != {None}


def test_other_keys_are_another_run(tmp_path: Path) -> None:
    runs = plan_of(tmp_path, variants=["default"])
    make(runs, tmp_path, perform=fabricate)
    records = Records(tmp_path / "study.json")
    other = plan_of(tmp_path, variants=["default"], extra=["samples=7"])
    assert all(records.outcome(run) is not None for run in runs)
    assert all(records.outcome(run) is None for run in other)
    elsewhere = plan_of(tmp_path, variants=["default"], place=["device=cpu"])
    assert all(records.outcome(run) is not None for run in elsewhere)


def test_two_commands_may_fill_one_folder(tmp_path: Path) -> None:
    runs = plan_of(tmp_path, variants=["default"])
    first, second = (Records(tmp_path / "study.json") for _ in range(2))
    for records, run in zip((first, second, first), runs, strict=False):
        records.note(run, Outcome(FAILED, error="no", seconds=1.0))
    assert set(Records(tmp_path / "study.json").held) == {run.key for run in runs[:3]}


def test_several_processes_share_the_work_and_one_that_dies_is_no_end(tmp_path: Path) -> None:
    runs = plan_of(tmp_path, variants=["default"], agents=["none", "ppo"])
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "die").touch()
    make(runs, tmp_path, jobs=2, perform=fabricate)
    rows = collect(runs, Records(tmp_path / "study.json"))
    failed = [row for row in rows if not row.whole]
    assert [(row.run.agent, row.run.seed) for row in failed] == [("ppo", 0)]
    assert failed[0].outcome.error == "the process ended with 3"
    assert sorted(calls(tmp_path)) == sorted(run.key.split()[0] for run in runs)
    assert calls(tmp_path)[0] == runs[0].key  # what all share goes first


def linger(run: Planned, log: Path) -> Outcome:
    """A run that takes long and comes to rest when it is interrupted."""
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        log.touch()
        time.sleep(60)
    except KeyboardInterrupt:
        return Outcome(STOPPED)
    return Outcome(WHOLE)


def test_ctrl_c_brings_processes_to_rest(tmp_path: Path) -> None:
    runs = plan_of(tmp_path, variants=["default"], agents=["none"])

    def interrupt() -> None:
        while not list(tmp_path.glob("logs/*")):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        make(runs, tmp_path, jobs=2, perform=linger)
    assert time.monotonic() - began < 50
    states = [row.outcome.state for row in collect(runs, Records(tmp_path / "study.json"))]
    assert states == [STOPPED, "not started", "not started"]


# --- pictures ---


def test_only_the_first_rows_are_unpacked(tmp_path: Path) -> None:
    images = np.arange(5 * 3 * 2 * 2, dtype=np.uint8).reshape(5, 3, 2, 2)
    np.savez_compressed(tmp_path / "made.npz", images=images, labels=np.arange(2))
    np.testing.assert_array_equal(first_rows(tmp_path / "made.npz", "images", 2), images[:2])
    np.testing.assert_array_equal(first_rows(tmp_path / "made.npz", "labels", 9), [0, 1])


def test_no_two_agents_have_one_colour() -> None:
    assert len({colour(agent) for agent in tables.AGENTS}) == len(tables.AGENTS)


def test_pictures_are_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3)).astype(np.uint8)
    assert save_small(tmp_path / "noise.png", noise).stat().st_size < MOST_BYTES


# --- the real thing ---

TINY = [
    *("autoencoder.steps=20", "autoencoder.width=8", "detector.steps=10", "detector.width=16"),
    *("detector.heads=2", "env.num_envs=8", "samples=32", "rounds=1", "threads=1", "device=cpu"),
]
SMALL = "small=dataset=phantom dataset.train=24 dataset.valid=8 dataset.test=12"


def test_a_real_study_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--also", SMALL, "--datasets", "small", "--settings", "scratch"]
    arguments += ["--tracks", "one_class", "--variants", "default", "--agents", "none", "random"]
    arguments += ["--seeds", "2", *(part for key in TINY for part in ("--set", key))]
    assert command.run(arguments) == 0
    found = json.loads(Path("results/RESULTS.json").read_text())
    assert [run["state"] for run in found["runs"]] == [WHOLE] * 4
    for agent in ("none", "random"):
        own = [run for run in found["runs"] if run["agent"] == agent]
        assert len({run["metrics"]["image_AUROC"]["with"] for run in own}) == 2
    assert len(list(Path("runs/study/phantom/detector").iterdir())) == 2  # one a seed, whatever the agent
    text = Path("results/RESULTS.md").read_text()
    assert "## Verdict: random minus others" in text
    assert "samples-scratch-one_class-small.png" in text

    drawn = re.findall(r"\(figures/.*?\.png\)", text)
    shutil.move("runs", "elsewhere")  # the report needs nothing of them
    assert command.run(arguments) == 0
    assert not Path("runs/study/phantom/agent").exists()
    assert json.loads(Path("results/RESULTS.json").read_text())["comparisons"] == found["comparisons"]
    assert re.findall(r"\(figures/.*?\.png\)", Path("results/RESULTS.md").read_text()) == drawn
    shutil.rmtree("runs", ignore_errors=True)
    shutil.move("elsewhere", "runs")

    folders = {path: path.stat().st_mtime_ns for path in Path("runs/study").rglob("metrics.json")}
    assert command.run(arguments) == 0
    Path("results/study.json").unlink()  # made elsewhere, as far as this folder knows
    asked = [*arguments, "--seeds", "3", "--report-only"]
    assert command.run(asked) == 0
    again = json.loads(Path("results/RESULTS.json").read_text())
    assert len(again["runs"]) == 4
    assert "2 more runs were possible and have not been started" in Path("results/RESULTS.md").read_text()
    assert again["comparisons"] == found["comparisons"]
    assert folders == {path: path.stat().st_mtime_ns for path in Path("runs/study").rglob("metrics.json")}


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.augmentation",
            "--datasets",
            "phantom",
            "--set",
            "detector.stpes=3",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "detector.stpes=3 is an unknown key" in done.stderr
    assert "Traceback" not in done.stderr
