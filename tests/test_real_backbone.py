"""A real pretrained network on real images, where both are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT, RunHere

import train_detector

SHARED = ROOT.parent / "shared"
WEIGHTS, BOTTLE = SHARED / "weights/mobilenet_v1_1.0_224", SHARED / "data/mvtec/bottle"


@pytest.mark.skipif(not (WEIGHTS.is_dir() and BOTTLE.is_dir()), reason="needs ../shared: weights and images")
def test_nearest_neighbours_find_every_broken_bottle(tmp_path: Path, run_here: RunHere) -> None:
    arguments = [
        *("dataset=mvtec", "dataset.category=bottle", f"data_root={BOTTLE.parent}", "dataset.size=224"),
        *("autoencoder=pretrained", f"autoencoder.backbone={WEIGHTS}", "autoencoder.components=64"),
        *("detector=knn", "detector.coreset=false", "device=cpu", "threads=1"),
    ]
    code, out, error = run_here(train_detector.main, "train_detector", *arguments, cwd=tmp_path)
    assert code == 0, error
    assert "layers 9, 21" in error
    found = dict(line.split() for line in out.splitlines() if line.startswith("image_"))
    assert float(found["image_AUROC"]) >= 0.999
