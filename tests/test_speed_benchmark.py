"""The benchmark of speed runs from its command line and writes what it promises; no test asserts a time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.speed import __main__ as speed
from benchmarks.speed.imports import MARKS
from benchmarks.speed.scale import DEFAULT, as_text, measured
from benchmarks.speed.timing import Ratio, in_turns, ratio

FEW = [
    "--quick",
    "--world",
    "digits",
    "--worlds",
    "2",
    "--ppo-worlds",
    "2",
    "--repeats",
    "1",
    "--device",
    "cpu",
]


def figures_of(part: str, folder: Path) -> dict[str, Any]:
    """What one part writes to its file."""
    path = folder / "new" / "speed.json"
    try:
        speed.main([*FEW, "--parts", part, "--json", str(path)])
    finally:
        torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures_of("steps", tmp_path)
    for name in ("step_tensor_over_networks", "vector_env_over_networks", "sb3_vec_env_over_networks"):
        assert found[name].keys() == found["quartiles"][name].keys() == {"2"}
        assert found[name]["2"] > 0
    assert "step_tensor_over_networks, 2 worlds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "names"),
    [
        pytest.param(
            "ppo",
            [
                "ppo_over_worlds_alone",
                "ppo_over_stock_on_single_worlds",
                "ppo_over_stock_on_the_batch",
                "ppo_over_stock_with_our_settings",
            ],
            marks=pytest.mark.slow,
        ),
        (
            "trainings",
            [
                f"{model}_over_{other}"
                for model in ("autoencoder", "detector")
                for other in ("bare_step", "data_loader")
            ],
        ),
        ("backbone", ["backbone_over_network_as_trained"]),
        ("metrics", ["metrics_over_whole_curve"]),
        ("imports", []),
    ],
)
def test_parts(part: str, names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures_of(part, tmp_path)
    assert all(math.isfinite(found[name]) and found[name] > 0 for name in names)
    assert list(found["quartiles"]) == names
    printed = capsys.readouterr().out
    if part == "ppo":
        assert sum(found["ppo_time"].values()) == pytest.approx(1)
        assert "PPO's time: env" in printed
    if part == "imports":
        assert found["start_ms"].keys() == MARKS.keys()


def test_a_step_with_a_generator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures_of("generator", tmp_path)
    assert found["generator_step_over_networks"]["2"] > 0
    assert "generator, 64 pixels, 2 worlds" in capsys.readouterr().out


def test_a_point_of_the_scale() -> None:
    found = measured(DEFAULT)
    assert found.keys() == {"ms_a_world", "ready_s", "megabytes"}
    assert found["ms_a_world"] > 0
    assert "16" in as_text({"worlds": {"16": found}})


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
