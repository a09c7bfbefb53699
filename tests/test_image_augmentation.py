from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import make_world
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_latents import seeded
from torch import Tensor, nn

from detectors.synthetic.image_synthesis import ImageSynthesis
from detectors.training.batches import DECODED, BatchSampler
from detectors.training.loop import score, train_detector
from detectors.training.samples import Samples, SampleSource, make_mixture
from detectors.transformer import TransformerDetector
from latent_common.errors import UserError
from latent_common.image_source import ImageSource, evenly_spaced
from latent_common.training_state import TrainingState
from latent_env.autoencoders import ConvAutoencoder
from latent_env.autoencoders.training import train_autoencoder
from latent_env.data import placement as residence
from latent_env.data.augmentation import Augmentation
from latent_env.data.placement import StreamedImages, place_images

CPU = torch.device("cpu")
ALL = Augmentation(True, True, shift=0.1, rotation=20, brightness=0.3)


def noise(count: int, channels: int = 1, size: int = 16, seed: int = 9) -> Tensor:
    return torch.rand(count, channels, size, size, generator=seeded(seed))


def spots(count: int, row: int, column: int, size: int = 33) -> Tensor:
    """Black images with one soft spot."""
    axis = torch.arange(size)
    far = (axis[:, None] - row).square() + (axis - column).square()
    return torch.exp(-far / 4).expand(count, 1, size, size)


def centres(images: Tensor) -> Tensor:
    """The row and column of every image's centre of brightness, ``(B, 2)``."""
    weight = images[:, 0] / images.sum((1, 2, 3))[:, None, None]
    axis = torch.arange(images.shape[2])
    return torch.stack([(weight.sum(2) * axis).sum(1), (weight.sum(1) * axis).sum(1)], 1)


def unchanged(images: Tensor, given: Tensor) -> Tensor:
    return (images == given).flatten(1).all(1)


# --- augmentation ---


def test_nothing_asked_for_changes_nothing() -> None:
    images, masks, generator = noise(4), noise(4), seeded()
    changed, moved = Augmentation().with_masks(images, generator, masks)
    assert changed is images
    assert moved is masks
    assert Augmentation()(images, generator) is images
    assert torch.equal(generator.get_state(), seeded().get_state())
    assert not Augmentation()


@pytest.mark.parametrize("name", [field.name for field in fields(Augmentation)])
def test_each_change_counts_and_works_alone(name: str) -> None:
    augment = Augmentation(**{name: 0.3})  # type: ignore[arg-type]
    assert augment
    images = noise(64)
    assert not torch.equal(augment(images, seeded()), images)


@given(st.booleans(), st.booleans(), st.integers(0, 2**31), st.sampled_from([1, 3]))
def test_flips_are_exact_and_only_those_asked_for(
    horizontal: bool, vertical: bool, seed: int, channels: int
) -> None:
    images = noise(64, channels, size=8)
    augment = Augmentation(flip_horizontal=horizontal, flip_vertical=vertical)
    changed, masks = augment.with_masks(images, seeded(seed), images[:, :1])
    allowed = [images]
    allowed += [images.flip(3)] if horizontal else []
    allowed += [images.flip(2)] if vertical else []
    allowed += [images.flip(2, 3)] if horizontal and vertical else []
    matches = torch.stack([unchanged(changed, one) for one in allowed])
    assert matches.any(0).all()
    assert (matches.sum(1) > 0).all()  # each of them now and then
    assert torch.equal(masks, changed[:, :1])


def test_a_flip_happens_half_of_the_time() -> None:
    images = noise(1000, size=8)
    for augment in (Augmentation(flip_horizontal=True), Augmentation(flip_vertical=True)):
        assert 430 < unchanged(augment(images, seeded()), images).sum() < 570


@pytest.mark.parametrize("augment", [Augmentation(shift=0.2), Augmentation(rotation=30)], ids=str)
def test_half_of_the_images_are_not_resampled(augment: Augmentation) -> None:
    images = noise(1000, size=8)
    changed, masks = augment.with_masks(images, seeded(), images)
    same = unchanged(changed, images)
    assert 430 < same.sum() < 570
    assert torch.equal(masks[same], images[same])


@pytest.mark.parametrize("channels", [1, 3])
def test_masks_move_with_their_images(channels: int) -> None:
    masks = (noise(200, size=4) > 0.5).float().repeat_interleave(8, 2).repeat_interleave(8, 3)
    augment = Augmentation(True, True, shift=0.2, rotation=40)
    images, moved = augment.with_masks(masks.expand(-1, channels, -1, -1), seeded(), masks)
    assert images.shape == (200, channels, 32, 32)
    assert moved.shape == masks.shape
    assert set(moved.unique().tolist()) == {0.0, 1.0}
    # Of the four pixels that a new one is mixed from, the nearest has at least a quarter of the weight.
    bright, dark = (images > 0.76).all(1, keepdim=True), (images < 0.24).all(1, keepdim=True)
    assert (moved[bright] == 1).all()
    assert (moved[dark] == 0).all()
    assert (bright | dark).float().mean() > 0.85
    assert (~unchanged(moved, masks)).sum() > 100


def test_images_are_changed_the_same_with_and_without_masks() -> None:
    images = noise(40, 3)
    changed, _ = ALL.with_masks(images, seeded(3), images[:, :1])
    assert torch.equal(ALL(images, seeded(3)), changed)


@given(st.integers(0, 2**31), st.sampled_from([1, 3]), st.floats(0, 1))
def test_values_stay_in_range(seed: int, channels: int, brightness: float) -> None:
    augment = Augmentation(True, True, shift=0.5, rotation=180, brightness=brightness)
    images = augment(noise(16, channels, seed=seed), seeded(seed))
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1


def test_the_seed_decides() -> None:
    images = noise(20)
    assert torch.equal(ALL(images, seeded(1)), ALL(images, seeded(1)))
    assert not torch.equal(ALL(images, seeded(1)), ALL(images, seeded(2)))
    generator = seeded(1)
    assert not torch.equal(ALL(images, generator), ALL(images, generator))


def test_given_images_are_not_written_to() -> None:
    images, masks = noise(20), (noise(20) > 0.5).float()
    kept = images.clone(), masks.clone()
    ALL.with_masks(images, seeded(), masks)
    assert torch.equal(images, kept[0])
    assert torch.equal(masks, kept[1])


def test_colours_move_together() -> None:
    grey = noise(30)
    colour = ALL(grey.expand(-1, 3, -1, -1), seeded(5))
    assert torch.equal(colour, ALL(grey, seeded(5)).expand(-1, 3, -1, -1))


def test_shifts_go_every_way_and_not_too_far() -> None:
    given = spots(400, 16, 16)
    moved = centres(Augmentation(shift=0.2)(given, seeded())) - 16
    assert moved.abs().max() <= 0.2 * 33 + 0.1
    for way in moved.unbind(1):
        assert way.min() < -5.5
        assert way.max() > 5.5
    assert abs(float(torch.corrcoef(moved.T)[0, 1])) < 0.2


def test_rotations_go_both_ways_and_not_too_far() -> None:
    rows, columns = (centres(Augmentation(rotation=30)(spots(400, 16, 26), seeded())) - 16).unbind(1)
    angles = torch.atan2(rows, columns).rad2deg()
    assert angles.abs().max() <= 30.5
    assert angles.min() < -25
    assert angles.max() > 25
    assert torch.allclose(rows.hypot(columns), torch.tensor(10.0), atol=0.3)


def test_no_black_comes_into_view() -> None:
    even = torch.full((50, 1, 16, 16), 0.7)
    moved = Augmentation(shift=0.5, rotation=180)(even, seeded())
    assert torch.allclose(moved, even, atol=1e-5)


def test_brightness_scales_images_but_not_masks() -> None:
    images, masks = noise(200), (noise(200, seed=1) > 0.5).float()
    changed, kept = Augmentation(brightness=0.25).with_masks(images, seeded(), masks)
    assert torch.equal(kept, masks)
    gains = changed.amin((1, 2, 3)) / images.amin((1, 2, 3))  # the darkest pixel is never clipped
    assert gains.min() == pytest.approx(0.75, abs=0.02)
    assert gains.max() == pytest.approx(1.25, abs=0.02)
    assert torch.allclose(changed, (images * gains[:, None, None, None]).clamp(max=1), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shift": -0.1}, "augment.shift=-0.1 must lie from 0 to 0.5"),
        ({"shift": 0.51}, "augment.shift=0.51"),
        ({"shift": float("nan")}, "augment.shift=nan"),
        ({"rotation": 181.0}, "augment.rotation=181.0 must lie from 0 to 180"),
        ({"rotation": float("inf")}, "augment.rotation=inf"),
        ({"brightness": 1.5}, "augment.brightness=1.5 must lie from 0 to 1"),
        ({"brightness": -1.0}, "augment.brightness=-1.0"),
    ],
)
def test_impossible_values_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Augmentation(**arguments)  # type: ignore[arg-type]


# --- where images are ---


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.uint8]:
    """20 images in a file."""
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (20, 1, 32, 32), np.uint8))
    images: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return images


@pytest.fixture(scope="module")
def resident(mapped: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(mapped))


def check_equal(streamed: Tensor, resident: Tensor) -> None:
    assert streamed.dtype == torch.uint8
    assert streamed.device == resident.device
    assert torch.equal(streamed, resident)


def test_streamed_images_have_the_same_shape(mapped: NDArray[np.uint8], resident: Tensor) -> None:
    streamed = StreamedImages(mapped, CPU)
    assert len(streamed) == 20
    assert streamed.shape == tuple(resident.shape)
    assert streamed.device == resident.device


def test_streamed_slices_are_those_of_the_tensor(mapped: NDArray[np.uint8], resident: Tensor) -> None:
    streamed = StreamedImages(mapped, CPU)
    for chosen in (slice(None), slice(0, 0), slice(2, 5), slice(-3, None), slice(18, 99), slice(0, 20, 3)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as that a tensor must not be written to
            check_equal(streamed[chosen], resident[chosen])


@given(st.lists(st.integers(0, 19), max_size=40))
def test_streamed_rows_come_in_any_order(
    mapped: NDArray[np.uint8], resident: Tensor, rows: list[int]
) -> None:
    index = torch.tensor(rows, dtype=torch.int64)
    check_equal(StreamedImages(mapped, CPU)[index], resident[index])


@given(st.integers(1, 30))
def test_streamed_batches_are_those_of_the_tensor(
    mapped: NDArray[np.uint8], resident: Tensor, size: int
) -> None:
    batches = list(StreamedImages(mapped, CPU).split(size))
    assert len(batches) == len(resident.split(size))
    for batch, expected in zip(batches, resident.split(size), strict=True):
        check_equal(batch, expected)


@pytest.mark.parametrize("most", [1, 7, 20, 50])
def test_streamed_images_are_spread_over_like_the_tensor(
    mapped: NDArray[np.uint8], resident: Tensor, most: int
) -> None:
    check_equal(evenly_spaced(StreamedImages(mapped, CPU), most), evenly_spaced(resident, most))


def test_streamed_images_can_be_written_to_without_harm(mapped: NDArray[np.uint8]) -> None:
    streamed = StreamedImages(mapped, CPU)
    before = streamed[:].clone()
    streamed[:].zero_()
    streamed[torch.arange(3)].zero_()
    check_equal(streamed[:], before)


def test_images_settle_in_memory_if_they_fit(mapped: NDArray[np.uint8], resident: Tensor) -> None:
    megabytes = mapped.nbytes / 2**20
    for memory in (megabytes, 1000.0, None):
        settled = place_images(mapped, CPU, memory)
        assert isinstance(settled, Tensor)
        check_equal(settled, resident)
    for memory in (megabytes * 0.99, 1e-6):
        settled = place_images(mapped, CPU, memory)
        assert isinstance(settled, StreamedImages)
        check_equal(settled[:], resident)


def test_by_itself_a_quarter_of_free_memory_is_used(
    mapped: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, kind in ((4 * mapped.nbytes, Tensor), (4 * mapped.nbytes - 4, StreamedImages)):
        monkeypatch.setattr(residence, "free_bytes", {CPU: free}.__getitem__)
        assert isinstance(place_images(mapped, CPU), kind)


def test_free_memory_is_known() -> None:
    assert 2**20 < residence.free_bytes(CPU) < 2**50


@pytest.mark.parametrize("memory", [0, 0.0, -1.0, float("nan")])
def test_no_memory_is_refused(mapped: NDArray[np.uint8], memory: float) -> None:
    with pytest.raises(UserError, match=f"memory={memory} must be above 0"):
        place_images(mapped, CPU, memory)


# --- training does not depend on where images are ---


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def both_ways(mapped: NDArray[np.uint8], train: Callable[[ImageSource], nn.Module]) -> list[Tensor]:
    """The weights that training ends with, from memory and from the file."""
    return [weights(train(place_images(mapped, CPU, memory))) for memory in (100, 1e-6)]


@pytest.mark.parametrize("augment", [None, ALL], ids=["plain", "augmented"])
def test_the_autoencoder_learns_the_same(mapped: NDArray[np.uint8], augment: Augmentation | None) -> None:
    def train(images: ImageSource) -> nn.Module:
        torch.manual_seed(0)
        model = ConvAutoencoder(1, 32, "spatial", latent_size=4, width=8)
        before = weights(model)
        for _ in train_autoencoder(TrainingState(model, 1e-3, 4, seed=1), model, images, 8, augment):
            pass
        assert not torch.equal(weights(model), before)
        return model

    resident, streamed = both_ways(mapped, train)
    assert torch.equal(resident, streamed)


def test_the_detector_learns_the_same_and_scores_the_same(mapped: NDArray[np.uint8]) -> None:
    inputs_of = make_world("spatial").detector_inputs
    scores = []
    made = (noise(6, size=32) * 255).byte()
    labels, marked = torch.tensor([0, 1] * 3), torch.tensor([True] * 5 + [False])
    samples = make_mixture(
        [SampleSource(Samples(made, made > 128, labels, torch.zeros(6).long(), marked), 0.5)]
    )

    def train(images: ImageSource) -> nn.Module:
        torch.manual_seed(0)
        model = TransformerDetector(1, 32, width=16, depth=1, heads=2)
        before = weights(model)
        synthesis = ImageSynthesis({"cutpaste": 1.0, "perlin": 1.0}, textures=images)
        sampler = BatchSampler(images, synthesis, samples, ALL.with_masks)
        for _ in train_detector(
            TrainingState(model, 1e-3, 4, seed=1), model, sampler, lambda b: inputs_of(b.images), 8
        ):
            pass
        assert not torch.equal(weights(model), before)
        scores.append(score(model, inputs_of, images, 32, batch_size=8))
        return model

    resident, streamed = both_ways(mapped, train)
    assert torch.equal(resident, streamed)
    assert torch.equal(scores[0].score, scores[1].score)
    assert torch.equal(scores[0].map, scores[1].map)


def test_what_went_through_a_decoder_is_normal_as_often_as_not() -> None:
    images = torch.full((8, 1, 32, 32), 200, dtype=torch.uint8)
    dark = BatchSampler(images, ImageSynthesis({"cutpaste": 1.0}), decode=lambda batch: batch / 4)
    batch = dark.batch(800, seeded())
    through = batch.images.flatten(1).median(1).values < 0.5  # most of it, whatever was pasted
    for label in (0, 1):
        assert float(through[batch.labels == label].float().mean()) == pytest.approx(DECODED, abs=0.08)
    unchanged = batch.images[through & (batch.labels == 0)]
    torch.testing.assert_close(unchanged, torch.full_like(unchanged, 200 / 255 / 4))


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_batches_of_streamed_images_are_the_same(
    mapped: NDArray[np.uint8], resident: Tensor, seed: int
) -> None:
    synthesis = ImageSynthesis({"cutpaste": 1.0})
    sources: list[ImageSource] = [resident, StreamedImages(mapped, CPU)]
    first, second = (BatchSampler(source, synthesis).batch(8, seeded(seed)) for source in sources)
    for name in ("images", "masks", "labels", "sources", "marked"):
        one, other = getattr(first, name), getattr(second, name)
        assert torch.equal(one, other)
