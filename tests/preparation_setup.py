"""Small random data sets to prepare, in memory and in a folder, and what is checked of them then."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from latent_env.data import Dataset, Parts, Problems, Source, Splitting, folder_source, prepare
from latent_env.data.samples import ArraySample, Sample

SPLITS = ("train", "valid", "test")


def random_samples(
    count: int, label: int = 0, seed: int = 0, shape: Sequence[int] = (20, 24)
) -> list[Sample]:
    """Random images; the anomalous ones have their left half marked."""
    rng = np.random.default_rng(seed)
    marked = np.zeros(shape[:2], np.bool_)
    marked[:, : shape[1] // 2] = True
    return [
        ArraySample(
            rng.integers(0, 256, shape, np.uint8), label, f"{seed}/{i}.png", marked if label else None
        )
        for i in range(count)
    ]


def make_source(
    train: Sequence[Sample] = (),
    valid: Sequence[Sample] = (),
    test: Sequence[Sample] = (),
    channels: int | None = None,
    name: str = "drawn",
) -> Source:
    """A source in memory; what isn't given is random and grey."""
    splits = {
        "train": train or random_samples(5, seed=1),
        "valid": valid or random_samples(2, seed=2),
        "test": test or [*random_samples(2, seed=3), *random_samples(3, 1, seed=4)],
    }
    return Source(name, splits, [], {}, channels)


def write_image(path: Path, seed: int, mark: bool = False) -> Path:
    """A random image of 20 × 12 pixels, or a mask whose left half is set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 20), np.uint8)
    if mark:
        pixels[:, :10], pixels[:, 10:] = 255, 0
    Image.fromarray(pixels).save(path)
    return path


def make_folder(root: Path) -> Path:
    """A small data set in MVTec's layout."""
    for i in range(8):
        write_image(root / f"train/good/{i:03d}.png", i)
    for i in range(2):
        write_image(root / f"test/good/{i:03d}.png", 10 + i)
        write_image(root / f"test/dent/{i:03d}.png", 20 + i)
        write_image(root / f"ground_truth/dent/{i:03d}_mask.png", 0, mark=True)
    return root


def add_image(root: Path) -> None:
    write_image(root / "train/good/100.png", 97)


@dataclass
class FolderSetup:
    """A folder of files, and where it is kept prepared."""

    root: Path
    prepared: Path

    def load(self, on_error: str = "stop", size: int = 16, **splitting: int) -> Dataset:
        problems = Problems(on_error)
        source = folder_source(self.root, "mine", Parts(), Splitting(**splitting), problems)  # type: ignore[arg-type]
        return prepare(source, size, self.prepared, problems)


def check_same(first: Dataset, second: Dataset) -> None:
    for split in SPLITS:
        one, other = getattr(first, split), getattr(second, split)
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)
        assert (one.masks is None) == (other.masks is None)
        assert one.masks is None or np.array_equal(one.masks, other.masks)
        assert one.names == other.names
    assert first.summary() == second.summary()
    assert first.fingerprint() == second.fingerprint()


def check_clean(prepared: Path) -> None:
    """Nothing half made is left."""
    assert not [path for path in prepared.rglob("*") if path.name.startswith(".")]
    for folder in prepared.glob("*/*"):
        names = {path.name for path in folder.iterdir()}
        assert names == {"train.npz", "valid.npz", "test.npz", "prepared.json", "overview.png"}


def folder_of(dataset: Dataset) -> Path:
    assert dataset.folder is not None
    return dataset.folder


def facts_of(dataset: Dataset) -> dict[str, object]:
    facts: dict[str, object] = json.loads((folder_of(dataset) / "prepared.json").read_text())
    return facts
