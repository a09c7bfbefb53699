"""The wheel holds all that an installed package needs, away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from conftest import ROOT

USE = """
import gymnasium as gym, latent_env
print(latent_env.__file__)
for world in ("digits", "phantom"):
    env = gym.make("LatentAug-v0", artifacts=world)
    env.reset(seed=0)
    env.step(env.action_space.sample())
env = gym.make("LatentDenoise-v0")
env.reset(seed=0)
env.step(env.action_space.sample())
import train_ppo, stages.cli.choices
assert "ppo" in stages.cli.choices.choices("agent")
import latent_aug, numpy as np
assert latent_env.load_detector("digits", device="cpu").predict(np.zeros((9, 9), "uint8")).score > 0
latent_aug.main()
"""


def test_the_wheel_makes_both_worlds_without_the_checkout(tmp_path: Path) -> None:
    copy = tmp_path / "source"
    left_out = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=left_out)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(copy)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(installed)
    assert not any(name.startswith(("tests", "results")) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "stages/report/style.css" in names
    (entry,) = installed.glob("*.dist-info/entry_points.txt")
    assert "latent-aug = latent_aug:main" in entry.read_text()
    shutil.rmtree(copy)

    done = subprocess.run(
        [sys.executable, "-c", USE, "predict", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))
