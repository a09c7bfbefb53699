"""`latent-aug predict` as a user calls it: what it writes, what it says, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import latent_aug
from latent_env.data.builtin.phantom import make_phantom_dataset
from latent_env.worlds.store import BUILTIN
from stages.cli import choices
from stages.predict import sources

TEST = make_phantom_dataset(64, 8, 8, 12, seed=3).test
QUICK = ["--device", "cpu", "--threads", "1"]


class Done(NamedTuple):
    code: int
    out: str
    said: str


Run = Callable[..., Done]


@pytest.fixture
def latent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Run]:
    """``latent-aug …`` in this process, from ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which a script sets
    monkeypatch.setattr(choices, "COMMANDS", {**choices.COMMANDS})  # how scripts are called

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["latent-aug", *arguments])
        capsys.readouterr()
        code: Any = 0
        try:
            latent_aug.main()
        except SystemExit as stopped:
            code = stopped.code
        return Done(code, *capsys.readouterr())

    yield run
    torch.set_num_threads(1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of normal images, with one that is broken, and of anomalies in a folder in it."""
    folder = tmp_path / "photos"
    (folder / "bad").mkdir(parents=True)
    for number, (image, label) in enumerate(zip(TEST.images, TEST.labels, strict=True)):
        picture = Image.fromarray(image[0]).resize((96 + 8 * number, 64))
        picture.save(folder / ("bad" if label else "") / f"{number:02}.{'jpg' if number % 2 else 'png'}")
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


def table(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_becomes_tables_and_pictures(latent: Run, photos: Path, tmp_path: Path) -> None:
    done = latent("predict", "phantom", "photos", "--out", "out", *QUICK)
    assert done.code == 0, done.said
    rows = table(tmp_path / "out")
    assert [row["path"] for row in rows] == sorted(
        (str(path.relative_to(tmp_path)) for path in photos.rglob("*.*")),
        key=lambda text: (text.count("/"), text),
    )
    lines = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [row["path"] for row in rows]
    for row, line in zip(rows, lines, strict=True):
        assert row["verdict"] == line["verdict"]
        if row["verdict"] == "broken":
            assert "can't be read as an image" in row["error"]
            continue
        assert (
            (float(row["score"]) > 0.5) == (row["verdict"] == "anomaly") == (float(row["p_value"]) <= 1 / 61)
        )
        image, overlay = Image.open(row["path"]), Image.open(tmp_path / "out/overlays" / row["picture"])
        mask = Image.open(tmp_path / "out/masks" / row["picture"])
        assert image.size == overlay.size == mask.size
        assert bool(np.asarray(mask).any()) == (row["area"] != "")
        if row["area"]:
            box = [line[name] for name in ("left", "top", "width", "height")]
            marked = np.asarray(mask)[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
            assert marked.any(1).all()
            assert marked.any(0).all()
            assert 0 < line["area"] <= 1
    found = sum(row["verdict"] == "anomaly" for row in rows)
    assert f"13 images: {found} anomal" in done.said
    assert "1 broken" in done.said
    assert "images/s" in done.said
    assert "photos/broken.png can't be read as an image" in done.said
    assert "the best that can be promised with them is 1/61" in done.said


def test_without_out_it_prints_lines_and_another_threshold_finds_more(latent: Run, photos: Path) -> None:
    strict = latent("predict", "phantom", "photos/bad", *QUICK)
    mild = latent("predict", "phantom", "photos/bad", "--false-alarms", "0.5", *QUICK)
    best = latent("predict", "phantom", "photos/bad", "--best-f1", *QUICK)
    assert (strict.code, mild.code, best.code) == (0, 0, 0)
    assert len(strict.out.splitlines()) == 6
    assert strict.out.count("anomaly") < mild.out.count("anomaly")
    assert best.out.count("anomaly") > strict.out.count("anomaly")


def test_files_globs_and_standard_input_mean_the_same(
    latent: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_glob = latent("predict", "phantom", "photos/bad/*.*", *QUICK)
    files = sorted(str(Path("photos/bad", path.name)) for path in (photos / "bad").iterdir())
    by_name = latent("predict", "phantom", *files, files[0], *QUICK)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(files) + "\n\n"))
    by_list = latent("predict", "phantom", "-", *QUICK)
    assert by_glob.out == by_name.out == by_list.out
    assert len(by_glob.out.splitlines()) == 6


def test_exit_codes(latent: Run, photos: Path) -> None:
    assert (
        latent("predict", "phantom", "photos", "--fail-on", "anomaly", "--false-alarms", "0.5", *QUICK).code
        == 1
    )
    dark = photos / "dark.png"
    Image.fromarray(TEST.images[0, 0]).save(dark)
    assert latent("predict", "phantom", str(dark), "--fail-on", "anomaly", *QUICK).code == 0
    done = latent("predict", "phantom", "photos/broken.png", *QUICK)
    assert done.code == 2
    assert "predict: none of the images could be read" in done.said


def test_pictures_of_the_same_name_are_kept_apart(latent: Run, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "bad", tmp_path / "other")
    first = min(path.name for path in (tmp_path / "other").iterdir())
    done = latent("predict", "phantom", f"photos/bad/{first}", f"other/{first}", "--out", "out", *QUICK)
    assert done.code == 0
    pictures = {row["picture"] for row in table(tmp_path / "out")}
    assert len(pictures) == 2
    assert pictures == {path.name for path in (tmp_path / "out/overlays").iterdir()}
    latent("predict", "phantom", "photos", "--out", "none", "--pictures", "none", *QUICK)
    assert sorted(path.name for path in (tmp_path / "none").iterdir()) == [
        "predictions.csv",
        "predictions.jsonl",
    ]
    latent("predict", "phantom", "photos", "--out", "some", "--pictures", "anomalies", *QUICK)
    rows = table(tmp_path / "some")
    assert all((row["picture"] != "") == (row["verdict"] == "anomaly") for row in rows)


def test_a_folder_is_watched(
    latent: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, polls = tmp_path / "inbox", 0
    inbox.mkdir()
    shutil.copy(photos / "00.png", inbox / "first.png")
    seen: list[int] = []

    def pause(_: float) -> None:
        nonlocal polls
        polls += 1
        written = tmp_path / "out/predictions.csv"
        seen.append(len(written.read_text().splitlines()) - 1)
        if polls == 2:
            (inbox / "growing.png").write_bytes((photos / "02.png").read_bytes()[:100])
        if polls == 3:
            shutil.copy(photos / "02.png", inbox / "growing.png")
        if polls == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", pause)
    arguments = ["predict", "phantom", "--watch", "inbox", "--out", "out", *QUICK]
    done = latent(*arguments)
    assert done.code == 0, done.said
    assert seen == [0, 1, 1, 1, 2, 2]
    assert [row["path"] for row in table(tmp_path / "out")] == ["inbox/first.png", "inbox/growing.png"]
    assert "2 images: 0 anomalies, 2 normal" in done.said
    polls = 4
    again = latent(*arguments)
    assert "2 images are known" in again.said
    assert len(table(tmp_path / "out")) == 2
    assert sources.POLL > 0


def test_ctrl_c_keeps_what_was_predicted(
    latent: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latent_env.prediction.detector import AnomalyDetector

    monkeypatch.setattr("latent_env.prediction.detector.TOGETHER", 4)
    predict, calls = AnomalyDetector.predict_pixels, []

    def stopping(self: AnomalyDetector, read: Any) -> Any:
        calls.append(len(read))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(self, read)

    monkeypatch.setattr(AnomalyDetector, "predict_pixels", stopping)
    done = latent("predict", "phantom", "photos", "--out", "out", *QUICK)
    assert done.code == 130
    assert "stopped after 4 of 13 images" in done.said
    assert len(table(tmp_path / "out")) == 4


def test_mistakes_are_one_line(latent: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    shutil.copytree(BUILTIN / "phantom", tmp_path / "damaged")
    (tmp_path / "damaged/detector.safetensors").write_bytes(b"x")
    shutil.copytree(BUILTIN / "phantom", tmp_path / "older")
    description = json.loads((tmp_path / "older/decision.json").read_text())
    (tmp_path / "older/decision.json").write_text(json.dumps({**description, "format": 1}))
    for arguments, message in [
        ("", "no detector: name the folder of a run, or a file with --onnx FILE"),
        ("phantom", "no images: name files, folders or globs, - for a list"),
        ("phantom photos --bogus", "unrecognized arguments: --bogus"),
        ("phantom photos --watch photos", "--watch photos and photos: give one of both"),
        ("phantom --watch nowhere", "--watch nowhere: there is no such folder"),
        ("phantom photos --false-alarms 2", "false_alarms=2 must lie above 0 and below 1"),
        ("phantom photos --false-alarms x", "argument --false-alarms: invalid float value: 'x'"),
        ("phantom photos --threads 0", "--threads 0 must be at least 1"),
        ("phantom photos --device tpu", "device=tpu is unknown: choose cpu, cuda or auto"),
        ("phantom empty", "empty holds no images (.png, .jpg"),
        ("phantom photos/*.gif", "no file matches photos/*.gif"),
        ("phantom photos --out file", "--out file: can't write there"),
        ("empty photos", "empty holds no detector"),
        ("nowhere photos", "nowhere is neither a folder nor a built-in detector"),
        ("damaged photos", "detector.safetensors is damaged"),
        ("older photos", "has format 1, but this version reads format"),
    ]:
        done = latent("predict", *arguments.split())
        assert done.code == 2, arguments
        assert f"predict: {message}" in done.said or message in done.said, done.said
        assert len(done.said.strip().splitlines()) == 1 or "promise" in done.said, done.said
        assert "Traceback" not in done.said


def test_a_reader_that_leaves_is_no_mistake(photos: Path) -> None:
    command = (
        f"{sys.executable} -u {ROOT / 'latent_aug.py'} predict phantom photos {' '.join(QUICK)} | head -1"
    )
    done = subprocess.run(
        ["bash", "-c", command], cwd=photos.parent, capture_output=True, text=True, check=False
    )
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "refused" not in done.stderr


def test_missing_files_are_named_and_the_rest_goes_on(latent: Run, photos: Path) -> None:
    done = latent("predict", "phantom", "photos/00.png", "photos/gone.png", *QUICK)
    assert done.code == 0
    assert "photos/gone.png is not there" in done.said
    assert done.out.splitlines()[1] == "broken   photos/gone.png"
