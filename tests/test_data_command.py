"""`python -m stages.prepare`, called as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from latent_env.data import load_digits_dataset
from stages.cli.choices import choices
from stages.cli.launch import run_script
from stages.prepare import describe, main, with_dataset

Done = subprocess.CompletedProcess[str]


def run_data(*arguments: str, cwd: Path, **variables: str) -> Done:
    """``python -m stages.prepare …`` from ``cwd``, with environment variables of its own."""
    kept = {key: value for key, value in os.environ.items() if key != "LATENT_AUG_DATA"}
    return subprocess.run(
        [sys.executable, "-m", "stages.prepare", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        check=False,
    )


def make_bottles(root: Path) -> None:
    """A category of MVTec AD in miniature, in colour and with masks."""
    rng = np.random.default_rng(0)
    for folder, count in (("train/good", 7), ("test/good", 3), ("test/broken_small", 2)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(100, 140, (30, 30, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i:03d}.png")
    truth = root / "ground_truth" / "broken_small"
    truth.mkdir(parents=True)
    for i in range(2):
        mask = np.zeros((30, 30), np.uint8)
        mask[:10] = 255
        Image.fromarray(mask).save(truth / f"{i:03d}_mask.png")


BOTTLE = ["mvtec", "dataset.category=bottle", "dataset.size=16"]
SUMMARY = "mvtec_bottle: train 6 · valid 1 normal · test 3 + 2 · 16×16 RGB from 30×30 · pixel masks"


@pytest.mark.slow
def test_a_category_is_prepared_once(tmp_path: Path) -> None:
    make_bottles(tmp_path / "sets" / "mvtec_anomaly_detection" / "bottle")
    first = run_data(*BOTTLE, cwd=tmp_path, LATENT_AUG_DATA=str(tmp_path / "sets"))
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    summary, prepared, picture = first.stdout.splitlines()
    assert summary == SUMMARY
    (folder,) = (tmp_path / "prepared" / "mvtec_bottle").iterdir()
    assert prepared.split() == ["prepared:", str(folder.relative_to(tmp_path))]
    assert picture.split() == ["picture:", str(folder.relative_to(tmp_path) / "overview.png")]
    assert (tmp_path / picture.split()[1]).is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"sets", "prepared"}  # nothing of Hydra's

    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    second = run_data(*BOTTLE, "data_root=sets", cwd=tmp_path)
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


def test_remarks_are_printed_below_the_summary() -> None:
    digits = load_digits_dataset([0])
    assert describe(digits) == digits.summary()
    prepared = replace(digits, remarks=("skipped 1 file", "2 copies"), folder=Path("kept/digits/8"))
    assert describe(prepared).splitlines() == [
        digits.summary(),
        "skipped 1 file",
        "2 copies",
        "prepared: kept/digits/8",
        "picture:  kept/digits/8/overview.png",
    ]


def test_what_needs_no_files_is_not_prepared(tmp_path: Path) -> None:
    done = run_data("digits", "track=one_class", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == "digits: train 541 · valid 135 normal · test 225 + 761 · 8×8 grey · no pixel masks\n"
    )
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "dataset=nonsense is unknown: choose one of bmad_brain, "),
        (["digits", "track=nonsense"], "track=nonsense is unknown: choose one of auto, few_labelled"),
        (["mvtec"], "dataset.category is missing: mvtec has bottle, cable, "),
        (["mvtec", "dataset.category=bottel"], "dataset.category=bottel is unknown: mvtec has bottle, "),
        (["mvtec", "dataset.sise=16"], "dataset.sise=16 is an unknown key: dataset has augment, "),
        (["digits", "+foo=1"], "+foo=… is an unknown key: nothing would read it"),
        (["digits", "dataset.seed=-1"], "dataset.seed=-1 must lie from 0 to 4294967295"),
        (["digits", "dataset.suits.local=true"], "dataset.suits.local= is now dataset.recommended.local="),
        (["digits", "phantom"], "phantom: can't be read as key=value"),
        (["folder"], "dataset.root is missing"),
        ([*BOTTLE, "dataset.channels=2", "data_root=sets"], "channels=2 must be 1 (grey), 3 (RGB) or null"),
        ([*BOTTLE, "prepared=/proc/nowhere", "data_root=sets"], "prepared=/proc/nowhere: can't write there"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_one_clear_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_bottles(tmp_path / "sets" / "mvtec" / "bottle")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which is set meanwhile
    monkeypatch.setattr(sys, "argv", ["stages.prepare", *with_dataset(arguments)])
    with pytest.raises(SystemExit) as stopped:  # in this process, as each new one takes seconds to start
        run_script(main, "prepare", None)
    assert stopped.value.code == 2
    out, log = capsys.readouterr()
    assert log.startswith(f"stages.prepare: {message}")
    assert log.count("stages.prepare: ") == 1
    assert out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"sets"}


def test_missing_data_says_where_how_and_whence(tmp_path: Path) -> None:
    done = run_data("mvtec", "dataset.category=bottle", "data_root=nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    log = done.stderr.splitlines()
    assert log[0] == f"stages.prepare: the data set mvtec_bottle is not below data_root={tmp_path}/nowhere"
    assert "Traceback" not in done.stderr
    for part in ("bottle/train/good", "ground_truth", "does not exist", "mvtec.com", "LATENT_AUG_DATA"):
        assert part in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_shows_every_data_set_with_a_line(tmp_path: Path) -> None:
    done = run_data(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in choices("dataset"):
        (line,) = [line for line in done.stdout.splitlines() if line.split()[:1] == [name]]
        assert len(line.split()) > 4
    assert "usage: python -m stages.prepare <data set> [key=value ...]" in done.stdout
    assert not any(line.split()[:1] == ["_files"] for line in done.stdout.splitlines())
    for key in ("track", "data_root", "prepared"):
        assert f"  {key}: " in done.stdout
    assert "-m stages.prepare bmad_liver data_root=/data" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_first_argument_may_be_the_data_set_alone() -> None:
    assert with_dataset(["digits", "track=auto"]) == ["dataset=digits", "track=auto"]
    for arguments in ([], ["--help"], ["--cfg", "job"], ["dataset=digits"], ["track=auto", "digits"]):
        assert with_dataset(arguments) == arguments
