"""A change of structure leaves every figure as it was: one small run, compared with what it gave before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RunHere

import train_ppo

SMALL = [
    "threads=1",
    "device=cpu",
    "dataset.train=100",
    "dataset.valid=40",
    "dataset.test=60",
    "autoencoder.steps=30",
    "detector.steps=20",
    "detector.width=32",
    "detector=transformer",
    "detector.heads=2",
    "env.num_envs=64",
    "agent.total_steps=1024",
    "samples=64",
    "rounds=1",
]
REFERENCE = Path(__file__).with_name("same_figures.json")
"""What this run gave at commit a1a954f, before the code got its present layout."""

SAME_MACHINE, ANOTHER = 1e-6, 0.15
"""Processors of another kind add up in another order, and so small a run amplifies that."""


def figures_of(report: dict[str, Any]) -> dict[str, float]:
    """All figures of a ``report.json``, by a dotted name."""
    names = ("anomalous_samples", "samples", "coverage", "duplicates", "effective_rank", "detector_steps")
    found = {name: report[name] for name in (*names, "share_agent", "share_random")}
    for metric, values in report["metrics"].items():
        found |= {f"{metric}.{which}": values[which] for which in ("without", "with")}
        if values["interval"] is not None:
            found |= dict(zip((f"{metric}.low", f"{metric}.high"), values["interval"], strict=True))
    found |= {f"baselines.{name}": value for name, value in report["baselines"].items()}
    for number, candidate in enumerate(report["candidates"]):
        keys = ("image_AUROC", "pixel_AUPRO", "margin")
        found |= {f"candidates.{number}.{key}": candidate[key] for key in keys}
    return found


@pytest.mark.slow
def test_a_small_run_has_the_figures_that_it_had(tmp_path: Path, run_here: RunHere) -> None:
    code, _, said = run_here(train_ppo.main, "train_ppo", *SMALL, cwd=tmp_path)
    assert code == 0, said
    (path,) = tmp_path.glob("runs/phantom/agent/ppo-*/report.json")
    reference, found = json.loads(REFERENCE.read_text()), figures_of(json.loads(path.read_text()))
    assert found.keys() == reference["figures"].keys()
    here = {"cpu": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__.split("+")[0]}
    alike = all(reference[name] == value for name, value in here.items())
    chosen = [name for name in found if name.startswith("share_") or name.endswith(".with")]
    for name, value in reference["figures"].items():
        if alike:
            assert found[name] == pytest.approx(value, abs=SAME_MACHINE), name
        elif name not in chosen and name != "effective_rank":  # another mixture may be chosen elsewhere
            assert found[name] == pytest.approx(value, rel=ANOTHER, abs=ANOTHER), name
