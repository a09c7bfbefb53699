"""``python -m benchmarks.returns``: what is measured is kept, and told in a table."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from agents.learners.stock_ppo import worlds_of
from benchmarks.returns import always, best_constant, main, mean_return

TASK = "LatentDenoise-Digits-v0"


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "runs.csv").open() as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_what_is_finished_is_used_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--tasks", TASK, "--seeds", "1", "--out", str(tmp_path), "--methods"]
    assert main([*command, "random", "nothing"]) == 0
    assert f"| {TASK} | random " in capsys.readouterr().out
    first = rows(tmp_path)
    assert float(first["nothing"]["return"]) == pytest.approx(0, abs=1e-6)  # nothing gets cleaner
    assert float(first["random"]["return"]) != float(first["random"]["test_return"])
    assert (tmp_path / f"{TASK}.png").stat().st_size > 1000
    assert main([*command, "random", "nothing", "--report-only"]) == 0
    assert rows(tmp_path) == first


@pytest.mark.slow
def test_learners_leave_a_curve(tmp_path: Path) -> None:
    steps = ["--steps", "4096", "--sac-steps", "300"]
    chosen = ["--tasks", TASK, "--seeds", "1", "--methods", "ppo", "sac", "ours"]
    assert main([*chosen, *steps, "--out", str(tmp_path)]) == 0
    found = rows(tmp_path)
    assert [int(found[method]["steps"]) for method in ("ppo", "sac", "ours")] == [4096, 300, 4096]
    assert all(-1 <= float(row["return"]) <= 1 for row in found.values())


def test_the_best_constant_action_is_no_worse_than_a_random_one() -> None:
    worlds = worlds_of(TASK, 16)
    drawn = always(2 * torch.rand(16, generator=torch.Generator().manual_seed(5)) - 1)
    assert mean_return(worlds, best_constant(TASK, 0), 64) > mean_return(worlds, drawn, 64)
