"""Grafts of labelled anomalies: what an agent can make of them, and how they come to a world."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import RunHere, make_world
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import train_detector
from detectors.errors import UserError
from latent_env.examples import MOST, Examples, load_examples, save_examples
from latent_env.grafts import Graft
from latent_env.perturbations import Brush, make_perturbation
from latent_env.streams import Streams
from latent_env.worlds import World, copy_world, load_world

KNOWN = 3


def grafted_world(whole: bool = False) -> World:
    """A world with three labelled anomalies: each adds 5 to two tokens of a normal latent, or to all."""
    world = make_world("spatial", size=64)
    marks = torch.zeros(KNOWN, 1, *world.autoencoder.latent_shape[1:], dtype=torch.bool)
    for number in range(KNOWN):
        marks[number, 0, 1:3, number] = True
    latents = world.latents[:KNOWN] + 5.0 * (torch.ones_like(marks) if whole else marks).float()
    unknown = torch.zeros_like(marks) if whole else marks
    return world.with_examples(Examples.of(latents, unknown, world.latents))


def no_streams(count: int) -> Streams:
    return Streams(count, torch.device("cpu"))


def acted(world: World, **numbers: float) -> Tensor:
    """The change of the world's fourth latent by a full-strength graft in the middle, but for ``numbers``."""
    graft = make_perturbation("graft", world, None)
    action = torch.zeros(1, graft.action_size)
    chosen = {"row": 0.0, "column": 0.0, "strength": 1.0, "share": 1.0, "example": 0.0, "surroundings": -1.0}
    chosen |= numbers
    places = {"row": 0, "column": 1, "strength": 3, "share": -3, "example": -2, "surroundings": -1}
    for name, value in chosen.items():
        action[0, places[name]] = value
    return graft(action, no_streams(1), world.latents[3:4])[0]


def test_what_differs_is_found_and_put_where_it_is_told() -> None:
    world = grafted_world()
    assert world.examples is not None
    rows, columns = world.autoencoder.latent_shape[1:]
    for row, column in ((-1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)):
        length = acted(world, row=row, column=column).norm(dim=0)
        expected = torch.zeros(rows, columns, dtype=torch.bool)
        top = 0 if row < 0 else rows - 2
        expected[top : top + 2, 0 if column < 0 else columns - 1] = True
        assert torch.equal(length > 1e-4, expected)
    # The nearest normal image is the one it was made of, so what differs is what was added.
    torch.testing.assert_close(acted(world).abs().amax(), torch.tensor(5.0))
    torch.testing.assert_close(acted(world, strength=0.0), acted(world) / 2)
    assert not acted(world, strength=-1.0).any()


def test_with_its_surroundings_a_graft_replaces_what_was_there() -> None:
    world = grafted_world()
    assert world.examples is not None
    shown, _, marks = (part[0] for part in world.examples)
    changed = world.latents[3] + acted(world, row=-1.0, column=-1.0, example=-1.0, surroundings=1.0)
    there = torch.stack([changed[:, 0, 0], changed[:, 1, 0]])
    place = marks[0].nonzero()
    torch.testing.assert_close(there, torch.stack([shown[:, r, c] for r, c in place]))


def test_an_anomaly_of_unknown_place_stays_where_it_is() -> None:
    world = grafted_world(whole=True)
    assert world.examples is not None
    assert world.examples.marks.all()
    torch.testing.assert_close(acted(world, row=-1.0), acted(world, row=1.0, column=-0.3))


def test_the_share_goes_from_stroke_to_graft() -> None:
    world = grafted_world()
    graft, brush = Graft(world, None), Brush(world.autoencoder, None)
    actions = torch.rand(5, graft.action_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    strokes = brush.strokes(actions[:, : -Graft.OWN], no_streams(5))
    actions[:, -3] = -0.5
    torch.testing.assert_close(graft(actions, no_streams(5), world.latents[:5]), strokes)
    actions[:, -3] = 0.5
    torch.testing.assert_close(
        graft(actions, no_streams(5), world.latents[:5]), graft.grafts(actions, world.latents[:5])
    )
    assert not graft(graft.null_action[None], no_streams(1), world.latents[:1]).any()


@settings(max_examples=25)
@given(seed=st.integers(0, 1000))
def test_every_anomaly_is_drawn_about_as_often(seed: int) -> None:
    world = grafted_world()
    graft = Graft(world, None)
    drawn = torch.rand(90, graft.action_size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    drawn[:, 3], drawn[:, :2] = 1.0, -1.0
    made = graft.grafts(drawn, world.latents[:1].expand(90, -1, -1, -1))
    assert made.isfinite().all()
    assert ((made.norm(dim=1) > 1e-6).flatten(1).sum(1) == 2).all()  # two tokens each, wherever
    assert len({tuple(each.flatten().round(decimals=3).tolist()) for each in made}) > KNOWN


def test_neighbours_are_alike() -> None:
    world = make_world("spatial", size=64)
    generator = torch.Generator().manual_seed(1)
    strengths = torch.rand(20, generator=generator) * 6 - 3
    latents = world.latents[:1] + strengths[:, None, None, None]
    found = Examples.of(latents, torch.zeros(20, 1, *latents.shape[2:], dtype=torch.bool), world.latents)
    order = found.latents.mean((1, 2, 3))
    assert torch.equal(order.argsort(), torch.arange(20)) or torch.equal(
        order.argsort(), torch.arange(20).flip(0)
    )


def test_of_many_anomalies_some_are_kept() -> None:
    world = make_world("spatial")
    latents = world.latents[:1].expand(MOST + 50, -1, -1, -1)
    marks = torch.zeros(MOST + 50, 1, *latents.shape[2:], dtype=torch.bool)
    assert len(Examples.of(latents, marks, world.latents).latents) == MOST


def test_without_labelled_anomalies_there_are_strokes(spatial_world: World) -> None:
    with pytest.raises(UserError, match="perturbation=graft needs labelled anomalies"):
        make_perturbation("graft", spatial_world, None)
    assert type(make_perturbation("auto", spatial_world, None)) is Brush
    assert type(make_perturbation("auto", grafted_world(), None)) is Graft


def test_they_are_written_and_read_back(tmp_path: Path) -> None:
    examples = grafted_world().examples
    assert examples is not None
    assert load_examples(tmp_path) is None
    save_examples(tmp_path, examples)
    found = load_examples(tmp_path)
    assert found is not None
    assert torch.equal(found.marks, examples.marks)
    torch.testing.assert_close(found.latents, examples.latents, atol=0.01, rtol=0.01)
    save_examples(tmp_path, examples._replace(marks=examples.marks[:1]))
    with pytest.raises(UserError, match="holds no labelled anomalies"):
        load_examples(tmp_path)


def test_a_trained_world_brings_its_labelled_anomalies(tmp_path: Path, run_here: RunHere) -> None:
    import gymnasium as gym

    keys = [
        "dataset=phantom",
        "autoencoder.steps=5",
        "detector.steps=5",
        "detector.width=16",
    ]
    small = ["detector.depth=1", "detector.heads=2", "device=cpu", "threads=1", "detector.rivals=[]"]
    code, _, said = run_here(train_detector.main, "train_detector", *keys, *small, cwd=tmp_path)
    assert code == 0, said
    (folder,) = (tmp_path / "runs/phantom/detector").iterdir()
    env = gym.make("LatentAug-v0", artifacts=str(folder))
    _, info = env.reset(seed=0)
    assert env.action_space.shape is not None
    _, _, _, _, info = env.step(env.action_space.sample())
    assert "distance" in info
    world = load_world(str(folder), torch.device("cpu"))
    assert world.examples is not None
    assert env.action_space.shape[0] == Graft(world, None).action_size
    copy_world(folder, tmp_path / "copied")
    again = load_world(str(tmp_path / "copied"), torch.device("cpu")).examples
    assert again is not None
    assert torch.equal(again.latents, world.examples.latents)
    save_examples(folder, Examples(again.latents[:, :1], again.normal[:, :1], again.marks))
    with pytest.raises(UserError, match="is of another world"):
        load_world(str(folder), torch.device("cpu"))
