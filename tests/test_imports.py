"""Imports point one way, and importing the package loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["detectors", "latent_env", "agents", "conf", "scripts"]
SCRIPTS = ["train_ae", "train_detector", "train_ppo"]
LOOP = {"agents", "conclusion", "denoise", "denoise_report", "judging", "mixture", "rounds"}
"""The modules of `conf` that are about agents, which bring Stable-Baselines3 with them."""
# A layer may import from those before it; `conf` describes the data sets, so it stands above them.
OURS = {**{name: LAYERS.index(name) for name in LAYERS[:-1]}, **dict.fromkeys(SCRIPTS, 4)}


def imported(path: Path) -> set[str]:
    """The top-level names that a module imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names


def modules() -> list[tuple[str, Path]]:
    found = [
        # What is run with `python -m` is a script, wherever it lies.
        ("scripts" if path.name == "__main__.py" else layer, path)
        for layer in LAYERS[:-1]
        for path in sorted((ROOT / layer).rglob("*.py"))
    ]
    return found + [("scripts", ROOT / f"{name}.py") for name in SCRIPTS]


@pytest.mark.parametrize(("layer", "path"), modules(), ids=lambda value: getattr(value, "name", value))
def test_imports_point_one_way(layer: str, path: Path) -> None:
    for name in imported(path) & OURS.keys():
        assert OURS[name] <= LAYERS.index(layer), f"{path} must not import {name}"
        allowed = layer != "conf" or name != "agents" or path.stem in LOOP
        assert allowed, f"{path} must not import {name}"


@pytest.mark.parametrize("script", ["train_ae", "train_detector"])
def test_detectors_are_trained_without_agents(script: str) -> None:
    code = f"import {script}, sys; assert not {{'agents', 'stable_baselines3'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("latent_env/dynamics.py", {"numpy", "gymnasium", "stable_baselines3", "pathlib", "json"}),
        ("latent_env/rewards/terms.py", {"numpy", "gymnasium", "stable_baselines3", "pathlib", "json"}),
        ("latent_env/perturbations.py", {"numpy", "gymnasium", "stable_baselines3", "pathlib"}),
    ],
)
def test_modules_know_their_own_room(module: str, strangers: set[str]) -> None:
    assert not imported(ROOT / module) & strangers


def test_import_is_light() -> None:
    heavy = ["torch", "sklearn", "matplotlib", "hydra", "PIL"]
    code = f"import sys, latent_env; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
