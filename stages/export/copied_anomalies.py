"""Gives worlds anomalies that agents may copy: ``python -m stages.export.copied_anomalies FOLDER…``.

A folder is named after its data set, as those of the built-in worlds are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch.nn import functional

from detectors.blocks.tokens import anomalous_tokens, grid_of
from latent_common.image_source import evenly_spaced
from latent_env.worlds.labelled_anomalies import LabelledAnomalies, mirrored, save_labelled_anomalies
from latent_env.worlds.store import load_world, seal_world
from stages.cli.compose import compose
from stages.datasets import load_dataset
from stages.detector.labelled_split import split_labelled

MOST = 15
"""So many anomalies are kept: the built-in worlds are small."""


def add_copied_anomalies(folder: Path) -> None:
    """Store anomalies in ``folder``, evenly spaced among those that detectors may train on.

    None of them is in the reference set, which rewards are measured on.
    """
    config = OmegaConf.to_object(compose("train_detector", [f"dataset={folder.name}"]))
    valid = load_dataset(config).valid  # type: ignore[arg-type]
    rows = evenly_spaced(torch.from_numpy(split_labelled(valid, config.labelled).train), MOST)  # type: ignore[union-attr]
    some = valid.subset(rows.numpy())
    assert some.masks is not None
    images, masks = torch.from_numpy(some.images), torch.from_numpy(some.masks)[:, None]
    world = load_world(str(folder), torch.device("cpu"))
    latents = torch.stack([world.autoencoder.encode_all(each) for each in mirrored(images)])
    shares = functional.adaptive_avg_pool2d(masks.float(), grid_of(world.autoencoder.latent_shape))
    marks = mirrored(anomalous_tokens(shares))
    found = LabelledAnomalies.of(latents, marks, world.latents, images, masks)
    halves = {name: getattr(found, name).half().float() for name in ("latents", "normal")}
    save_labelled_anomalies(folder, found._replace(**halves))
    seal_world(folder)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        add_copied_anomalies(Path(argument).absolute())
