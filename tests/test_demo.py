"""The demo: what it compares, what its picture shows, and the benchmark that repeats it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from benchmarks.cases import Case
from benchmarks.demo import cases_of, main, parser
from benchmarks.scripts import composed
from latent_aug import DEMO
from latent_common.artifacts import write_json
from latent_env.data import Split
from latent_env.training.evaluation import Evaluation
from latent_env.worlds.store import COMPLETE
from stages.augmentation.pictures.changes import changed_rows
from stages.augmentation.report import Row, table

FIGURES = {"without": 0.70, "random": 0.71, "with": 0.74}


def finished(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    luck = np.random.default_rng(seed).normal(scale=0.001)
    metrics = {
        name: {method: figure + luck * (method == "with") for method, figure in FIGURES.items()}
        for name in ("image_AUROC", "pixel_AP", "pixel_AUPRO")
    }
    write_json(folder / "report.json", {"metrics": metrics})
    write_json(folder / COMPLETE, {})
    return folder


def test_the_demo_is_repeated_with_ten_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"

    def script(case: Case) -> Path:
        return finished(out / case.name, case.seed)

    assert main(["--out", str(out)], {"train_ppo": script}) == 0
    printed = capsys.readouterr().out
    rows = {row.split(" | ")[1].strip(): row.split(" | ") for row in printed.splitlines() if " - " in row}
    assert {"with - without", "random - without", "with - random"} <= set(rows)
    assert rows["with - without"][2].strip() == "10"
    assert rows["with - without"][-1].startswith("**+0.04")
    assert (out / "RESULTS.md").is_file()


def test_its_runs_are_the_demo_with_other_seeds(tmp_path: Path) -> None:
    cases = cases_of(parser().parse_args(["--out", str(tmp_path), "--seeds", "2"]))
    config = composed(cases[1])
    assert (config.seed, config.labelled.seed, config.labelled.count) == (1, 1, 5)
    assert config.mixture.compare_random
    assert set(DEMO) <= set(cases[0].arguments)


def test_make_and_the_command_show_the_same_demo() -> None:
    (keys,) = re.findall(r"^DEMO \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert keys.split() == DEMO


def evaluation(maps: np.ndarray) -> Evaluation:
    masks = np.zeros((3, 16, 16), dtype=bool)
    masks[1, 2:6, 2:6], masks[2, 10:14, 10:14] = True, True
    images = np.zeros((3, 1, 16, 16), dtype=np.uint8)
    split = Split(images, np.array([0, 1, 1]), masks, ("a", "b", "c"))
    return Evaluation(split, maps.reshape(3, -1).max(1), maps)


def test_the_picture_has_a_row_for_what_changed() -> None:
    blank = np.random.default_rng(0).random((3, 16, 16)).astype(np.float32)
    better = blank.copy()
    better[1, 2:6, 2:6] += 1  # found; the map of the other anomaly is as before
    assert len(changed_rows(evaluation(blank), evaluation(better))) == 1
    assert changed_rows(evaluation(blank), evaluation(blank)) == []
    without, beside = changed_rows(evaluation(blank), evaluation(better))[0], evaluation(blank)
    with_random = changed_rows(evaluation(blank), evaluation(better), beside)[0]
    assert with_random.shape[1] > without.shape[1]


def test_random_samples_have_a_column_where_they_were_compared() -> None:
    row = Row("image_AUROC", 0.7, 0.8, (0.05, 0.15))
    assert "random" not in table([row])
    head, _, line = table([Row("image_AUROC", 0.7, 0.8, (0.05, 0.15), 0.75)]).splitlines()
    assert [cell.strip() for cell in head.split("|")][2:5] == ["without", "random", "with"]
    assert [cell.strip() for cell in line.split("|")][2:5] == ["0.7000", "0.7500", "0.8000"]
