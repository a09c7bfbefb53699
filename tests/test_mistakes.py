"""A user's mistakes: each is one line that names what was wrong, and nothing is trained before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import RunHere
from omegaconf import DictConfig

import train_ae
import train_detector
import train_ppo
from stages import prepare

SCRIPTS: dict[str, Callable[[DictConfig], None]] = {
    "prepare": prepare.main,
    "train_ae": train_ae.main,
    "train_detector": train_detector.main,
    "train_ppo": train_ppo.main,
}

USUAL = {"dataset": "digits", "device": "cpu", "threads": "1"}
LONG = "x" * 5000
NO_NAME = "can't be the name of a folder"

NAMES = [
    ("train_ae", "autoencoder.name=../../../x", f"autoencoder.name=../../../x {NO_NAME}"),
    ("train_ae", "autoencoder.name=/tmp/x", f"autoencoder.name=/tmp/x {NO_NAME}"),
    ("train_detector", "autoencoder.name=..", f"autoencoder.name=.. {NO_NAME}"),
    ("train_detector", "detector.name=../x", f"detector.name=../x {NO_NAME}"),
    ("train_ppo", "agent.name=a/b", f"agent.name=a/b {NO_NAME}"),
    ("train_ppo", "agent.name=''", f"agent.name= {NO_NAME}"),
    (
        "train_ae",
        f"autoencoder.name={LONG}",
        f"=xxxxxxxxxxxxxxxxxxxx… (5,000 letters) {NO_NAME}",
    ),
    ("prepare", "dataset.name=../x", f"dataset.name=../x {NO_NAME}"),
    ("prepare", "dataset=folder dataset.root=. dataset.name=../x", f"dataset.name=../x {NO_NAME}"),
    ("train_ae", "runs=''", "runs= is empty: name a folder"),
    ("train_ae", f"runs={LONG}", "runs=xxxxxxxxxxxxxxxxxxxx… (5,000 letters): can't write there"),
]


def check(script: str, arguments: list[str], message: str, folder: Path, run_here: RunHere) -> None:
    """The script says ``message`` in one line, and leaves no result behind."""
    beside = set(folder.parent.iterdir())
    keys = {each.lstrip("+").partition("=")[0] for each in arguments}
    usual = {"dataset": "digits"} if script == "prepare" else USUAL
    others = [f"{key}={value}" for key, value in usual.items() if key not in keys]
    code, _, error = run_here(SCRIPTS[script], script, *others, *arguments, cwd=folder)
    lines = [line for line in error.splitlines() if line.startswith(("train_", "stages.prepare"))]
    assert code == 2, error
    assert message in error
    assert len(lines) == 1, error
    assert "Traceback" not in error
    assert not list(folder.glob("runs/**/metrics.json"))
    assert set(folder.parent.iterdir()) == beside


@pytest.mark.parametrize(("script", "arguments", "message"), NAMES, ids=lambda value: str(value)[:40])
def test_a_name_that_leads_elsewhere(
    script: str, arguments: str, message: str, tmp_path: Path, run_here: RunHere
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    check(script, arguments.split(), message, folder, run_here)
