"""Local edits: strokes and pasted anomalies on an object, in pixels and in the latent."""

from __future__ import annotations

import pickle
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_world
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from torch import Tensor
from torch.nn import functional

from detectors.latent_transformer import LatentTransformerDetector
from latent_common.errors import UserError
from latent_env.chunks import worlds_at_once
from latent_env.dynamics import Dynamics
from latent_env.perturbations.anomaly_patches import AnomalyPatches, Placement, linear_map
from latent_env.perturbations.base import CopiesAnomalies
from latent_env.perturbations.copy_paste import CopyPaste
from latent_env.perturbations.factory import make_perturbation
from latent_env.perturbations.image_edit import PixelEdit
from latent_env.perturbations.local_edit import LocalEdit
from latent_env.perturbations.strokes import visible_directions
from latent_env.random_streams import Streams
from latent_env.settings import Settings
from latent_env.shell import ANOMALY
from latent_env.transition import Transition
from latent_env.worlds.labelled_anomalies import LabelledAnomalies
from latent_env.worlds.store import save_world
from latent_env.worlds.world import World

SIZE, KNOWN = 64, 3
SPOT = slice(20, 28), slice(30, 34)
"""The rows and columns of the anomaly."""


def object_images(count: int = 12) -> Tensor:
    """Squares of noise, 40 pixels a side, in front of black: ``(N, 1, H, W)`` uint8."""
    images = torch.zeros(count, 1, SIZE, SIZE, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    images[:, :, 12:52, 12:52] = torch.randint(100, 140, (count, 1, 40, 40), generator=generator).byte()
    return images


def local_world(masked: bool = True, count: int = 12) -> World:
    """A world of squares, with three labelled anomalies: one bright rectangle each, of 200, 220 and 240."""
    world, images = make_world("spatial", SIZE), object_images(count)
    world = World.build(world.autoencoder.calibrate(images), world.detector, images, world.device)
    world.autoencoder.barely_visible.fill_(0.05)
    shown, masks = images[:KNOWN].clone(), torch.zeros(KNOWN, 1, SIZE, SIZE, dtype=torch.bool)
    for number in range(KNOWN):
        shown[number, :, *SPOT] = 200 + 20 * number
    masks[:, :, *SPOT] = masked
    latents = world.autoencoder.encode_all(shown)[None]
    marks = torch.zeros(1, KNOWN, 1, *latents.shape[3:], dtype=torch.bool)
    return world.with_labelled_anomalies(LabelledAnomalies.of(latents, marks, world.latents, shown, masks))


def acting_in(world: World, num_worlds: int = 1, **settings: object) -> tuple[Dynamics, LocalEdit]:
    chosen = {"perturbation": "local_edit", "horizon": 3, "reward": {"novelty": 1.0}, **settings}
    dynamics = Settings(**chosen).dynamics(world, num_worlds)  # type: ignore[arg-type]
    dynamics.reset_tensor(seeds=torch.arange(num_worlds, device=world.device))
    assert isinstance(dynamics.perturbation, LocalEdit)
    return dynamics, dynamics.perturbation


def pasting(editor: LocalEdit, **numbers: float) -> Tensor:
    """An action ``(1, k)``: the middle anomaly as it is, in the middle of the object, but for ``numbers``."""
    names = ["row", "column", "radius", "strength", "roughness", "turn", "stretch"]
    last = ["paste", "anomaly", "replace", "mirrored", "roam"]
    usual = {"strength": 1 / 3, "paste": 1.0, "replace": -1.0, "mirrored": -1.0, "roam": 1.0}
    action = torch.zeros(1, editor.action_size)
    for name, value in (usual | numbers).items():
        action[0, names.index(name) if name in names else last.index(name) - len(last)] = value
    return action


def stroke(editor: LocalEdit, **numbers: float) -> Tensor:
    """A strong bright stroke ``(1, k)`` in the middle of the object, but for ``numbers``."""
    action = pasting(editor, **{"strength": 1.0, "paste": -1.0, "radius": 0.0, "roughness": -1.0} | numbers)
    action[0, 7] = 1.0
    return action


def middle_of(mask: Tensor) -> list[float]:
    """Row and column of the mean of all set pixels of ``mask (1, 1, H, W)``."""
    where: list[float] = mask[0, 0].nonzero().float().mean(0).tolist()
    return where


@settings(max_examples=15)
@given(row=st.floats(-0.6, 0.6), column=st.floats(-0.6, 0.6), turn=st.floats(-1, 1))
def test_a_paste_lands_where_the_action_says(row: float, column: float, turn: float) -> None:
    dynamics, editor = acting_in(WORLD)
    step = dynamics.imagine(pasting(editor, row=row, column=column, turn=turn))
    assert int(step.label[0]) == ANOMALY
    found = middle_of(step.mask)
    # The square's places go from 12 to 51.
    expected = [31.5 + 20 * row, 31.5 + 20 * column]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1.5, rtol=0)


def test_it_tells_which_anomaly_was_pasted() -> None:
    _, editor = acting_in(WORLD)
    assert isinstance(editor, CopiesAnomalies)
    asked = [*(pasting(editor, anomaly=anomaly) for anomaly in (-1.0, 0.0, 1.0)), stroke(editor)]
    assert editor.copied(torch.cat(asked)).tolist() == [0, 1, 2, -1]
    plain = WORLD.with_labelled_anomalies(None)
    without = acting_in(plain)[1]
    assert without.copied(torch.zeros(2, without.action_size)).tolist() == [-1, -1]


def test_an_anomaly_stays_where_it_is_unless_it_roams() -> None:
    dynamics, editor = acting_in(WORLD)
    for numbers, expected in (
        ({}, (23.5, 31.5)),
        ({"mirrored": 1.0}, (23.5, 31.5)),
        ({"turn": 1.0}, (39.5, 31.5)),
        ({"turn": 0.5}, (31.5, 23.5)),
    ):
        step = dynamics.imagine(pasting(editor, roam=-1.0, row=0.9, column=0.9, **numbers))
        torch.testing.assert_close(
            torch.tensor(middle_of(step.mask)), torch.tensor(expected), atol=0.6, rtol=0
        )


def test_the_exact_copy_of_an_anomaly_is_what_was_labelled() -> None:
    world = WORLD
    dynamics, editor = acting_in(world)
    dynamics.reset_tensor(seeds=torch.zeros(1, dtype=torch.int64), sources=torch.tensor([5]))
    step = dynamics.imagine(pasting(editor, roam=-1.0, replace=1.0))
    assert world.labelled_anomalies is not None
    copied = step.image[0, :, *SPOT]
    shades = [float((copied - each[:, *SPOT] / 255).abs().max()) for each in world.labelled_anomalies.images]
    assert min(shades) < 1e-4
    far = torch.ones(SIZE, SIZE, dtype=torch.bool)
    far[SPOT[0].start - 3 : SPOT[0].stop + 3, SPOT[1].start - 3 : SPOT[1].stop + 3] = False
    assert torch.equal(step.image[0, :, far], step.start_image[0, :, far])


def placed(patches: AnomalyPatches, turn: float, mirrored: bool, scale: float, middle: float) -> Tensor:
    linear = linear_map(torch.tensor([turn]), torch.tensor([mirrored]), torch.tensor([scale]))
    placement = Placement(torch.tensor([0]), torch.full((1, 2), middle), linear)
    return torch.cat(patches.placed(placement), 1)[0]


def random_patches(size: int = 16) -> AnomalyPatches:
    """A picture of noise with a mask in its middle."""
    images = torch.randint(0, 256, (1, 1, size, size), dtype=torch.uint8)
    masks = torch.zeros(1, 1, size, size, dtype=torch.bool)
    masks[..., 4:12, 4:12] = True
    return AnomalyPatches(images, masks, images, torch.zeros(()))


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_and_mirrored_ones_are_what_torch_gives(quarters: int, mirrored: bool) -> None:
    patches = random_patches()
    found = placed(patches, quarters * torch.pi / 2, mirrored, 1.0, 7.5)
    pictures = torch.cat([patches.shown, patches.normal, patches.mattes], 1)[0]
    expected = pictures.flip(2) if mirrored else pictures
    torch.testing.assert_close(found, expected.rot90(quarters, (1, 2)), atol=1e-4, rtol=0)


def test_scaled_ones_are_what_torch_interpolates() -> None:
    patches = random_patches()
    found = placed(patches, 0.0, False, 2.0, 7.5)[:2]
    pictures = torch.cat([patches.shown, patches.normal], 1)
    expected = functional.interpolate(pictures, scale_factor=2, mode="bicubic", align_corners=False)
    torch.testing.assert_close(found, expected[0, :, 8:24, 8:24], atol=1e-4, rtol=0)


@pytest.mark.parametrize("blending", ["soft", "poisson"])
def test_strength_scales_what_is_added(blending: str) -> None:
    dynamics, editor = acting_in(WORLD, blending=blending)
    half, full = (
        dynamics.imagine(pasting(editor, strength=strength)).change for strength in (-2 / 3, -1 / 3)
    )
    torch.testing.assert_close(2 * half, full, atol=1e-5, rtol=0)
    assert float(full.max()) > 0.1


def test_poisson_blending_leaves_no_seam_where_brightness_differs() -> None:
    """On a darker image, what is pasted to replace it brings its own brightness along, or doesn't."""
    dark = WORLD.images // 2
    world = World.build(WORLD.autoencoder, WORLD.detector, dark, WORLD.device)
    assert WORLD.labelled_anomalies is not None
    masks = torch.zeros_like(WORLD.labelled_anomalies.masks)
    masks[:, :, 16:40, 16:48] = True  # a generous mask: most of it shows what is normal
    world = world.with_labelled_anomalies(WORLD.labelled_anomalies._replace(masks=masks))
    steps = {}
    for blending in ("soft", "poisson"):
        dynamics, editor = acting_in(world, blending=blending)
        steps[blending] = dynamics.imagine(pasting(editor, roam=-1.0, replace=1.0)).change[0, 0].abs()
    edge = steps["soft"][17:19, 20:44], steps["poisson"][17:19, 20:44]
    assert float(edge[0].mean()) > 2 * float(edge[1].mean())
    assert float(steps["poisson"][SPOT].mean()) > 0.1


def test_nothing_beyond_the_object_changes_unless_it_may() -> None:
    world = WORLD
    background = torch.ones(SIZE, SIZE, dtype=torch.bool)
    background[9:55, 9:55] = False
    actions = torch.rand(64, LocalEdit(world, None).action_size, generator=torch.Generator().manual_seed(0))
    for place, blending in (("object", "soft"), ("object", "poisson"), ("anywhere", "soft")):
        dynamics, _ = acting_in(world, 64, place=place, blending=blending)
        step = dynamics.imagine(2 * actions - 1)
        beyond = step.image[:, 0, background] != step.start_image[:, 0, background]
        assert bool(beyond.any()) == (place == "anywhere")
        assert (step.label == ANOMALY).float().mean() > 0.2


def test_what_does_not_show_is_no_anomaly() -> None:
    dynamics, editor = acting_in(WORLD)
    assert int(dynamics.imagine(pasting(editor)).label[0]) == ANOMALY
    assert int(dynamics.imagine(pasting(editor, strength=-1.0)).label[0]) != ANOMALY
    assert int(dynamics.imagine(pasting(editor, strength=-0.99)).label[0]) != ANOMALY
    # The same anomaly, pasted onto itself, changes nothing.
    assert WORLD.labelled_anomalies is not None
    own = World.build(
        WORLD.autoencoder, WORLD.detector, WORLD.labelled_anomalies.images[:1], WORLD.device
    ).with_labelled_anomalies(
        LabelledAnomalies(*(part[:1] if part.ndim == 4 else part[:, :1] for part in WORLD.labelled_anomalies))
    )
    dynamics, editor = acting_in(own)
    step = dynamics.imagine(pasting(editor, roam=-1.0, replace=1.0))
    assert not step.mask.any()
    assert int(step.label[0]) != ANOMALY


def test_the_latent_after_a_paste_is_that_of_the_image() -> None:
    dynamics, editor = acting_in(WORLD, shell_ratio=1e3, observation="latent")
    step = dynamics.step_tensor(pasting(editor, replace=1.0)).transition
    torch.testing.assert_close(
        step.latent, WORLD.autoencoder.encode(step.start_image + step.change), atol=1e-3, rtol=1e-3
    )
    observed = dynamics.observe()[0]
    torch.testing.assert_close(observed, step.latent[0].flatten())


def test_steps_add_up_and_the_null_action_changes_nothing() -> None:
    dynamics, editor = acting_in(WORLD, 2)
    nothing = editor.null_action.expand(2, -1)
    assert torch.equal(dynamics.imagine(nothing).image, dynamics.last.start_image)
    for action in (pasting(editor, row=-0.5), stroke(editor, row=0.5)):
        step = dynamics.step_tensor(action.expand(2, -1)).transition
        still = dynamics.imagine(nothing)
        torch.testing.assert_close(still.image, step.image, atol=1e-5, rtol=0)
        torch.testing.assert_close(still.latent, step.latent)
    changed = (step.image - step.start_image).abs()[0, 0]
    assert float(changed[12:28].max()) > 0.2  # what was pasted first is still there
    fresh = torch.tensor([True, False])
    dynamics.reset_tensor(fresh)
    assert torch.equal(dynamics.last.image[0], dynamics.last.start_image[0])
    torch.testing.assert_close(dynamics.last.image[1], step.image[1], atol=1e-5, rtol=0)


def test_strokes_stay_around_their_place() -> None:
    dynamics, editor = acting_in(WORLD)
    step = dynamics.imagine(stroke(editor, radius=-1.0, stretch=-1.0, row=-0.5, column=0.5))
    tokens = step.delta.norm(dim=1)[0]
    row, column = divmod(int(tokens.argmax()), tokens.shape[1])
    assert abs((row + 0.5) * SIZE / len(tokens) - 22) <= 4
    assert abs((column + 0.5) * SIZE / len(tokens) - 42) <= 4
    assert not step.change[0, :, 40:].any()
    assert not step.change[0, :, :, :20].any()
    long = dynamics.imagine(stroke(editor, radius=-0.5, stretch=1.0, turn=0.5)).delta.norm(dim=1)[0]
    mass = (long > long.max() / 4).nonzero()
    assert int(mass[:, 1].max() - mass[:, 1].min()) > int(mass[:, 0].max() - mass[:, 0].min())
    assert float(dynamics.imagine(stroke(editor, strength=-1.0)).delta.abs().max()) == 0


def test_directions_are_those_that_brightness_and_colours_vary_with() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(30, 5, 4, 4, generator=generator)
    images = torch.full((30, 3, 16, 16), 0.5)
    spread = functional.interpolate(latents, scale_factor=4)
    images = images + 0.05 * spread[:, :1]  # the first number is brightness, the second red against blue
    images[:, 0] += 0.05 * spread[:, 1]
    images[:, 2] -= 0.05 * spread[:, 1]
    noise = torch.randn(30, 1, 16, 16, generator=generator)
    images = images + 0.02 * noise * (spread[:, 3:4] / 2).exp()  # the fourth is texture
    found = visible_directions(images, latents)
    leading = found.abs().argmax(1).tolist()
    assert [leading[0], leading[1], leading[3]] == [0, 1, 3]
    assert found[0, 0] == pytest.approx(0.5 / 0.05, rel=0.1)


@pytest.mark.parametrize("blending", ["soft", "poisson"])
def test_many_worlds_see_what_each_would_alone(blending: str) -> None:
    chosen = {"horizon": 2, "reward": {"boundary": 1.0}, "blending": blending}
    many, editor = acting_in(WORLD, 90, **chosen)  # more than are worked out at a time
    assert worlds_at_once(SIZE, torch.device("cpu")) < many.num_worlds
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(2, 90, editor.action_size, generator=generator) * 2 - 1
    results = [many.step_tensor(each) for each in actions]
    for number in (0, 1, 2, 89):
        one, _ = acting_in(WORLD, 1, **chosen)
        one.reset_tensor(seeds=torch.tensor([number]))
        for action, result in zip(actions, results, strict=True):
            alone = one.step_tensor(action[number : number + 1])
            torch.testing.assert_close(
                alone.transition.image[0], result.transition.image[number], atol=1e-4, rtol=0
            )
            torch.testing.assert_close(alone.rewards[0], result.rewards[number], atol=1e-3, rtol=1e-3)


def test_a_gradient_reaches_the_action() -> None:
    dynamics, editor = acting_in(WORLD, 2, reward={"boundary": 1.0})
    dynamics.step_tensor(pasting(editor).expand(2, -1))
    actions = torch.cat([pasting(editor, row=0.3, turn=0.2), stroke(editor, strength=0.2)]).requires_grad_()
    dynamics.imagine(actions).image.sum().backward()
    assert actions.grad is not None
    assert actions.grad.isfinite().all()
    assert (actions.grad[0, [0, 1, 3, 5]] != 0).all()
    assert actions.grad[1, 3] != 0


def test_a_whole_image_is_pasted_as_it_is() -> None:
    world = local_world(masked=False)
    dynamics, editor = acting_in(world, place="anywhere")
    step: Transition = dynamics.imagine(pasting(editor, turn=0.3, stretch=1.0, row=0.9, replace=1.0))
    assert world.labelled_anomalies is not None
    errors = (world.labelled_anomalies.images / 255 - step.start_image - step.change).abs().flatten(1).amax(1)
    assert float(errors.min()) < 1e-4


def test_without_labelled_anomalies_there_are_strokes_only() -> None:
    world = WORLD.with_labelled_anomalies(None)
    dynamics, editor = acting_in(world, horizon=1)
    assert editor.action_size == LocalEdit(WORLD, None).action_size - LocalEdit.NUMBERS
    assert editor.action_size <= 32
    step = dynamics.imagine(torch.ones(1, editor.action_size))
    assert not torch.equal(step.image, step.start_image)


def test_generators_get_it_by_themselves() -> None:
    assert type(make_perturbation("auto", WORLD, None)) is CopyPaste
    world = local_world()
    world.autoencoder.model.is_generator = True
    assert type(make_perturbation("auto", world, None)) is LocalEdit
    latents = LatentTransformerDetector(world.autoencoder.latent_shape, 4, 16, 1, 2)
    assert type(make_perturbation("auto", world.with_detector(latents), None)) is CopyPaste
    with pytest.raises(UserError, match="local_edit edits images"):
        make_perturbation("local_edit", world.with_detector(latents), None)


def test_what_does_not_fit_is_refused(flat_world: World) -> None:
    with pytest.raises(UserError, match="local_edit needs a spatial latent"):
        make_perturbation("local_edit", flat_world, None)
    with pytest.raises(UserError, match="blending=poisson is for perturbation=local_edit"):
        make_perturbation("brush", WORLD, None, blending="poisson")
    with pytest.raises(UserError, match="place='here' must be one of object, anywhere"):
        Settings(place="here")
    with pytest.raises(UserError, match="blending=3 must be one of soft, poisson"):
        Settings(blending=3)  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(Settings(place="anywhere"))) == Settings(place="anywhere")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("blending", ["soft", "poisson"])
def test_gymnasiums_and_sb3s_checkers_pass(tmp_path: Path, blending: str) -> None:
    save_world(tmp_path, WORLD)
    chosen = {"perturbation": "local_edit", "horizon": 2, "reward": {"boundary": 1.0}, "blending": blending}
    env = gym.make("LatentAug-v0", artifacts=str(tmp_path), disable_env_checker=True, **chosen)  # type: ignore[arg-type]
    check_env(env.unwrapped, skip_render_check=True)
    check_env_sb3(env.unwrapped, warn=True)
    assert env.action_space.shape == (LocalEdit(WORLD, None).action_size,)
    assert env.spec is not None
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    actions = [env.action_space.sample() for _ in range(2)]
    for each in (env, again):
        each.reset(seed=3)
    for action in actions:
        one, other = env.step(action), again.step(action)
        assert one[1] == other[1]
    batch = gym.make_vec("LatentAug-v0", num_envs=3, artifacts=str(tmp_path), device="cpu", **chosen)  # type: ignore[arg-type]
    batch.reset(seed=0)
    for _ in range(4):
        observations, rewards, *_ = batch.step(batch.action_space.sample())
        assert batch.observation_space.contains(observations)
        assert np.isfinite(rewards).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("blending", ["soft", "poisson"])
def test_steps_on_a_gpu_are_those_of_the_cpu(blending: str) -> None:
    cuda = torch.device("cuda")
    there = World.build(local_world().autoencoder, local_world().detector, WORLD.images, cuda)
    here, editor = acting_in(WORLD, 12, blending=blending)
    other, _ = acting_in(there.with_labelled_anomalies(WORLD.labelled_anomalies), 12, blending=blending)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        actions = torch.rand(12, editor.action_size, generator=generator) * 2 - 1
        one, two = here.step_tensor(actions).transition, other.step_tensor(actions.to(cuda)).transition
        torch.testing.assert_close(two.image.cpu(), one.image, atol=1e-2, rtol=0)


def test_called_by_itself_it_draws_its_strokes() -> None:
    editor, streams = LocalEdit(WORLD, 2.0), Streams(1, torch.device("cpu"))
    delta = editor(stroke(editor, row=1.0), streams, WORLD.latents[:1])
    assert 0 < float(delta.norm(dim=1).max()) <= 2.0001
    assert int(delta.norm(dim=1)[0].amax(1).argmax()) == WORLD.autoencoder.latent_shape[1] - 1


WORLD = local_world()


@pytest.mark.parametrize("edits", ["strokes", "pastes"])
def test_one_kind_of_edits_alone(edits: str) -> None:
    dynamics, editor = acting_in(WORLD, 2, edits=edits)
    actions = torch.cat([pasting(editor), stroke(editor)])
    assert (editor.copied(actions) >= 0).tolist() == [edits == "pastes"] * 2
    step = dynamics.imagine(actions)
    assert isinstance(step.edit, PixelEdit)
    assert step.edit.drawn.flatten().tolist() == [edits == "strokes"] * 2
    assert bool(step.edit.genuine.flatten(1).any(1).all()) == (edits == "pastes")


def test_pastes_may_be_seen_as_they_are_decoded() -> None:
    dynamics, editor = acting_in(WORLD, blending="decoded")
    step = dynamics.imagine(pasting(editor, replace=1.0))
    decoded = step.decoded - step.start_decoded
    expected = (step.start_image + decoded).clamp(0, 1) - step.start_image
    inside = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool)
    inside[:, :, 30:33, 31:34] = True
    torch.testing.assert_close(step.change[inside], expected[inside])
    assert not step.change[:, :, :8].any()  # far from what was pasted
    as_it_is = acting_in(WORLD)[0].imagine(pasting(editor, replace=1.0))
    assert torch.equal(step.latent, as_it_is.latent)
    assert not torch.equal(step.change, as_it_is.change)


def test_pastes_alone_need_anomalies() -> None:
    with pytest.raises(UserError, match="edits=pastes needs labelled anomalies"):
        acting_in(WORLD.with_labelled_anomalies(None), edits="pastes")
