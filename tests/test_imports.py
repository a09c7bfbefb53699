"""Imports point one way, and importing the package loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ["train_ae", "train_detector", "train_ppo"]
BELOW: dict[str, set[str]] = {
    "latent_common": set(),
    "conf": set(),
    "detectors": {"latent_common"},
    "latent_env": {"latent_common", "detectors"},
    "agents": {"latent_common", "detectors", "latent_env"},
    "stages": {"latent_common", "detectors", "latent_env", "agents", "conf"},
}
"""What each package may import beside itself: those below it, and nothing else of this project."""
OURS = {*BELOW, *SCRIPTS, "latent_aug", "benchmarks", "tests"}


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


@pytest.mark.parametrize("package", BELOW)
def test_imports_run_downwards_only(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        for name in imported(path) & OURS - {package}:
            assert name in BELOW[package], f"{path.relative_to(ROOT)} must not import {name}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_know_the_stages_and_no_other_script(script: str) -> None:
    assert imported(ROOT / f"{script}.py") & OURS <= {"conf", "stages", "latent_common"}


@pytest.mark.parametrize("script", ["train_ae", "train_detector"])
def test_detectors_are_trained_without_agents(script: str) -> None:
    code = f"import {script}, sys; assert not {{'agents', 'stable_baselines3'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("latent_env/dynamics.py", {"numpy", "gymnasium", "stable_baselines3", "pathlib", "json"}),
        ("latent_env/rewards/base.py", {"numpy", "gymnasium", "stable_baselines3", "pathlib", "json"}),
        ("latent_env/perturbations/base.py", {"numpy", "gymnasium", "stable_baselines3", "pathlib"}),
    ],
)
def test_modules_know_their_own_room(module: str, strangers: set[str]) -> None:
    assert not imported(ROOT / module) & strangers


def test_nothing_but_the_pages_of_the_app_knows_gradio() -> None:
    folders = (*BELOW, "benchmarks", "tests")
    paths = [ROOT / f"{script}.py" for script in (*SCRIPTS, "latent_aug")]
    paths += [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    knowing = {path.relative_to(ROOT).as_posix() for path in paths if "gradio" in imported(path)}
    pages = {"page", "server", "inspect_tab", "play_tab", "samples_tab"}
    assert knowing == {f"stages/app/{page}.py" for page in pages}


def test_what_the_app_does_needs_no_gradio() -> None:
    parts = ["command", "opened", "inspection", "playing", "choosing", "drawing"]
    code = f"import sys; from stages.app import {', '.join(parts)}; assert 'gradio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_import_is_light() -> None:
    heavy = ["torch", "sklearn", "matplotlib", "hydra", "PIL"]
    code = f"import sys, latent_env; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
