"""``python -m benchmarks.offline``: what is learned from a data set stands beside what the data set holds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from benchmarks.offline import main

pytest.importorskip("minari")
pytest.importorskip("h5py")


def test_what_is_learned_stands_beside_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = "LatentDenoise-Digits-v0"
    small = ["--seeds", "1", "--methods", "random", "--episodes", "8", "--steps", "64"]
    assert main(["--tasks", task, *small, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"| {task} | random " in printed
    (row,) = csv.DictReader((tmp_path / "runs.csv").open())
    made = tmp_path / "sets/0/latentdenoise/digits/random-v0/data/metadata.json"
    assert float(row["data"]) == pytest.approx(json.loads(made.read_text())["mean_return"])
    assert -1 <= float(row["return"]) <= 1
    assert "random - random, the data" in printed
    assert main(["--tasks", task, *small, "--out", str(tmp_path), "--report-only"]) == 0
    assert capsys.readouterr().out == printed
