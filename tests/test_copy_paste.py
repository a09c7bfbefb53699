"""Copy-paste of labelled anomalies: what an agent can make of them, and how they come to a world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import RunHere, make_world
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import train_detector
from detectors.latent_transformer import LatentTransformerDetector
from latent_common.errors import UserError
from latent_env.chunks import worlds_at_once
from latent_env.perturbations.base import CopiesAnomalies, Perturbation
from latent_env.perturbations.brush import Brush
from latent_env.perturbations.copy_paste import CopyPaste
from latent_env.perturbations.factory import make_perturbation
from latent_env.random_streams import Streams
from latent_env.settings import Settings
from latent_env.shell import ANOMALY, NORMAL, Shell
from latent_env.transition import Transition, initial_transition
from latent_env.worlds.labelled_anomalies import (
    MIRRORINGS,
    MOST,
    MOST_NUMBERS,
    LabelledAnomalies,
    load_labelled_anomalies,
    mirrored,
    save_labelled_anomalies,
)
from latent_env.worlds.store import copy_world, load_world, seal_world
from latent_env.worlds.world import World

KNOWN = 3


def copy_paste_world(whole: bool = False, mirrorings: int = 1) -> World:
    """A world with three labelled anomalies: each adds 5 to two tokens of a normal latent, or to all.

    In other mirrorings it is 5, 10 and 15 more.
    """
    world = make_world("spatial", size=64)
    marks = torch.zeros(KNOWN, 1, *world.autoencoder.latent_shape[1:], dtype=torch.bool)
    for number in range(KNOWN):
        marks[number, 0, 1:3, number] = True
    latents = world.latents[:KNOWN] + 5.0 * (torch.ones_like(marks) if whole else marks).float()
    unknown = torch.zeros_like(marks) if whole else marks
    latents = torch.stack([latents + 5.0 * turned * marks for turned in range(mirrorings)])
    return world.with_labelled_anomalies(
        LabelledAnomalies.of(latents, unknown.expand(mirrorings, -1, -1, -1, -1), world.latents)
    )


def world_with_images(whole: bool = False) -> World:
    """A world with three labelled anomalies, as pictures too: white squares, 8 pixels a side, in the corner.

    Of the last it isn't known where it is, if ``whole``.
    """
    world = make_world("spatial", size=64)
    images = world.images[:KNOWN].clone()
    images[:, :, :8, :8] = 255
    masks = torch.zeros(KNOWN, 1, 64, 64, dtype=torch.bool)
    masks[: KNOWN - whole, :, :8, :8] = True
    latents = torch.stack([world.autoencoder.encode_all(turned) for turned in mirrored(images)])
    marks = torch.nn.functional.max_pool2d(mirrored(masks).flatten(0, 1).float(), 64 // latents.shape[-1]) > 0
    if whole:
        latents, marks = latents[:1], marks[:KNOWN]
    marks = marks.unflatten(0, latents.shape[:2])
    return world.with_labelled_anomalies(LabelledAnomalies.of(latents, marks, world.latents, images, masks))


def no_streams(count: int) -> Streams:
    return Streams(count, torch.device("cpu"))


def change_of(world: World, **numbers: float) -> Tensor:
    """The change of the world's fourth latent by a full-strength copy in the middle, but for ``numbers``."""
    copy_paste = make_perturbation("copy_paste", world, None)
    return copy_paste(action_of(copy_paste, **numbers), no_streams(1), world.latents[3:4])[0]


def action_of(copy_paste: Perturbation, **numbers: float) -> Tensor:
    """The action ``(1, action_size)`` of a full-strength copy in the middle, but for ``numbers``."""
    action = torch.zeros(1, copy_paste.action_size)
    chosen = {"row": 0.0, "column": 0.0, "strength": 1.0, "share": 1.0, "example": 0.0, "surroundings": -1.0}
    chosen |= {"mirrored": -1.0} | numbers
    places = {"row": 0, "column": 1, "strength": 3}
    places |= {"share": -4, "example": -3, "surroundings": -2, "mirrored": -1}
    for name, value in chosen.items():
        action[0, places[name]] = value
    return action


def edited_transition(world: World, **numbers: float) -> Transition:
    """What becomes of the world's fourth image by such a copy."""
    dynamics = Settings(perturbation="copy_paste", horizon=2, reward={"novelty": 1.0}).dynamics(world, 1)
    dynamics.reset_tensor(seeds=torch.zeros(1, dtype=torch.int64), sources=torch.tensor([3]))
    return dynamics.imagine(action_of(dynamics.perturbation, **numbers))


def test_what_differs_is_found_and_put_where_it_is_told() -> None:
    world = copy_paste_world()
    assert world.labelled_anomalies is not None
    rows, columns = world.autoencoder.latent_shape[1:]
    for row, column in ((-1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)):
        length = change_of(world, row=row, column=column).norm(dim=0)
        expected = torch.zeros(rows, columns, dtype=torch.bool)
        top = 0 if row < 0 else rows - 2
        expected[top : top + 2, 0 if column < 0 else columns - 1] = True
        assert torch.equal(length > 1e-4, expected)
    # The nearest normal image is the one it was made of, so what differs is what was added.
    torch.testing.assert_close(change_of(world).abs().amax(), torch.tensor(5.0))
    torch.testing.assert_close(change_of(world, strength=0.0), change_of(world) / 2)
    assert not change_of(world, strength=-1.0).any()


def test_it_tells_which_anomaly_makes_up_most_of_a_change() -> None:
    copy_paste = make_perturbation("copy_paste", copy_paste_world(mirrorings=4), None)
    assert isinstance(copy_paste, CopiesAnomalies)
    asked = [(1.0, -1.0, -1.0), (1.0, 0.0, 0.9), (1.0, 1.0, 0.0), (0.1, 1.0, 0.0), (-0.1, 1.0, 0.0)]
    actions = torch.cat([action_of(copy_paste, share=s, example=e, mirrored=m) for s, e, m in asked])
    assert copy_paste.copied(actions).tolist() == [0, 1, 2, 2, -1]


def test_copied_with_its_surroundings_an_anomaly_replaces_what_was_there() -> None:
    world = copy_paste_world()
    assert world.labelled_anomalies is not None
    shown, _, marks = (part[0, 0] for part in world.labelled_anomalies[:3])
    changed = world.latents[3] + change_of(world, row=-1.0, column=-1.0, example=-1.0, surroundings=1.0)
    there = torch.stack([changed[:, 0, 0], changed[:, 1, 0]])
    place = marks[0].nonzero()
    torch.testing.assert_close(there, torch.stack([shown[:, r, c] for r, c in place]))


def test_an_anomaly_of_unknown_position_is_not_moved() -> None:
    world = copy_paste_world(whole=True)
    assert world.labelled_anomalies is not None
    assert world.labelled_anomalies.marks.all()
    torch.testing.assert_close(change_of(world, row=-1.0), change_of(world, row=1.0, column=-0.3))


def test_the_share_goes_from_local_perturbation_to_copy_paste() -> None:
    world = copy_paste_world()
    copy_paste, brush = CopyPaste(world, None), Brush(world.autoencoder, None)
    actions = torch.rand(5, copy_paste.action_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    strokes = brush.strokes(actions[:, : -CopyPaste.NUMBERS], no_streams(5))
    actions[:, -4] = -0.5
    torch.testing.assert_close(copy_paste(actions, no_streams(5), world.latents[:5]), strokes)
    actions[:, -4] = 0.5
    torch.testing.assert_close(
        copy_paste(actions, no_streams(5), world.latents[:5]), copy_paste.copies(actions, world.latents[:5])
    )
    assert not copy_paste(copy_paste.null_action[None], no_streams(1), world.latents[:1]).any()


@settings(max_examples=25)
@given(seed=st.integers(0, 1000))
def test_every_anomaly_is_drawn_about_as_often(seed: int) -> None:
    world = copy_paste_world()
    copy_paste = CopyPaste(world, None)
    drawn = torch.rand(90, copy_paste.action_size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    drawn[:, 3], drawn[:, :2] = 1.0, -1.0
    made = copy_paste.copies(drawn, world.latents[:1].expand(90, -1, -1, -1))
    assert made.isfinite().all()
    assert ((made.norm(dim=1) > 1e-6).flatten(1).sum(1) == 2).all()  # two tokens each, wherever
    assert len({tuple(each.flatten().round(decimals=3).tolist()) for each in made}) > KNOWN


def test_neighbours_are_similar() -> None:
    world = make_world("spatial", size=64)
    generator = torch.Generator().manual_seed(1)
    strengths = torch.rand(20, generator=generator) * 6 - 3
    latents = world.latents[:1] + strengths[:, None, None, None]
    unknown = torch.zeros(1, 20, 1, *latents.shape[2:], dtype=torch.bool)
    order = LabelledAnomalies.of(latents[None], unknown, world.latents).latents[0].mean((1, 2, 3))
    assert torch.equal(order.argsort(), torch.arange(20)) or torch.equal(
        order.argsort(), torch.arange(20).flip(0)
    )


def test_of_many_anomalies_some_are_kept() -> None:
    world = make_world("spatial")
    latents = world.latents[:1].expand(MOST + 50, -1, -1, -1)
    marks = torch.zeros(1, MOST + 50, 1, *latents.shape[2:], dtype=torch.bool)
    assert LabelledAnomalies.of(latents[None], marks, world.latents).latents.shape[1] == MOST
    pictures = torch.zeros(30, 3, 512, 512, dtype=torch.uint8)
    none = torch.zeros(30, 1, 512, 512, dtype=torch.bool)
    kept = LabelledAnomalies.of(latents[None, :30], marks[:, :30], world.latents, pictures, none)
    assert len(kept.images) == len(kept.masks) == kept.latents.shape[1] == MOST_NUMBERS // pictures[0].numel()
    assert kept.masks.all()


def test_without_labelled_anomalies_there_are_local_perturbations(spatial_world: World) -> None:
    with pytest.raises(UserError, match="perturbation=copy_paste needs labelled anomalies"):
        make_perturbation("copy_paste", spatial_world, None)
    assert type(make_perturbation("auto", spatial_world, None)) is Brush
    assert type(make_perturbation("auto", copy_paste_world(), None)) is CopyPaste


@pytest.mark.parametrize("turned", range(4))
def test_a_quarter_of_the_range_is_each_mirroring(turned: int) -> None:
    world = copy_paste_world(mirrorings=4)
    assert world.labelled_anomalies is not None
    change = change_of(world, mirrored=-0.75 + 0.5 * turned, surroundings=1.0, row=-1.0, column=-1.0)
    found = world.latents[3, :, 0, 0] + change[:, 0, 0]
    shown, marks = world.labelled_anomalies.latents[turned, 1], world.labelled_anomalies.marks[turned, 1, 0]
    row, column = marks.nonzero()[0].tolist()
    torch.testing.assert_close(found, shown[:, row, column])


def test_what_is_known_as_a_whole_is_not_mirrored() -> None:
    world = copy_paste_world(whole=True)
    assert torch.equal(change_of(world, mirrored=1.0), change_of(world))


@pytest.mark.parametrize(("turned", "rows", "columns"), [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1)])
def test_copy_paste_brings_the_pixels_that_are_labelled(turned: int, rows: int, columns: int) -> None:
    world = world_with_images()
    assert world.labelled_anomalies is not None
    place = {"row": 2.0 * rows - 1, "column": 2.0 * columns - 1, "mirrored": -0.75 + 0.5 * turned}
    there = edited_transition(world, **place, example=-1.0, surroundings=1.0)
    square = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    square[..., 56 * rows : 56 * rows + 8, 56 * columns : 56 * columns + 8] = True
    softly, widely = (dilated(square, by) for by in (1, 2))
    assert not (there.change.ne(0) & ~softly).any()
    assert not (there.mask & ~widely).any()
    assert there.mask[square].float().mean() > 0.5
    assert int(there.label[0]) == ANOMALY
    # What is white in the picture is as white here as its neighbours let the decoder draw it.
    drawn = there.decoded - world.autoencoder.decode(world.labelled_anomalies.latents[turned, :1])
    inside = ~dilated(~square, 1)
    shown = there.start_image + there.change
    torch.testing.assert_close(shown[inside], (1 + drawn[inside]).clamp(0, 1), atol=2e-3, rtol=0)


def dilated(mask: Tensor, by: int) -> Tensor:
    """``mask (N, 1, H, W)`` bool and the ``by`` pixels around it."""
    return torch.nn.functional.max_pool2d(mask.float(), 2 * by + 1, 1, by) > 0


def test_a_whole_picture_takes_the_place_of_another() -> None:
    world = world_with_images(whole=True)
    assert world.labelled_anomalies is not None
    place = int(world.labelled_anomalies.masks.flatten(1).all(1).nonzero())
    number = (place + 0.5) / KNOWN * 2 - 1
    world = world.with_labelled_anomalies(
        world.labelled_anomalies._replace(marks=torch.ones_like(world.labelled_anomalies.marks))
    )
    there = edited_transition(world, example=number, surroundings=1.0, mirrored=0.3)
    start, change = there.start_image, there.start_image + there.change
    torch.testing.assert_close(
        change, world.labelled_anomalies.images[place : place + 1] / 255, atol=2e-3, rtol=0
    )
    assert not torch.equal(start, there.image)


def test_what_only_its_picture_shows_is_an_anomaly_too() -> None:
    world = world_with_images()
    assert world.labelled_anomalies is not None
    nothing = world.with_labelled_anomalies(
        world.labelled_anomalies._replace(latents=world.labelled_anomalies.normal)
    )
    there = edited_transition(nothing)  # no latent shows that there is a white square
    assert float(there.distance) == 0
    assert int(there.label[0]) == ANOMALY
    assert there.mask.any()
    assert int(edited_transition(nothing, share=-1.0, strength=-1.0).label[0]) == NORMAL
    assert int(edited_transition(nothing, strength=-0.9999).label[0]) != ANOMALY


def test_what_cannot_be_seen_is_no_anomaly() -> None:
    """A dark lesion added to what is black already, and a shadow of a whole one."""
    world = world_with_images()
    assert world.labelled_anomalies is not None
    black = world.labelled_anomalies._replace(images=torch.zeros_like(world.labelled_anomalies.images))
    dark = World.build(world.autoencoder, world.detector, torch.zeros_like(world.images), world.device)
    dark = dark.with_labelled_anomalies(black._replace(latents=black.normal))
    there = edited_transition(dark)
    assert there.change.abs().max() < 1e-4
    assert not there.mask.any()
    assert int(there.label[0]) != ANOMALY
    faint = edited_transition(
        world.with_labelled_anomalies(
            world.labelled_anomalies._replace(latents=world.labelled_anomalies.normal)
        ),
        strength=-0.5,
    )
    assert float(faint.edit.genuine.max()) < 0.5  # type: ignore[union-attr]


def test_the_next_step_goes_on_with_the_edited_image() -> None:
    world = world_with_images()
    dynamics = Settings(perturbation="copy_paste", horizon=2, reward={"novelty": 1.0}).dynamics(world, 2)
    dynamics.reset_tensor(seeds=torch.arange(2))
    copy_paste = dynamics.perturbation
    actions = action_of(copy_paste, row=-1.0, column=-1.0).expand(2, -1)
    first = dynamics.step_tensor(actions).transition
    still = copy_paste.null_action.expand(2, -1).clone()
    second = dynamics.step_tensor(still).transition
    torch.testing.assert_close(second.image, first.image)
    fresh = torch.tensor([True, False])
    dynamics.reset_tensor(fresh)
    assert torch.equal(dynamics.last.image[0], dynamics.last.start_image[0])
    torch.testing.assert_close(dynamics.last.image[1], second.image[1])
    torch.testing.assert_close(second.select(torch.tensor([1])).image, second.image[1:])


def test_many_worlds_see_what_each_would_alone() -> None:
    world = world_with_images()
    settings = Settings(perturbation="copy_paste", horizon=1, reward={"boundary": 1.0})
    many = settings.dynamics(world, 150)  # more than are worked out at a time
    assert worlds_at_once(64, torch.device("cpu")) < many.num_worlds
    many.reset_tensor(seeds=torch.arange(150))
    actions = (
        torch.rand(150, many.perturbation.action_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    )
    result = many.step_tensor(actions)
    for number in (0, 149):
        one = settings.dynamics(world, 1)
        one.reset_tensor(seeds=torch.tensor([number]))
        alone = one.step_tensor(actions[number : number + 1])
        torch.testing.assert_close(alone.transition.image[0], result.transition.image[number])
        torch.testing.assert_close(alone.rewards[0], result.rewards[number], atol=1e-4, rtol=1e-4)


def test_a_gradient_reaches_the_action_through_an_edited_image() -> None:
    world = world_with_images()
    dynamics = Settings(perturbation="copy_paste", horizon=2, reward={"boundary": 1.0}).dynamics(world, 2)
    dynamics.reset_tensor(seeds=torch.arange(2))
    dynamics.step_tensor(action_of(dynamics.perturbation).expand(2, -1))
    actions = action_of(dynamics.perturbation, strength=0.2, share=0.2).repeat(2, 1).requires_grad_()
    dynamics.imagine(actions).image.sum().backward()
    assert actions.grad is not None
    assert actions.grad.isfinite().all()
    assert (actions.grad[:, [3, -4]] != 0).all()


def test_detectors_of_latents_need_no_pictures() -> None:
    world = world_with_images()
    blind = LatentTransformerDetector(world.autoencoder.latent_shape, 4, 16, 1, 2)
    copy_paste = CopyPaste(world.with_detector(blind), None)
    assert copy_paste.images is None
    before = initial_transition(world, Shell(1.0, 4.0), torch.zeros(1, dtype=torch.int64), torch.zeros(1))
    assert copy_paste.edit_image(copy_paste.null_action[None], before) is None


@pytest.mark.parametrize("make", [copy_paste_world, world_with_images])
def test_they_are_written_and_read_back(tmp_path: Path, make: Callable[[], World]) -> None:
    labelled_anomalies = make().labelled_anomalies
    assert labelled_anomalies is not None
    assert load_labelled_anomalies(tmp_path) is None
    save_labelled_anomalies(tmp_path, labelled_anomalies)
    found = load_labelled_anomalies(tmp_path)
    assert found is not None
    for name, part in labelled_anomalies._asdict().items():
        assert torch.equal(getattr(found, name), part), name
    for broken in (
        labelled_anomalies._replace(marks=labelled_anomalies.marks[:, :1]),
        labelled_anomalies._replace(images=labelled_anomalies.images.new_zeros(1, 1, 8, 8)),
        labelled_anomalies._replace(
            **{name: getattr(labelled_anomalies, name)[0] for name in ("latents", "normal", "marks")}
        ),
    ):
        save_labelled_anomalies(tmp_path, broken)
        with pytest.raises(UserError, match="holds no labelled anomalies"):
            load_labelled_anomalies(tmp_path)


def test_a_trained_world_brings_its_labelled_anomalies(tmp_path: Path, run_here: RunHere) -> None:
    import gymnasium as gym

    keys = [
        *("dataset=phantom", "dataset.size=32", "dataset.train=24", "dataset.valid=8", "dataset.test=8"),
        *("autoencoder.width=8", "autoencoder.steps=5"),
        "detector.steps=5",
        "detector.width=16",
    ]
    small = ["detector=transformer", "device=cpu", "threads=1", "detector.baselines=[]"]
    code, _, log = run_here(train_detector.main, "train_detector", *keys, *small, cwd=tmp_path)
    assert code == 0, log
    (folder,) = (tmp_path / "runs/phantom/detector").iterdir()
    env = gym.make("LatentAug-v0", artifacts=str(folder))
    _, info = env.reset(seed=0)
    assert env.action_space.shape is not None
    _, _, _, _, info = env.step(env.action_space.sample())
    assert "distance" in info
    world = load_world(str(folder), torch.device("cpu"))
    assert world.labelled_anomalies is not None
    assert env.action_space.shape[0] == CopyPaste(world, None).action_size
    copy_world(folder, tmp_path / "copied")
    again = load_world(str(tmp_path / "copied"), torch.device("cpu")).labelled_anomalies
    assert again is not None
    assert torch.equal(again.latents, world.labelled_anomalies.latents)
    assert len(again.latents) == len(MIRRORINGS)
    assert again.images.shape[2:] == (32, 32)
    save_labelled_anomalies(
        folder, again._replace(latents=again.latents[:, :, :1], normal=again.normal[:, :, :1])
    )
    seal_world(folder)
    with pytest.raises(UserError, match="is of another world"):
        load_world(str(folder), torch.device("cpu"))
