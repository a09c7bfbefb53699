"""Images that a backbone sees in tiles: what comes back is one map, as of an image that is seen whole."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import tiny_backbones
import torch
from conftest import RunHere
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import latent_env
import train_detector
from latent_common.errors import UserError
from latent_env.autoencoders.backbone import Backbone, load_backbone
from latent_env.autoencoders.backbone.tiles import OVERLAP, Tiles
from latent_env.autoencoders.pretrained import PretrainedEncoder

TILE, GRID = 64, 8
"""Pixels and tokens a side of the tiles that the tiny networks see."""


@st.composite
def tilings(draw: st.DrawFn) -> Tiles:
    """Tiles of images of up to five times their side."""
    grid, token = draw(st.integers(1, 16)), draw(st.integers(1, 4))
    return Tiles(token * draw(st.integers(grid + 1, 5 * grid)), token * grid, grid, "autoencoder")


def pooled(images: Tensor, token: int) -> Tensor:
    return functional.avg_pool2d(images, token)


@settings(max_examples=60)
@given(tiles=tilings())
def test_what_a_token_alone_decides_is_as_of_the_whole_image(tiles: Tiles) -> None:
    images = torch.rand(2, 3, tiles.size, tiles.size)
    parts = tiles.cut(images)
    assert parts.shape == (2 * tiles.count, 3, tiles.side, tiles.side)
    assert torch.equal(tiles.join(pooled(parts, tiles.token)), pooled(images, tiles.token))


@settings(max_examples=60)
@given(tiles=tilings())
def test_tokens_come_from_where_they_see_what_is_around_them(tiles: Tiles) -> None:
    """No token comes from the border of a tile unless that is the border of the image."""
    place = torch.arange(tiles.grid)
    inside = torch.minimum(place, tiles.grid - 1 - place).float()
    depth = torch.minimum(inside[:, None], inside[None, :]).expand(tiles.count, 1, -1, -1)
    found = tiles.join(depth)[0, 0]
    whole = torch.arange(tiles.whole_grid)
    edge = torch.minimum(whole, tiles.whole_grid - 1 - whole).float()
    edge = torch.minimum(edge[:, None], edge[None, :])
    shared = min(
        first + tiles.grid - second for first, second in zip(tiles.starts, tiles.starts[1:], strict=False)
    )
    assert shared >= int(tiles.grid * OVERLAP)
    assert (found >= torch.minimum(edge, torch.tensor(float(shared // 2)))).all()


@pytest.mark.parametrize(
    ("size", "side", "grid", "message"),
    [
        (224, 224, 14, r"detector.tile=224 must be smaller than images of dataset.size=224"),
        (448, 225, 14, r"detector.tile=225 must be a multiple of detector.grid=14.*: 224 or 238 would do"),
        (450, 224, 14, r"dataset.size=450 must be a multiple of 16.*: 448 or 464 would do"),
    ],
    ids=str,
)
def test_what_cannot_be_tiled_is_refused(size: int, side: int, grid: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tiles(size, side, grid, "detector")


@pytest.fixture(scope="module", params=["mobilenet", "dino_with_registers"])
def seen(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Backbone, Backbone]:
    """A backbone that sees images of two by two tiles and a half, and one that sees a tile."""
    folder = str(getattr(tiny_backbones, request.param)(tmp_path_factory.mktemp("net") / request.param))
    layers = [1, 2]
    tiled = load_backbone(folder, 5 * TILE // 2, layers, GRID, tile=TILE)
    return tiled, load_backbone(folder, TILE, layers, GRID)


def test_a_backbone_sees_every_tile_as_an_image_of_its_own(seen: tuple[Backbone, Backbone]) -> None:
    tiled, alone = seen
    assert (tiled.grid, tiled.seen_grid, tiled.features) == (20, GRID, alone.features)
    images = torch.rand(2, 3, tiled.size, tiled.size)
    features = tiled(images)
    assert features.shape == (2, tiled.features, 20, 20)
    corner = alone(images[:, :, -TILE:, :TILE])
    assert torch.allclose(features[:, :, -3:, :3], corner[:, :, -3:, :3], atol=1e-5)
    assert torch.allclose(torch.cat([tiled(image[None]) for image in images]), features, atol=1e-5)


def test_an_encoder_is_built_again_with_its_tiles(seen: tuple[Backbone, Backbone]) -> None:
    encoder = PretrainedEncoder(seen[0], 1, 4)
    again = PretrainedEncoder.build(**json.loads(json.dumps(encoder.hyperparameters())))
    again.load_state_dict(encoder.state_dict())
    images = torch.rand(1, 1, seen[0].size, seen[0].size)
    assert again.latent_shape == (4, 20, 20)
    assert torch.equal(again.encode(images), encoder.encode(images))


def test_a_detector_of_tiled_images_has_one_score_and_one_map(tmp_path: Path, run_here: RunHere) -> None:
    tiny_backbones.mobilenet(tmp_path / "mobilenet")
    data = ["dataset=phantom", "dataset.size=64", "dataset.train=16", "dataset.valid=10", "dataset.test=8"]
    keys = ["detector.backbone=mobilenet", "detector.grid=4", "detector.tile=32", "detector.components=8"]
    small = ["device=cpu", "threads=1", "autoencoder.steps=2", "detector.steps=2", "detector.drawing.steps=2"]
    code, out, error = run_here(
        train_detector.main, "train_detector", *data, *keys, *small, "labelled.count=3", cwd=tmp_path
    )
    assert code == 0, error
    assert "at 8×8, in 9 tiles of 32 pixels" in out + error
    (run,) = (path.parent for path in tmp_path.glob("runs/phantom/detector/*/metrics.json"))
    detector = latent_env.load_detector(str(run))
    picture = np.random.default_rng(0).integers(0, 255, (70, 70), np.uint8)
    prediction = detector.predict(picture)
    assert prediction.map.shape == (64, 64)
    env = gym.make("LatentAug-v0", artifacts=str(run))
    env.reset(seed=0)
    assert np.isfinite(float(env.step(env.action_space.sample())[1]))
