"""Whitened features as latents: how they are fitted, decoded, frozen, kept, and read again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_backbones
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from detectors.metrics.ssim import structural_similarity
from detectors.synthetic.image_synthesis import ImageSynthesis
from latent_common.errors import UserError
from latent_common.lock import LOCK
from latent_common.training_state import TrainingState
from latent_env.autoencoders import FrozenAutoencoder, PretrainedAutoencoder
from latent_env.autoencoders.backbone import Backbone, load_backbone
from latent_env.autoencoders.pretrained import PretrainedEncoder, fit_encoder
from latent_env.autoencoders.training import peak_signal_to_noise, train_decoder
from latent_env.data import Dataset, Split
from latent_env.data.builtin.phantom import make_phantom_dataset
from latent_env.data.placement import StreamedImages
from latent_env.training.feature_cache import FeatureCache
from latent_env.worlds.artifacts import load_autoencoder, save_autoencoder
from stages.detector.trainers.latent_pools import make_pool

SIZE, GRID, COMPONENTS = 32, 4, 8
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_backbones.mobilenet(tmp_path_factory.mktemp("backbone") / "mobilenet")


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(str(folder), SIZE, None, GRID)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_phantom_dataset(SIZE, train=40, valid=6, test=8)


@pytest.fixture(scope="module")
def images(dataset: Dataset) -> Tensor:
    return torch.from_numpy(dataset.train.images)


@pytest.fixture(scope="module")
def fitted(backbone: Backbone, images: Tensor) -> tuple[PretrainedEncoder, Tensor]:
    encoder, latents = fit_encoder(backbone, images, 1, COMPONENTS)
    assert latents is not None
    return encoder, latents


def tokens_of(latents: Tensor) -> Tensor:
    """``(tokens, K)``, in double precision."""
    return latents.transpose(0, 1).flatten(1).T.double()


def test_latents_of_the_training_images_are_white(fitted: tuple[PretrainedEncoder, Tensor]) -> None:
    encoder, latents = fitted
    assert latents.shape == (40, COMPONENTS, GRID, GRID) == (40, *encoder.latent_shape)
    tokens = tokens_of(latents)
    assert tokens.mean(0).abs().max() < 0.01
    covariance = torch.cov(tokens.T, correction=0)
    assert torch.allclose(covariance, torch.eye(COMPONENTS, dtype=torch.float64), atol=0.01)


def test_components_are_those_of_most_variance(
    fitted: tuple[PretrainedEncoder, Tensor], backbone: Backbone, images: Tensor
) -> None:
    encoder, _ = fitted
    values, vectors = principal(backbone, images)
    assert torch.allclose(encoder.natural_scales.double(), values[:COMPONENTS].sqrt(), rtol=1e-3)
    similar = (encoder.components.double() @ vectors[:, :COMPONENTS]).abs()
    assert torch.allclose(similar, torch.eye(COMPONENTS, dtype=torch.float64), atol=0.02)
    assert encoder.explained == pytest.approx(float(values[:COMPONENTS].sum() / values.sum()), abs=1e-4)


def principal(backbone: Backbone, images: Tensor) -> tuple[Tensor, Tensor]:
    """Variances and directions of the features of all tokens, by a straight way."""
    tokens = tokens_of(backbone(images.float() / 255))
    values, vectors = torch.linalg.eigh(torch.cov(tokens.T, correction=0))
    return values.flip(0).clamp_min(0), vectors.flip(1)


def test_returned_latents_are_what_encoding_gives(
    fitted: tuple[PretrainedEncoder, Tensor], images: Tensor
) -> None:
    encoder, latents = fitted
    assert latents.dtype == torch.float16
    assert torch.allclose(latents.float(), encoder.encode(images.float() / 255), atol=0.02)


def test_the_same_images_give_the_same_encoder(
    fitted: tuple[PretrainedEncoder, Tensor], backbone: Backbone, images: Tensor, dataset: Dataset
) -> None:
    encoder, latents = fitted
    again, same = fit_encoder(backbone, StreamedImages(dataset.train.images, CPU), 1, COMPONENTS)
    assert same is not None
    assert torch.equal(latents, same)
    for (name, a), b in zip(encoder.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_latents_of_many_images_are_not_returned(
    backbone: Backbone, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latent_env.autoencoders.pretrained.MOST_FITTED", 16)
    encoder, latents = fit_encoder(backbone, images, 1, COMPONENTS)
    assert latents is None
    assert encoder.encode(images.float() / 255).std() == pytest.approx(1, abs=0.2)


@settings(max_examples=10)
@given(share=st.floats(0.05, 0.995))
def test_a_share_of_the_variance(share: float, backbone: Backbone, images: Tensor) -> None:
    """As few components as keep it."""
    few = images[:8]
    values, _ = principal(backbone, few)
    encoder, _ = fit_encoder(backbone, few, 1, share)
    kept = values.cumsum(0) / values.sum()
    number = encoder.latent_shape[0]
    assert kept[number - 1] >= share - 1e-4
    assert number == 1 or kept[number - 2] < share + 1e-4
    assert encoder.explained == pytest.approx(float(kept[number - 1]), abs=1e-3)


@pytest.mark.parametrize("components", [0, -3, 2.5, float("nan"), float("inf"), -0.5, 10_000])
def test_impossible_components(components: float, backbone: Backbone, images: Tensor) -> None:
    with pytest.raises(UserError, match=r"^autoencoder\.components=.*$"):
        fit_encoder(backbone, images[:2], 1, components)


def test_components_without_any_variance_are_not_blown_up(backbone: Backbone) -> None:
    """All images equal: tokens vary by position alone."""
    same = torch.full((4, 1, SIZE, SIZE), 90, dtype=torch.uint8)
    _, latents = fit_encoder(backbone, same, 1, backbone.features)
    assert latents is not None
    assert latents.isfinite().all()
    assert latents.abs().max() < 100


def autoencoder(backbone: Backbone, channels: int = 1, components: int = COMPONENTS) -> PretrainedAutoencoder:
    """With a decoder that has learned nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PretrainedAutoencoder(PretrainedEncoder(backbone, channels, components), width=4)


@settings(max_examples=15)
@given(side=st.integers(4, 13), grid=st.integers(2, 14), channels=st.sampled_from([1, 3]))
def test_pictures_have_the_size_of_the_images(
    side: int, grid: int, channels: int, backbone: Backbone
) -> None:
    size = 8 * side
    features = Backbone(backbone.network, backbone.description, size, None, grid, backbone.colours)
    model = autoencoder(features, channels)
    with torch.no_grad():
        latents = model.encode(torch.rand(2, channels, size, size))
        decoded = model.decode(latents)
    assert latents.shape == (2, COMPONENTS, grid, grid)
    assert decoded.shape == (2, channels, size, size)
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_a_decoder_learns_and_nothing_else_does(
    fitted: tuple[PretrainedEncoder, Tensor], images: Tensor
) -> None:
    encoder, latents = fitted
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PretrainedAutoencoder(encoder, width=4)
    floats = images.float() / 255
    with torch.no_grad():
        first = peak_signal_to_noise(floats, model(floats)).mean()
    state = TrainingState(model.decoder, 5e-3, 40, seed=0)
    losses = [float(step.losses["total"]) for step in train_decoder(state, model, images, latents, 8)]
    with torch.no_grad():
        last = peak_signal_to_noise(floats, model(floats)).mean()
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert last > first + 1
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


def pictures(count: int = 4, size: int = 24, channels: int = 1, seed: int = 0) -> Tensor:
    """With edges and with smooth regions."""
    noise = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))
    smooth = functional.avg_pool2d(noise, 5, 1, 2, count_include_pad=False)
    return (0.7 * smooth + 0.3 * noise).double()


def test_similarity_with_itself_is_1() -> None:
    assert torch.allclose(structural_similarity(pictures(), pictures()), torch.ones(4, dtype=torch.float64))


@settings(max_examples=20)
@given(size=st.integers(8, 40), channels=st.sampled_from([1, 3]), seed=st.integers(0, 100))
def test_similarity_is_symmetric_and_at_most_1(size: int, channels: int, seed: int) -> None:
    one, other = pictures(3, size, channels, seed), pictures(3, size, channels, seed + 1)
    found = structural_similarity(one, other)
    assert found.shape == (3,)
    assert torch.allclose(found, structural_similarity(other, one))
    assert (found < 1).all()
    assert (found >= -1).all()


def test_similarity_falls_with_noise() -> None:
    clean = pictures(size=48)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)).double()
    found = torch.stack(
        [structural_similarity(clean, clean + level * noise) for level in (0, 0.02, 0.1, 0.5)]
    )
    assert (found.diff(dim=0) < -0.01).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_similarity_is_that_of_the_paper(channels: int) -> None:
    one, other = pictures(2, 30, channels, 3), pictures(2, 30, channels, 4)

    def smooth(x: Any) -> Any:
        filtered = gaussian_filter(np.asarray(x), 1.5, radius=5, axes=(2, 3))
        return filtered[:, :, 5:-5, 5:-5]

    x, y = one.numpy(), other.numpy()
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    shared = smooth(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + 1e-4) * (2 * shared + 9e-4)
    likeness /= (mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4)
    assert np.allclose(structural_similarity(one, other).numpy(), likeness.mean((1, 2, 3)), atol=1e-9)


def frozen(fitted: tuple[PretrainedEncoder, Tensor]) -> FrozenAutoencoder:
    """Not calibrated yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FrozenAutoencoder(PretrainedAutoencoder(fitted[0], width=4))


def test_known_latents_need_not_be_computed_again(
    fitted: tuple[PretrainedEncoder, Tensor], images: Tensor
) -> None:
    looked = frozen(fitted).calibrate(images)
    exact = frozen(fitted).calibrate(images, looked.encode_all(images))
    for (name, a), b in zip(looked.state_dict().items(), exact.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    rounded = frozen(fitted).calibrate(images, fitted[1])
    assert torch.allclose(rounded.normal_distances, looked.normal_distances, atol=0.02)
    assert torch.allclose(rounded.direction_scales, looked.direction_scales, atol=0.02)


def test_white_latents_stay_as_they_are(fitted: tuple[PretrainedEncoder, Tensor], images: Tensor) -> None:
    features, floats = frozen(fitted).calibrate(images), images.float() / 255
    assert torch.equal(features.encode(floats), fitted[0].encode(floats))
    assert torch.equal(features.natural_scales, fitted[0].natural_scales)
    assert features.whitens_itself


def test_the_scale_is_that_of_tokens_of_other_images_anywhere(
    fitted: tuple[PretrainedEncoder, Tensor], images: Tensor
) -> None:
    features = frozen(fitted).calibrate(images)
    latents = features.encode_all(images)
    tokens, owner = tokens_of(latents).float(), torch.arange(len(images)).repeat_interleave(GRID**2)
    apart = torch.cdist(tokens, tokens).masked_fill(owner[:, None] == owner[None], torch.inf)
    nearest = apart.amin(1)
    assert float(features.normal_distances[50]) == pytest.approx(float(nearest.quantile(0.5)), rel=0.02)
    assert float(features.normal_distances[95]) == pytest.approx(float(nearest.quantile(0.95)), rel=0.02)


@pytest.mark.parametrize("kind", ["mobilenet", "resnet", "dino", "dino_with_registers"])
def test_stored_it_needs_its_backbone_no_more(kind: str, images: Tensor, tmp_path: Path) -> None:
    folder = getattr(tiny_backbones, kind)(tmp_path / "backbone")
    features = load_backbone(str(folder), SIZE, [1, 2], GRID)
    encoder, latents = fit_encoder(features, images[:10], 1, COMPONENTS)
    assert latents is not None
    model = frozen((encoder, latents)).calibrate(images[:10], latents)
    save_autoencoder(tmp_path / "world", model)
    shutil.rmtree(folder)
    again = load_autoencoder(tmp_path / "world")
    floats = images[10:14].float() / 255
    white = model.encode(floats)
    assert torch.equal(again.encode(floats), white)
    assert torch.equal(again.decode(white), model.decode(white))
    assert torch.equal(again.natural_scales, model.natural_scales)
    assert again.latent_shape == (COMPONENTS, GRID, GRID)


def test_a_stored_one_whose_description_is_wrong(
    fitted: tuple[PretrainedEncoder, Tensor], images: Tensor, tmp_path: Path
) -> None:
    save_autoencoder(tmp_path, frozen(fitted).calibrate(images, fitted[1]))
    path = tmp_path / "autoencoder.json"
    good = json.loads(path.read_text())
    changes: list[tuple[dict[str, Any], str]] = [
        ({"backbone": {"model_type": "sandwich"}}, "can't be built from its description"),
        ({"layers": [99]}, r"layers=\[99\]"),
        ({"colour": "red"}, "arguments that don't fit"),
        ({"components": 5}, "doesn't fit the architecture"),
        ({"components": 10**9}, "more numbers than are stored beside it"),
        ({"grid": 10**6}, "more numbers than are stored beside it"),
        ({"width": 10**8}, "more numbers than are stored beside it"),
        ({"size": 10**6}, "512 are the most"),
        ({"backbone": {"model_type": "dinov2", "num_hidden_layers": 10**9}}, "more numbers than are stored"),
        ({"backbone": {"model_type": "dinov2", "hidden_size": 12 * 10**8}}, "more numbers than are stored"),
    ]
    for change, message in changes:
        path.write_text(json.dumps({**good, "facts": {**good["facts"], **change}}))
        with pytest.raises(UserError, match=message):
            load_autoencoder(tmp_path)


class Thumbnails:
    """An encoder that looks at no neighbour of a token: the mean grey of each, twice, the second reversed."""

    def __init__(self) -> None:
        self.latent_shape: tuple[int, ...] = (2, GRID, GRID)
        self.size = SIZE
        self.seen = 0

    @cached_property
    def natural_scales(self) -> Tensor:
        return torch.ones(2)

    def encode(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        grey = functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), GRID)
        return torch.cat([grey, 1 - grey], dim=1)


def thumbnails(split: Any) -> Tensor:
    return Thumbnails().encode(torch.from_numpy(split.images).float() / 255).half()


def inputs_of(dataset: Dataset, folder: Path, memory: float | None = None) -> tuple[Thumbnails, FeatureCache]:
    encoder = Thumbnails()
    return encoder, FeatureCache(encoder, dataset, folder, CPU, memory)


def test_every_split_is_encoded_once(dataset: Dataset, tmp_path: Path) -> None:
    encoder, features = inputs_of(dataset, tmp_path / "features")
    assert encoder.seen == 0
    for split, count in [("train", 40), ("valid", 46), ("test", 54), ("train", 54), ("valid", 54)]:
        assert torch.equal(features.latents(split)[:], thumbnails(getattr(dataset, split)))
        assert encoder.seen == count

    encoder, again = inputs_of(dataset, tmp_path / "features")
    (tmp_path / "features" / LOCK).touch()  # of a process that was killed when all was encoded
    for split in ("test", "train"):
        assert torch.equal(again.latents(split)[:], features.latents(split)[:])
    assert encoder.seen == 0
    assert not (tmp_path / "features" / LOCK).exists()


@settings(max_examples=15)
@given(left=st.integers(0, 2 * 2 * GRID**2 * 40 - 1))
def test_a_file_cut_short_goes_on_where_it_was(
    left: int, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("features")
    _, features = inputs_of(dataset, folder)
    whole = features.latents("train")[:].clone()
    (path,) = folder.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:left])
    encoder, features = inputs_of(dataset, folder)
    assert torch.equal(features.latents("train")[:], whole)
    assert path.read_bytes() == content
    assert encoder.seen == 40 - left // (2 * 2 * GRID**2)


def test_latents_that_dont_fit_in_memory_are_streamed(dataset: Dataset, tmp_path: Path) -> None:
    _, features = inputs_of(dataset, tmp_path)
    _, streaming = inputs_of(dataset, tmp_path / "other", memory=1e-4)
    kept, streamed = features.latents("train"), streaming.latents("train")
    assert isinstance(kept, Tensor)
    assert not isinstance(streamed, Tensor)
    assert streamed.shape == kept.shape
    rows = torch.tensor([7, 3, 3, 39])
    assert torch.equal(streamed[rows], kept[rows])
    assert torch.equal(torch.cat(list(streamed.split(9))), kept)


def test_latents_that_are_known_are_taken_over(dataset: Dataset, tmp_path: Path) -> None:
    encoder, features = inputs_of(dataset, tmp_path)
    known = torch.rand(40, 2, GRID, GRID).half()
    features.store("train", known)
    assert torch.equal(features.latents("train")[:], known)
    assert encoder.seen == 0


def test_a_real_backbone_gives_the_same_features_in_every_batch(
    fitted: tuple[PretrainedEncoder, Tensor], dataset: Dataset, tmp_path: Path
) -> None:
    found = FeatureCache(fitted[0], dataset, tmp_path, CPU, None).latents("train")[:]
    assert torch.allclose(found.float(), fitted[1].float(), atol=0.02)


def test_a_folder_that_can_not_be(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    _, features = inputs_of(dataset, tmp_path / "file")
    with pytest.raises(UserError, match="latents can't be stored there"):
        features.latents("train")


Change = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]


def spoil(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One token whitened, the left half of another, and some noise in a third that is no anomaly."""
    changed, masks = images.clone(), torch.zeros_like(images[:, :1])
    side = SIZE // GRID
    changed[:, :, side : 2 * side, :side] = 1
    masks[:, :, side : 2 * side, :side] = 1
    changed[:, :, :side, 3 * side : 3 * side + side // 2] = 1
    masks[:, :, :side, 3 * side : 3 * side + side // 2] = 1
    changed[:, :, -side:, -side:] = torch.rand(len(images), 1, side, side, generator=generator)
    return changed, masks


class Counted:
    """A change that knows how often it was asked for."""

    def __init__(self, change: Change) -> None:
        self.change, self.calls = change, 0

    def __call__(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self.change(images, generator)


def test_a_pool_lines_up_with_what_was_changed(dataset: Dataset, images: Tensor, tmp_path: Path) -> None:
    _, features = inputs_of(dataset, tmp_path)
    pool = make_pool(features, images, "spoilt", 90, spoil, {})
    assert pool.sources.tolist() == [number % 40 for number in range(90)]
    expected = torch.zeros(GRID, GRID)
    expected[1, 0], expected[0, 3] = 1, 0.5
    assert torch.equal(pool.tokens, expected.expand(90, 1, GRID, GRID))
    clean = thumbnails(dataset.train)[pool.sources].float()
    differs = (pool.latents[:].float() - clean).abs().amax(1, keepdim=True) > 1e-3
    touched = (expected > 0).expand(90, 1, GRID, GRID).clone()
    touched[:, :, -1, -1] = True
    assert not (differs & ~touched).any()
    assert differs[:, :, 1, 0].all()
    assert torch.allclose(pool.latents[:][:, 0, 1, 0], torch.ones(90).half())
    noise = pool.latents[:][:, 0, -1, -1]
    assert len(noise.unique()) > 40  # every member has noise of its own


def test_a_pool_is_made_once(dataset: Dataset, images: Tensor, tmp_path: Path) -> None:
    change = Counted(spoil)
    _, features = inputs_of(dataset, tmp_path)
    pool = make_pool(features, images, "spoilt", 30, change, {"strength": 1})
    assert change.calls == 1
    encoder, again = inputs_of(dataset, tmp_path)
    same = make_pool(again, images, "spoilt", 30, change, {"strength": 1})
    assert change.calls == 1
    assert encoder.seen == 0
    for one, other in zip(pool[:3], same[:3], strict=True):
        assert torch.equal(one[:], other[:])
    assert pool.name == same.name
    known = {pool.name}
    for name, count, how in [("other", 30, 1), ("spoilt", 31, 1), ("spoilt", 30, 2)]:
        before = change.calls
        found = make_pool(again, images, name, count, change, {"strength": how})
        assert len(found.sources) == count
        assert change.calls == before + 1
        assert found.name not in known
        known.add(found.name)


def test_a_pool_of_real_anomalies(dataset: Dataset, images: Tensor, tmp_path: Path) -> None:
    made = ImageSynthesis({"cutpaste": 1.0, "perlin": 1.0})

    def synthesise(batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        found = made(batch, generator)
        return found.images, found.masks

    _, features = inputs_of(dataset, tmp_path)
    pool = make_pool(features, images, "anomalous", 40, synthesise, {})
    assert pool.tokens.min() >= 0
    assert pool.tokens.max() <= 1
    assert (pool.tokens.flatten(1).amax(1) > 0).all()
    moved = (pool.latents[:].float() - thumbnails(dataset.train).float()).abs().amax(1, keepdim=True)
    assert moved[pool.tokens == 0].max() < 1e-3
    assert (moved[pool.tokens > 0.5] > 1e-3).float().mean() > 0.9


def of_images(train: Tensor, valid: Tensor, test: Tensor) -> Dataset:
    """A data set of these normal images; the last test image counts as an anomaly."""
    parts = []
    for images in (train, valid, test):
        labels = np.zeros(len(images), np.int64)
        if images is test:
            labels[-1] = 1
        names = tuple(f"{number}.png" for number in range(len(images)))
        parts.append(Split(images.numpy(), labels, None, names))
    return Dataset("made", *parts)


def test_near_copies_are_counted(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    common = torch.randint(0, 200, (1, 1, SIZE, SIZE), generator=generator)
    # Enlarged noise, or its means over tokens would all be equal.
    small = torch.randint(0, 56, (16, 1, GRID, GRID), generator=generator)
    images = (common + functional.interpolate(small.float(), SIZE)).to(torch.uint8)
    fresh, again = images[10:], images[:10].clamp(max=250) + 2
    for name, valid, share in [("fresh", fresh, 0.0), ("again", again, 1.0)]:
        _, features = inputs_of(of_images(images[:10], valid, fresh), tmp_path / name)
        assert features.near_copies() == share
    half = torch.cat([fresh[:4], again[:4]])
    _, features = inputs_of(of_images(images[:10], half, fresh), tmp_path / "half")
    assert features.near_copies() == 0.5
