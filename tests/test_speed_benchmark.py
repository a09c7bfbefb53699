"""The benchmark of speed runs from its command line and writes what it promises; no test asserts a time."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.speed import __main__ as speed
from benchmarks.speed.imports import MARKS
from benchmarks.speed.timing import Ratio, in_turns, ratio


def test_the_benchmark_of_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "speed.json"
    few = ["--worlds", "2", "--ppo-worlds", "2", "--repeats", "1"]
    arguments = ["--quick", "--world", "digits", *few, "--device", "cpu", "--json"]
    monkeypatch.setattr(sys, "argv", ["speed", *arguments, str(path)])
    try:
        speed.main()
    finally:
        torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key in ("step_tensor_over_raw", "vector_env_over_raw"):
        assert found[key].keys() == {"2"}
        assert found[key]["2"] > 0
    ratios = [
        "ppo_over_raw_env",
        "ppo_over_stock_singles",
        "ppo_over_stock_batch",
        "ae_over_bare_step",
        "detector_over_bare_step",
        "import_ms_over_gymnasium",
    ]
    assert all(math.isfinite(found[key]) and found[key] > 0 for key in ratios)
    assert found["start_ms"].keys() == MARKS.keys()
    assert sum(found["ppo_time"].values()) == pytest.approx(1)
    printed = capsys.readouterr().out
    assert "step_tensor_over_raw, 2 worlds" in printed
    assert "BatchPPO's time: env" in printed


def test_ways_take_turns() -> None:
    calls: list[str] = []

    def work(name: str, items: int) -> int:
        calls.append(name)
        return items

    rates = in_turns({"a": lambda: work("a", 3), "b": lambda: work("b", 1)}, 3, 0.0, "test")
    assert calls == ["a", "b", *"ba", *"ab", *"ba"]
    assert all(len(values) == 3 for values in rates.values())
    found = ratio({"a": [2.0, 3.0, 8.0], "b": [1.0, 1.0, 2.0]}, "a", "b")
    assert found == Ratio(3.0, 2.5, 3.5)
