"""The memory of prototypes and the four variants of autoencoder, piece by piece."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors.reconstruction import ReconstructionDetector
from latent_common.errors import UserError
from latent_common.training_state import TrainingState
from latent_env.autoencoders import ConvAutoencoder, FrozenAutoencoder, MemoryAutoencoder
from latent_env.autoencoders.prototype_memory import PrototypeMemory, addressing_entropy, shrink
from latent_env.autoencoders.sampling import draw_latents, generate, interpolate
from latent_env.autoencoders.training import train_autoencoder
from latent_env.worlds.artifacts import load_autoencoder, save_autoencoder

VARIANTS: dict[str, dict[str, Any]] = {
    "ae": {},
    "vae": {"variational": True},
    "memae": {"items": 6, "join": "replace"},
    "memvae": {"items": 6, "variational": True},
}
WEIGHTS = {"kl": 0.1, "entropy": 2e-4}


def make_variant(variant: str, latent: str = "flat", size: int = 16, **more: Any) -> MemoryAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MemoryAutoencoder(1, size, latent, 4, width=8, **{**VARIANTS[variant], **more})
        if model.memory is not None:
            fill(model.memory)
        return model


def fill(memory: PrototypeMemory) -> None:
    """Random prototypes."""
    torch.nn.init.normal_(memory.prototypes)
    memory.empty = False


def stripes(count: int, size: int = 16) -> Tensor:
    """Easy normal images: vertical stripes of random phase."""
    phase = torch.linspace(0, 6, count)[:, None, None, None]
    x = torch.arange(size).float()[None, None, None, :]
    return ((x + phase).sin().expand(count, 1, size, size) * 100 + 127).to(torch.uint8)


def slowly_addressed(token: Tensor, prototypes: Tensor, shrinkage: float, temperature: float) -> list[float]:
    """One token's weights, number by number, as the paper writes them."""
    cosines = [
        float(token @ prototype) / (float(token.norm()) * float(prototype.norm())) for prototype in prototypes
    ]
    powers = [math.exp(cosine / temperature) for cosine in cosines]
    weights = [power / sum(powers) for power in powers]
    threshold = shrinkage / len(weights)
    kept = [weight if weight > threshold else 0.0 for weight in weights]
    return [weight / sum(kept) for weight in kept]


@pytest.mark.parametrize("places", [1, 3])
@pytest.mark.parametrize(("shrinkage", "temperature"), [(0.0, 1.0), (1.0, 0.2), (2.0, 0.05)])
def test_addressing_is_that_of_a_slow_reference(places: int, shrinkage: float, temperature: float) -> None:
    torch.manual_seed(0)
    memory = PrototypeMemory(places, 7, 5, shrinkage, temperature).double()
    fill(memory)
    tokens = torch.randn(4, 3, 5, dtype=torch.float64)
    retrieved, weights = memory(tokens)
    for image in range(4):
        for token in range(3):
            prototypes = memory.prototypes[token if places > 1 else 0].detach()
            slow = slowly_addressed(tokens[image, token], prototypes, shrinkage, temperature)
            assert weights[image, token].tolist() == pytest.approx(slow, abs=1e-9)
            mixture = sum(w * p for w, p in zip(slow, prototypes, strict=True))
            torch.testing.assert_close(retrieved[image, token].detach(), mixture)


def test_shrinking_keeps_a_mixture() -> None:
    weights = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.25, 0.25, 0.25, 0.25]])
    shrunk = shrink(weights, 0.25)
    torch.testing.assert_close(shrunk[0], torch.tensor([0.625, 0.375, 0, 0]))
    assert shrunk[1].tolist() == [1, 0, 0, 0]  # nothing stands out: one is kept, not none
    torch.testing.assert_close(shrink(weights, 0.0), weights)
    assert float(addressing_entropy(shrunk[1:, None])) == pytest.approx(0, abs=1e-6)
    assert float(addressing_entropy(weights[1:, None])) == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"items": 1}, "items=1 must be at least 2"),
        ({"items": -3}, "items=-3"),
        ({"items": 5, "shrinkage": 5.0}, "shrinkage=5"),
        ({"items": 5, "temperature": 0.0}, "temperature=0"),
        ({"items": 5, "join": "glue"}, "join=glue is unknown: choose one of average, concatenate, replace"),
        ({"items": 5, "heads": 3}, "heads=3 must divide autoencoder.latent_size=4"),
    ],
)
def test_impossible_memories(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MemoryAutoencoder(1, 16, "flat", 4, **arguments)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("latent", "more"),
    [
        ("flat", {}),
        ("flat", {"heads": 2}),
        ("flat", {"join": "concatenate"}),
        ("spatial", {}),
        ("spatial", {"shared": False, "join": "concatenate"}),
    ],
)
def test_every_variant_goes_forward_and_backward(variant: str, latent: str, more: dict[str, Any]) -> None:
    model = make_variant(variant, latent, size=32, **more)
    images = torch.rand(3, 1, 32, 32)
    encoding = model.encoding(images)
    assert encoding.mean.shape == (3, *model.latent_shape)
    decoded, weights = model.decode_with_weights(encoding.mean)
    assert decoded.shape == images.shape
    added = model.regularisers(encoding, weights)
    assert set(added) == {*(["kl"] if "vae" in variant else []), *(["entropy"] if "mem" in variant else [])}
    if weights is not None:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert bool((weights >= 0).all())
    (decoded.square().mean() + sum(added.values(), torch.zeros(()))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
    # A frozen variant encodes an image as the mean, without noise.
    assert torch.equal(model(images), model(images))
    assert torch.equal(model.encode(images), encoding.mean)


def test_the_plain_variant_is_the_convolutional_autoencoder() -> None:
    plain = make_variant("ae")
    conv = ConvAutoencoder(1, 16, "flat", 4, width=8)
    conv.load_state_dict(plain.state_dict())
    images = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(plain(images), conv(images))


def test_only_the_memory_is_decoded_where_it_replaces_the_encoding() -> None:
    model = make_variant("memae", temperature=0.01)
    latents = torch.randn(5, 4)
    # Cosines don't see lengths: what is retrieved can only depend on the direction.
    torch.testing.assert_close(model.decode(latents), model.decode(3 * latents))
    for join in ("average", "concatenate"):
        joined = make_variant("memvae", join=join)
        assert not torch.allclose(joined.decode(latents), joined.decode(3 * latents))


@pytest.mark.parametrize("join", ["replace", "average", "concatenate"])
def test_an_empty_memory_is_passed_by(join: str, tmp_path: Path) -> None:
    model = make_variant("memae", join=join)
    latents = torch.randn(5, 4)
    filled = model.decode(latents)
    assert model.memory is not None
    model.memory.load_state_dict({"prototypes": torch.zeros(1, 6, 4)})
    decoded, weights = model.decode_with_weights(latents)
    assert weights is None
    assert not torch.allclose(decoded, filled)
    # Whatever it will hold, a memory that answers with the question decodes the same.
    given = torch.cat([latents, latents], 1) if join == "concatenate" else latents
    torch.testing.assert_close(decoded, model.decoder(given).sigmoid())


@pytest.mark.parametrize("latent", ["flat", "spatial"])
def test_a_memory_is_filled_with_encodings_once_warm(latent: str) -> None:
    images = stripes(32)
    model = make_variant("memae", latent)
    assert model.memory is not None
    model.memory.load_state_dict({"prototypes": torch.zeros_like(model.memory.prototypes)})
    state = TrainingState(model, 3e-3, 6, 0)
    for progress in train_autoencoder(state, model, images, 8, None, WEIGHTS, warmup=3):
        assert model.memory.empty == (progress.step <= 3)
        assert ("entropy" in progress.losses) == (progress.step > 3)


@pytest.mark.parametrize("variant", ["vae", "memae", "memvae"])
def test_variants_learn_in_half_precision_and_address_memory_in_full(variant: str) -> None:
    model = make_variant(variant)
    state = TrainingState(model, 3e-3, 12, 0, "bfloat16")
    losses = [float(step.losses["total"]) for step in train_autoencoder(state, model, stripes(32), 8)]
    assert losses[-1] < losses[0]
    with state.autocast():
        encoding = model.encoding(stripes(4).float() / 255)
        decoded, weights = model.decode_with_weights(encoding.mean)
    assert {encoding.mean.dtype, decoded.dtype} == {torch.float32}
    assert weights is None or weights.dtype == torch.float32


def test_prototypes_begin_as_encodings_of_different_images() -> None:
    images, generator = stripes(6), torch.Generator().manual_seed(0)
    model = make_variant("memae")
    assert model.memory is not None
    model.fill_memory(images, generator)
    known = model.encode(images.float() / 255)
    near = torch.cdist(known, model.memory.prototypes[0]) / known.std(correction=0)
    assert sorted(near.argmin(1).tolist()) == list(range(6))
    assert float(near.detach().amin(1).max()) < 0.3


def test_divergence_is_that_of_torch() -> None:
    model = make_variant("memvae")
    assert isinstance(model.log_variance, torch.nn.Linear)
    torch.nn.init.normal_(model.log_variance.weight, std=0.1)
    encoding = model.encoding(torch.rand(3, 1, 16, 16))
    assert encoding.log_variance is not None
    posterior = torch.distributions.Normal(encoding.mean, (encoding.log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(3, 4), torch.ones(3, 4))
    exact = torch.distributions.kl_divergence(posterior, prior).sum(1)
    torch.testing.assert_close(encoding.divergence(), exact)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("latent", ["flat", "spatial"])
def test_saved_and_loaded_variants_are_the_same(variant: str, latent: str, tmp_path: Path) -> None:
    images = stripes(12, 16)
    frozen = FrozenAutoencoder(make_variant(variant, latent)).calibrate(images)
    save_autoencoder(tmp_path, frozen)
    again = load_autoencoder(tmp_path)
    assert isinstance(again.model, MemoryAutoencoder)
    assert again.hyperparameters() == frozen.hyperparameters()
    floats = images.float() / 255
    assert torch.equal(again(floats), frozen(floats))


@pytest.mark.parametrize("warmup", [2, 6])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_goes_on_exactly_where_it_stopped(variant: str, warmup: int) -> None:
    images = stripes(32)

    def fresh() -> tuple[MemoryAutoencoder, TrainingState]:
        model = make_variant(variant)
        if model.memory is not None:
            model.memory.load_state_dict({"prototypes": torch.zeros_like(model.memory.prototypes)})
        return model, TrainingState(model, 3e-3, 10, 0)

    whole, state = fresh()
    for _ in train_autoencoder(state, whole, images, 8, None, WEIGHTS, warmup=warmup):
        pass
    half, half_state = fresh()
    for progress in train_autoencoder(half_state, half, images, 8, None, WEIGHTS, warmup=warmup):
        if progress.step == 4:
            break
    kept = {name: tensor.clone() for name, tensor in half_state.tensors().items()}
    other, other_state = fresh()
    other_state.restore(kept)
    for _ in train_autoencoder(other_state, other, images, 8, None, WEIGHTS, warmup=warmup):
        pass
    for (name, a), b in zip(whole.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_samples_and_interpolations(variant: str) -> None:
    images = stripes(20)
    frozen = FrozenAutoencoder(make_variant(variant)).calibrate(images)
    made = generate(frozen, 6, torch.Generator().manual_seed(1))
    assert made.shape == (6, 1, 16, 16)
    assert torch.equal(made, generate(frozen, 6, torch.Generator().manual_seed(1)))
    assert not torch.equal(made, generate(frozen, 6, torch.Generator().manual_seed(2)))
    some = images[:4].float() / 255
    between = interpolate(frozen, some[:2], some[2:], 5)
    assert between.shape == (2, 5, 1, 16, 16)
    torch.testing.assert_close(between[:, 0], frozen(some[:2]))
    torch.testing.assert_close(between[:, -1], frozen(some[2:]))


def test_the_prior_is_that_of_the_variant() -> None:
    images = stripes(40)
    generator = torch.Generator().manual_seed(0)
    variational = FrozenAutoencoder(make_variant("memvae")).calibrate(images)
    raw = draw_latents(variational, 4000, generator) * variational.scale + variational.mean
    torch.testing.assert_close(raw.mean(0), torch.zeros(4), atol=0.08, rtol=0)
    torch.testing.assert_close(raw.std(0), torch.ones(4), atol=0.08, rtol=0)
    plain = FrozenAutoencoder(make_variant("memae")).calibrate(images)
    along = draw_latents(plain, 4000, generator) @ plain.directions.T
    torch.testing.assert_close(along.std(0), plain.direction_scales, atol=0.05, rtol=0.08)


def test_relative_errors_forgive_faint_images_nothing() -> None:
    detector = ReconstructionDetector(1, 32, pooling="relative")
    torch.manual_seed(0)
    image = torch.rand(1, 1, 32, 32)
    decoded = image + 0.1
    bright, faint = detector(image, decoded), detector(0.3 * image, 0.3 * image + 0.1)
    assert float(faint.score) > float(bright.score)
    assert bright.map.shape == (1, 1, 32, 32)
    torch.testing.assert_close(bright.score, bright.map.flatten(1).mean(1))
    expected = 0.01 / (float(image.var(correction=0)) + 0.002)
    assert float(bright.score) == pytest.approx(expected, rel=1e-4)
    for arguments in (
        {"pooling": "best"},
        *({"pooling": p, "position_wise": True} for p in ("relative", "centred")),
    ):
        with pytest.raises(UserError, match=r"detector\."):
            ReconstructionDetector(1, 32, **arguments)  # type: ignore[arg-type]
    assert ReconstructionDetector(**detector.hyperparameters()).pooling == "relative"


def test_centred_errors_forgive_brightness_alone() -> None:
    relative, centred = (
        ReconstructionDetector(3, 32, pooling=pooling) for pooling in ("relative", "centred")
    )
    torch.manual_seed(0)
    images = torch.rand(4, 3, 32, 32)
    decoded = images + 0.1 * torch.randn_like(images)
    brighter = decoded + torch.tensor([0.3, -0.2, 0.1, 0.0])[:, None, None, None]
    scores = centred(images, decoded).score
    torch.testing.assert_close(centred(images, brighter).score, scores)
    assert bool((relative(images, brighter).score[:3] > 2 * scores[:3]).all())
    redder = decoded + torch.tensor([0.3, 0.0, 0.0])[:, None, None]  # a colour is no brightness
    assert bool((centred(images, redder).score > 2 * scores).all())
