"""The transformer of latents: its maps, its memory, what it learns, and how it is saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_latents import FLAT, SEEDS, SHAPES, SPATIAL, noise, seeded
from torch import Tensor

from detectors.blocks.tokens import TOP_TOKENS, as_tokens, at_size, grid_of, top_tokens
from detectors.distances.memory_bank import NO_OWNER, PositionalMemory
from detectors.latent_transformer import LatentTransformerDetector, token_losses
from detectors.training.latent_batches import LatentBatchSampler, Pool
from detectors.training.loop import score, train_detector
from latent_common.errors import UserError
from latent_common.image_source import ImageSource
from latent_common.training_state import TrainingState
from latent_env.data.placement import StreamedImages
from latent_env.worlds.artifacts import load_detector, save_detector

CPU = torch.device("cpu")
BOTH_SHAPES = pytest.mark.parametrize("shape", [SPATIAL, FLAT], ids=["spatial", "flat"])


def normal_latents(
    count: int, shape: tuple[int, ...] = SPATIAL, seed: int = 0, restless: float = 1.0
) -> Tensor:
    """Latents that are similar; their left two columns are ``restless`` times as noisy."""
    places = torch.randn(shape, generator=seeded(99))
    ways = torch.randn(2, *shape, generator=seeded(98))
    generator = seeded(seed)
    much = torch.randn(count, 2, generator=generator)
    drawn = 0.15 * torch.randn(count, *shape, generator=generator)
    if len(shape) == 3:
        drawn[..., :2] *= restless
    return places + 0.3 * torch.einsum("nk,k...->n...", much, ways) + drawn


def auroc(normal: Tensor, abnormal: Tensor) -> float:
    return float((abnormal.flatten()[:, None] > normal.flatten()[None]).float().mean())


# --- maps at the size of images ---


@given(st.integers(1, 12), st.integers(1, 3), SEEDS)
def test_a_map_of_the_right_size_stays_as_it_is(side: int, batch: int, seed: int) -> None:
    maps = noise(batch, (1, side, side), seed)
    assert torch.equal(at_size(maps, side), maps)


@settings(max_examples=40)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 48), st.floats(-100, 100, width=32, allow_nan=False)
)
def test_a_constant_map_stays_constant(rows: int, columns: int, size: int, value: float) -> None:
    enlarged = at_size(torch.full((2, 1, rows, columns), value), size)
    torch.testing.assert_close(enlarged, torch.full((2, 1, size, size), value), atol=1e-4, rtol=1e-4)


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 48), SEEDS)
def test_an_enlarged_map_stays_within_its_range(rows: int, columns: int, size: int, seed: int) -> None:
    maps = noise(3, (1, rows, columns), seed)
    enlarged = at_size(maps, size)
    assert enlarged.shape == (3, 1, size, size)
    for given_map, found in zip(maps, enlarged, strict=True):
        assert given_map.min() - 1e-4 <= found.min()
        assert found.max() <= given_map.max() + 1e-4


@settings(max_examples=40)
@given(st.data())
def test_a_peak_stays_at_its_position(data: st.DataObject) -> None:
    side, finer = data.draw(st.integers(2, 9)), data.draw(st.integers(2, 9))
    row, column = (data.draw(st.integers(0, side - 1)) for _ in range(2))
    maps = torch.zeros(1, 1, side, side)
    maps[0, 0, row, column] = 1
    enlarged = at_size(maps, side * finer)[0, 0]
    highest = int(enlarged.argmax())
    assert highest // (side * finer) // finer == row
    assert highest % (side * finer) // finer == column


def test_a_peak_is_centred_on_its_token() -> None:
    maps = torch.zeros(1, 1, 9, 9)
    maps[0, 0, 3, 5] = 1
    enlarged = at_size(maps, 72)[0, 0]
    axis, weight = torch.arange(72), enlarged / enlarged.sum()
    assert float((weight.sum(1) * axis).sum()) == pytest.approx(3.5 * 8 - 0.5, abs=1e-3)
    assert float((weight.sum(0) * axis).sum()) == pytest.approx(5.5 * 8 - 0.5, abs=1e-3)


# --- the memory ---


def by_brute_force(
    memory: Tensor, queries: Tensor, allowed: list[list[int]] | None = None
) -> tuple[Tensor, Tensor]:
    """How each token differs from the nearest at its place, and how long the difference is."""
    places, found = as_tokens(memory), []
    for number, tokens in enumerate(as_tokens(queries)):
        near = places if allowed is None else places[allowed[number]]
        differences = tokens[None] - near  # (N, T, C)
        best = differences.norm(dim=2).argmin(0)
        found.append(differences[best, torch.arange(tokens.shape[0])])
    difference = torch.stack(found)
    return difference, difference.norm(dim=2)


@BOTH_SHAPES
def test_a_memory_finds_the_nearest_at_the_same_position(shape: tuple[int, ...]) -> None:
    known, new = noise(20, shape), noise(40, shape, seed=1)
    memory = PositionalMemory(shape, 20)
    memory.fill(known, torch.arange(20))
    difference, length = memory(new)
    expected, far = by_brute_force(known, new)
    torch.testing.assert_close(difference, expected)
    assert float(torch.corrcoef(torch.stack([length.flatten(), far.flatten()]))[0, 1]) > 0.99999
    assert torch.equal(memory(new[33:34])[0], difference[33:34])


def test_an_image_is_not_compared_with_itself() -> None:
    known = noise(40)
    owners = torch.arange(40).flip(0) + 100
    memory = PositionalMemory(SPATIAL, 40)
    memory.fill(known, owners)
    others = [[other for other in range(40) if other != own] for own in range(40)]
    difference, length = memory(known, owners)
    torch.testing.assert_close(difference, by_brute_force(known, known, others)[0])
    # Over the images it knows, lengths are in deviations from their mean.
    assert float(length.mean()) == pytest.approx(0, abs=1e-4)
    assert float(length.std(correction=0)) == pytest.approx(1, abs=1e-4)
    # The owner decides, not how similar the image is.
    near = known[:20] + 0.01
    torch.testing.assert_close(
        memory(near, owners[:20])[0], by_brute_force(known, near, others[:20])[0], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("owner", [None, NO_OWNER, 7])
def test_without_an_owner_in_memory_nothing_is_left_out(owner: int | None) -> None:
    known = noise(40)
    memory = PositionalMemory(SPATIAL, 40)
    memory.fill(known, torch.arange(40) + 100)
    owners = None if owner is None else torch.full((40,), owner)
    difference, length = memory(known, owners)
    assert difference.abs().max() == 0
    assert length.max() == length.min() < 0


def test_a_memory_of_a_streamed_source_in_half_precision(tmp_path: Path) -> None:
    known, new = noise(20).half(), noise(5, seed=1)
    np.save(tmp_path / "known.npy", known.numpy())
    streamed = StreamedImages(np.load(tmp_path / "known.npy", mmap_mode="r"), CPU)
    sources: list[ImageSource] = [known, streamed]
    answers = []
    for kept in sources:
        memory = PositionalMemory(SPATIAL, 20)
        memory.fill(kept, torch.arange(20))
        answers.append(memory(new)[1])
    assert torch.equal(*answers)


def test_gradients_lead_away_from_the_nearest() -> None:
    known, new = noise(20), noise(6, seed=1).requires_grad_()
    memory = PositionalMemory(SPATIAL, 20)
    memory.fill(known, torch.arange(20))
    difference, length = memory(new)
    (gradient,) = torch.autograd.grad(length.sum(), new)
    away = difference / difference.norm(dim=2, keepdim=True)
    loss_gradient = as_tokens(gradient)
    torch.testing.assert_close(torch.cosine_similarity(loss_gradient, away, dim=2), torch.ones(6, 25))
    torch.testing.assert_close(
        loss_gradient.norm(dim=2) / loss_gradient.norm(dim=2).mean(), torch.ones(6, 25)
    )
    same = known[:3].clone().requires_grad_()
    (at_rest,) = torch.autograd.grad(memory(same)[1].sum(), same)
    assert at_rest.isfinite().all()  # where the distance is 0, too


# --- the transformer ---


def make_transformer(
    shape: tuple[int, ...] = SPATIAL, known: Tensor | None = None, seed: int = 0
) -> LatentTransformerDetector:
    """A small one, whose memory holds what is known."""
    memory_size = 60 if known is None else len(known)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector = LatentTransformerDetector(shape, memory_size, width=16, depth=1, heads=2)
    if known is not None:
        detector.memory.fill(known, torch.arange(memory_size))
    return detector.eval()


@settings(max_examples=20)
@given(SHAPES, st.sampled_from([1, 2, 4]), st.integers(1, 2), st.integers(1, 4))
def test_every_token_gets_a_logit(shape: tuple[int, ...], heads: int, depth: int, batch: int) -> None:
    detector = LatentTransformerDetector(shape, 5, width=8, depth=depth, heads=heads).eval()
    detector.memory.fill(noise(5, shape), torch.arange(5))
    latents = noise(batch, shape, seed=1)
    found, heat = detector(latents)
    assert heat.shape == (batch, 1, *grid_of(shape))
    highest = heat.flatten(1).sort(1, descending=True).values[:, :TOP_TOKENS]
    torch.testing.assert_close(found, highest.mean(1))
    torch.testing.assert_close(detector(latents[:1]).map, heat[:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("width", "heads"), [(16, 3), (10, 4), (4, 8)])
def test_heads_must_divide_the_width(width: int, heads: int) -> None:
    with pytest.raises(UserError, match=f"detector.heads={heads} must divide detector.width={width}"):
        LatentTransformerDetector(SPATIAL, 5, width=width, heads=heads)


@BOTH_SHAPES
def test_zero_is_further_out_than_95_percent_of_normals(shape: tuple[int, ...]) -> None:
    detector, held_out = (
        make_transformer(shape, normal_latents(60, shape)),
        normal_latents(100, shape, seed=1),
    )
    detector.train()
    detector.calibrate(held_out)
    assert detector.training
    found = detector.eval()(held_out).score.detach()
    assert int((found < 0).sum()) == 95
    assert float(found.quantile(0.95)) == pytest.approx(0, abs=1e-4)
    assert float(found.std(correction=0)) == pytest.approx(1, abs=1e-3)
    detector.calibrate(held_out)
    torch.testing.assert_close(detector(held_out).score, found, atol=1e-4, rtol=1e-4)


def test_calibration_does_not_depend_on_where_latents_are_kept() -> None:
    held_out, new = normal_latents(100, seed=1).half(), normal_latents(5, seed=2)
    sources: list[ImageSource] = [held_out, StreamedImages(held_out.numpy(), CPU)]
    answers = []
    for kept in sources:
        detector = make_transformer(known=normal_latents(60))
        detector.calibrate(kept)
        answers.append(detector(new).map)
    assert torch.equal(*answers)


def test_while_it_learns_the_generator_decides_what_it_sees() -> None:
    detector, latents, owners = make_transformer(known=normal_latents(60)), normal_latents(8), torch.arange(8)
    detector.train()
    first, again, other = (detector(latents, owners, seeded(seed)).map for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # A training image shows what is new about it only if it isn't compared with itself.
    assert not torch.equal(detector(latents, owners).map, detector(latents).map)


def sampler_of(known: Tensor) -> LatentBatchSampler:
    """Batches of normal latents ``known``, and of those with noise in some region."""
    generator = torch.Generator().manual_seed(3)
    count, _, rows, columns = known.shape
    sources = torch.arange(4 * count) % count
    row, column = (
        torch.randint(limit - 1, (4 * count, 1, 1), generator=generator) for limit in (rows, columns)
    )
    inside = (torch.arange(rows)[:, None] - row).abs() <= 1
    region = (inside & ((torch.arange(columns)[None] - column).abs() <= 1)).unsqueeze(1)
    strengths = 0.3 * (2 / 0.3) ** torch.rand(4 * count, 1, 1, 1, generator=generator)
    spoilt = known[sources] + strengths * region * torch.randn(
        4 * count, *known.shape[1:], generator=generator
    )
    nothing = torch.zeros(count, 1, rows, columns)
    return LatentBatchSampler(
        known, Pool(known, nothing, torch.arange(count)), Pool(spoilt, region.float(), sources)
    )


def make_training(
    steps: int, seed: int = 0, known: Tensor | None = None
) -> tuple[LatentTransformerDetector, TrainingState]:
    detector = make_transformer(known=known, seed=seed)
    return detector, TrainingState(detector, 3e-3, steps, seed)


def test_it_learns_to_find_what_it_never_saw() -> None:
    # Two columns vary so much that distances mislead; elsewhere small changes mean something.
    known, held_out, new = (normal_latents(n, seed=s, restless=5) for n, s in ((60, 0), (40, 1), (100, 2)))
    broken = new.clone()
    broken[:, :, 1:3, 3:5] += torch.randn(100, 6, 1, 1, generator=seeded(5))
    detector, state = make_training(200, known=known)
    detector.calibrate(held_out)
    untrained = auroc(detector(new).score, detector(broken).score)
    sampler = sampler_of(known)
    training = train_detector(
        state,
        detector,
        sampler,
        lambda batch: (batch.images, batch.sources, state.generator),
        16,
        token_losses,
    )
    losses = [float(progress.losses["total"]) for progress in training]
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])
    assert not detector.training
    detector.calibrate(held_out)
    found, heat = score(detector, lambda batch: (batch,), torch.cat([new, broken]), 5)
    assert auroc(found[:100], found[100:]) > max(0.9, untrained + 0.03)
    assert auroc(heat[:100], heat[100:, :, 1:3, 3:5]) > 0.9
    with torch.inference_mode():
        learned = [top_tokens(detector.logits(latents)[0][:, None]) for latents in (new, broken)]
    assert auroc(*learned) > max(0.9, untrained + 0.05)


def test_training_goes_on_exactly_where_it_stopped() -> None:
    known = normal_latents(60)
    sampler = sampler_of(known)

    def steps(detector: LatentTransformerDetector, state: TrainingState, last: int) -> None:
        training = train_detector(
            state,
            detector,
            sampler,
            lambda batch: (batch.images, batch.sources, state.generator),
            8,
            token_losses,
        )
        for progress in training:
            if progress.step == last:
                break

    whole, state = make_training(12, known=known)
    steps(whole, state, 12)
    half, half_state = make_training(12, known=known)
    steps(half, half_state, 5)
    kept = {name: tensor.clone() for name, tensor in half_state.tensors().items()}
    other, other_state = make_training(12, seed=9)  # other weights, and nothing in its memory
    other_state.restore(kept)
    steps(other, other_state, 12)
    assert not all(map(torch.equal, whole.parameters(), half.parameters()))
    for (name, one), again in zip(whole.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(one, again), name


@BOTH_SHAPES
def test_saved_and_loaded_it_scores_the_same(shape: tuple[int, ...], tmp_path: Path) -> None:
    detector = make_transformer(shape, normal_latents(60, shape))
    detector.calibrate(normal_latents(40, shape, seed=1))
    save_detector(tmp_path, detector)
    again = load_detector(tmp_path)
    assert isinstance(again, LatentTransformerDetector)
    assert again.input_shape == shape
    assert again.hyperparameters() == detector.hyperparameters()
    new = normal_latents(5, shape, seed=2)
    with torch.inference_mode():
        for one, other in zip(detector(new), again(new), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("latent_shape", None),
        ("latent_shape", []),
        ("latent_shape", [6, 5, 4]),
        ("memory_size", 7),
        ("memory_size", -1),
        ("width", 8),
        ("heads", 0),
        ("heads", 3),
        ("depth", "two"),
    ],
)
def test_damaged_facts_are_refused(fact: str, value: object, tmp_path: Path) -> None:
    save_detector(tmp_path, make_transformer(known=normal_latents(60)))
    path = tmp_path / "detector.json"
    description = json.loads(path.read_text())
    description["facts"].pop(fact)
    if value is not None:
        description["facts"][fact] = value
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"detector\."):
        load_detector(tmp_path)
