"""Gives worlds test images to start from: ``python -m stages.export.test_images FOLDER…``.

A folder is named after its data set, as those of the built-in worlds are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf

from latent_common.artifacts import save_artifact
from latent_common.image_source import evenly_spaced
from latent_env.denoise.world import EXAMPLES, EXAMPLES_OF, read_examples
from latent_env.worlds.store import TEST, save_images, seal_world
from stages.cli.compose import compose
from stages.datasets import load_dataset
from stages.denoise.classes import class_labels

MOST_PIXELS = 2**18
"""So many pixels of test images are kept: the built-in worlds are small."""


def add_test_images(folder: Path) -> None:
    """Store normal test images in ``folder``, evenly spaced, and their classes if it has those of others."""
    test = load_dataset(OmegaConf.to_object(compose("train_ae", [f"dataset={folder.name}"]))).test.normal()  # type: ignore[arg-type]
    most = MOST_PIXELS // test.images[0].size
    images = evenly_spaced(torch.from_numpy(test.images), most)
    save_images(folder, images, split=TEST)
    seal_world(folder)
    if (folder / f"{EXAMPLES}.json").is_file():
        _, _, names = read_examples(folder)
        labels = torch.from_numpy(class_labels(test, {name: number for number, name in enumerate(names)}))
        tensors = {"images": images, "labels": evenly_spaced(labels, most)}
        save_artifact(folder, EXAMPLES_OF[TEST], EXAMPLES, tensors, {"classes": names})


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        add_test_images(Path(argument).absolute())
