"""The transformer of latents: its memory, what is made of latents, what it is fed, and what it learns."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detectors.errors import UserError
from detectors.images import ImageSource
from detectors.latent_diet import LatentDiet, Pool
from detectors.latent_synthesis import KINDS, LARGEST_SHARE, LatentSynthesis
from detectors.latent_transformer import LatentTransformer, token_losses
from detectors.memory import NOBODY, PlacedMemory
from detectors.tokens import (
    LEAST_SHARE,
    TOP_TOKENS,
    anomalous_tokens,
    as_tokens,
    at_size,
    grid_of,
    top_tokens,
)
from detectors.training import Batch, Portion, Samples, blend, score, train_detector
from detectors.training_state import TrainingState
from latent_env.artifacts import load_detector, save_detector
from latent_env.data.residence import StreamedImages

CPU = torch.device("cpu")
SPATIAL, FLAT = (6, 5, 5), (6,)
BOTH_SHAPES = pytest.mark.parametrize("shape", [SPATIAL, FLAT], ids=["spatial", "flat"])

SHAPES = st.one_of(
    st.tuples(st.integers(1, 6)), st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
)
SEEDS = st.integers(0, 2**31)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, shape: tuple[int, ...] = SPATIAL, seed: int = 9) -> Tensor:
    return torch.randn(count, *shape, generator=seeded(seed))


def normals(count: int, shape: tuple[int, ...] = SPATIAL, seed: int = 0, restless: float = 1.0) -> Tensor:
    """Latents that look alike; their left two columns are ``restless`` times as noisy."""
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
def test_a_peak_stays_at_its_place(data: st.DataObject) -> None:
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
def test_a_memory_finds_the_nearest_at_the_same_place(shape: tuple[int, ...]) -> None:
    known, new = noise(20, shape), noise(40, shape, seed=1)
    memory = PlacedMemory(shape, 20)
    memory.remember(known, torch.arange(20))
    difference, length = memory(new)
    expected, far = by_brute_force(known, new)
    torch.testing.assert_close(difference, expected)
    assert float(torch.corrcoef(torch.stack([length.flatten(), far.flatten()]))[0, 1]) > 0.99999
    assert torch.equal(memory(new[33:34])[0], difference[33:34])


def test_an_image_is_not_compared_with_itself() -> None:
    known = noise(40)
    owners = torch.arange(40).flip(0) + 100
    memory = PlacedMemory(SPATIAL, 40)
    memory.remember(known, owners)
    others = [[other for other in range(40) if other != own] for own in range(40)]
    difference, length = memory(known, owners)
    torch.testing.assert_close(difference, by_brute_force(known, known, others)[0])
    # Over the images it knows, lengths are in deviations from their mean.
    assert float(length.mean()) == pytest.approx(0, abs=1e-4)
    assert float(length.std(correction=0)) == pytest.approx(1, abs=1e-4)
    # Whose image it is decides, not what it looks like.
    near = known[:20] + 0.01
    torch.testing.assert_close(
        memory(near, owners[:20])[0], by_brute_force(known, near, others[:20])[0], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("owner", [None, NOBODY, 7])
def test_without_an_owner_in_memory_nothing_is_left_out(owner: int | None) -> None:
    known = noise(40)
    memory = PlacedMemory(SPATIAL, 40)
    memory.remember(known, torch.arange(40) + 100)
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
        memory = PlacedMemory(SPATIAL, 20)
        memory.remember(kept, torch.arange(20))
        answers.append(memory(new)[1])
    assert torch.equal(*answers)


def test_gradients_lead_away_from_the_nearest() -> None:
    known, new = noise(20), noise(6, seed=1).requires_grad_()
    memory = PlacedMemory(SPATIAL, 20)
    memory.remember(known, torch.arange(20))
    difference, length = memory(new)
    (gradient,) = torch.autograd.grad(length.sum(), new)
    away = difference / difference.norm(dim=2, keepdim=True)
    slope = as_tokens(gradient)
    torch.testing.assert_close(torch.cosine_similarity(slope, away, dim=2), torch.ones(6, 25))
    torch.testing.assert_close(slope.norm(dim=2) / slope.norm(dim=2).mean(), torch.ones(6, 25))
    same = known[:3].clone().requires_grad_()
    (at_rest,) = torch.autograd.grad(memory(same)[1].sum(), same)
    assert at_rest.isfinite().all()  # where the distance is 0, too


# --- the transformer ---


def transformer(
    shape: tuple[int, ...] = SPATIAL, known: Tensor | None = None, seed: int = 0
) -> LatentTransformer:
    """A small one, whose memory holds what is known."""
    remembered = 60 if known is None else len(known)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector = LatentTransformer(shape, remembered, width=16, depth=1, heads=2)
    if known is not None:
        detector.memory.remember(known, torch.arange(remembered))
    return detector.eval()


@settings(max_examples=20)
@given(SHAPES, st.sampled_from([1, 2, 4]), st.integers(1, 2), st.integers(1, 4))
def test_every_token_gets_a_logit(shape: tuple[int, ...], heads: int, depth: int, batch: int) -> None:
    detector = LatentTransformer(shape, 5, width=8, depth=depth, heads=heads).eval()
    detector.memory.remember(noise(5, shape), torch.arange(5))
    latents = noise(batch, shape, seed=1)
    found, heat = detector(latents)
    assert heat.shape == (batch, 1, *grid_of(shape))
    highest = heat.flatten(1).sort(1, descending=True).values[:, :TOP_TOKENS]
    torch.testing.assert_close(found, highest.mean(1))
    torch.testing.assert_close(detector(latents[:1]).map, heat[:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("width", "heads"), [(16, 3), (10, 4), (4, 8)])
def test_heads_must_divide_the_width(width: int, heads: int) -> None:
    with pytest.raises(UserError, match=f"detector.heads={heads} must divide detector.width={width}"):
        LatentTransformer(SPATIAL, 5, width=width, heads=heads)


@BOTH_SHAPES
def test_zero_is_further_out_than_95_percent_of_normals(shape: tuple[int, ...]) -> None:
    detector, held_out = transformer(shape, normals(60, shape)), normals(100, shape, seed=1)
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
    held_out, new = normals(100, seed=1).half(), normals(5, seed=2)
    sources: list[ImageSource] = [held_out, StreamedImages(held_out.numpy(), CPU)]
    answers = []
    for kept in sources:
        detector = transformer(known=normals(60))
        detector.calibrate(kept)
        answers.append(detector(new).map)
    assert torch.equal(*answers)


def test_while_it_learns_the_generator_decides_what_it_sees() -> None:
    detector, latents, owners = transformer(known=normals(60)), normals(8), torch.arange(8)
    detector.train()
    first, again, other = (detector(latents, owners, seeded(seed)).map for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # A training image shows what is new about it only if it isn't compared with itself.
    assert not torch.equal(detector(latents, owners).map, detector(latents).map)


def learning(
    steps: int, seed: int = 0, known: Tensor | None = None
) -> tuple[LatentTransformer, TrainingState]:
    detector = transformer(known=known, seed=seed)
    return detector, TrainingState(detector, 3e-3, steps, seed)


def test_it_learns_to_find_what_it_never_saw() -> None:
    # Two columns vary so much that distances mislead; elsewhere small changes mean something.
    known, held_out, new = (normals(n, seed=s, restless=5) for n, s in ((60, 0), (40, 1), (100, 2)))
    broken = new.clone()
    broken[:, :, 1:3, 3:5] += torch.randn(100, 6, 1, 1, generator=seeded(5))
    detector, state = learning(200, known=known)
    detector.calibrate(held_out)
    untrained = auroc(detector(new).score, detector(broken).score)
    diet = LatentDiet(known, LatentSynthesis({"noise": 1.0, "shift": 1.0}))
    training = train_detector(
        state, detector, diet, lambda batch: (batch.images, batch.sources, state.generator), 16, token_losses
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
    known = normals(60)
    diet = LatentDiet(known, LatentSynthesis(dict.fromkeys(KINDS, 1.0)))

    def steps(detector: LatentTransformer, state: TrainingState, last: int) -> None:
        training = train_detector(
            state,
            detector,
            diet,
            lambda batch: (batch.images, batch.sources, state.generator),
            8,
            token_losses,
        )
        for progress in training:
            if progress.step == last:
                break

    whole, state = learning(12, known=known)
    steps(whole, state, 12)
    half, half_state = learning(12, known=known)
    steps(half, half_state, 5)
    kept = {name: tensor.clone() for name, tensor in half_state.tensors().items()}
    other, other_state = learning(12, seed=9)  # other weights, and nothing in its memory
    other_state.restore(kept)
    steps(other, other_state, 12)
    assert not all(map(torch.equal, whole.parameters(), half.parameters()))
    for (name, one), again in zip(whole.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(one, again), name


@BOTH_SHAPES
def test_saved_and_loaded_it_says_the_same(shape: tuple[int, ...], tmp_path: Path) -> None:
    detector = transformer(shape, normals(60, shape))
    detector.calibrate(normals(40, shape, seed=1))
    save_detector(tmp_path, detector)
    again = load_detector(tmp_path)
    assert isinstance(again, LatentTransformer)
    assert again.input_shape == shape
    assert again.hyperparameters() == detector.hyperparameters()
    new = normals(5, shape, seed=2)
    with torch.inference_mode():
        for one, other in zip(detector(new), again(new), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("latent_shape", None),
        ("latent_shape", []),
        ("latent_shape", [6, 5, 4]),
        ("remembered", 7),
        ("remembered", -1),
        ("width", 8),
        ("heads", 0),
        ("heads", 3),
        ("depth", "two"),
    ],
)
def test_damaged_facts_are_refused(fact: str, value: object, tmp_path: Path) -> None:
    save_detector(tmp_path, transformer(known=normals(60)))
    path = tmp_path / "detector.json"
    description = json.loads(path.read_text())
    description["facts"].pop(fact)
    if value is not None:
        description["facts"][fact] = value
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"detector\."):
        load_detector(tmp_path)


# --- anomalies made of latents ---


@settings(max_examples=60)
@given(SHAPES, st.sampled_from([*KINDS, None]), st.integers(1, 9), SEEDS)
def test_latents_change_in_their_masks_alone(
    shape: tuple[int, ...], kind: str | None, batch: int, seed: int
) -> None:
    latents = noise(batch, shape, seed)
    kept = latents.clone()
    synthesis = LatentSynthesis({kind: 1.0} if kind else dict.fromkeys(KINDS, 1.0))
    if grid_of(shape) == (1, 1) and kind not in ("noise", "shift"):  # there is nowhere to take tokens from
        with pytest.raises(UserError, match="several tokens"):
            synthesis(latents, seeded(seed))
        return
    made = synthesis(latents, seeded(seed))
    assert torch.equal(latents, kept)
    assert made.images.shape == latents.shape
    assert made.masks.shape == (batch, 1, *grid_of(shape))
    assert set(made.masks.unique().tolist()) <= {0.0, 1.0}
    assert (made.masks.sum((1, 2, 3)) >= 1).all()
    inside = made.masks.flatten(1) == 1
    same = (as_tokens(made.images) == as_tokens(latents)).all(2)
    assert same[~inside].all()
    if kind in ("noise", "shift"):
        assert not same[inside].any()
    again = synthesis(latents, seeded(seed))
    assert torch.equal(made.images, again.images)
    assert torch.equal(made.masks, again.masks)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), SEEDS)
def test_no_region_is_larger_than_a_quarter(rows: int, columns: int, seed: int) -> None:
    masks = LatentSynthesis({"noise": 1.0})(torch.zeros(20, 1, rows, columns), seeded(seed)).masks
    area = max(LARGEST_SHARE * rows * columns, 1)
    # An ellipse at most three times as long as wide holds no more points of a grid than this, wherever
    # it lies: its area, half its outline and one.
    outline = 2 * math.pi * math.sqrt(area / math.pi * (3 + 1 / 3) / 2)
    assert masks.sum((1, 2, 3)).max() <= area + outline / 2 + 1


def test_regions_are_of_every_size_and_everywhere() -> None:
    masks = LatentSynthesis({"noise": 1.0})(torch.zeros(1000, 1, 20, 20), seeded()).masks[:, 0]
    assert (masks.sum(0) > 0).all()
    sizes = masks.sum((1, 2))
    assert (sizes <= 2).sum() > 50
    assert (sizes > 60).sum() > 50
    tall = masks.amax(2).sum(1) / masks.amax(1).sum(1)
    assert tall.min() < 0.5
    assert tall.max() > 2


def test_other_seeds_make_other_anomalies() -> None:
    latents, synthesis = noise(20), LatentSynthesis(dict.fromkeys(KINDS, 1.0))
    before = torch.get_rng_state()
    first, other = synthesis(latents, seeded(1)), synthesis(latents, seeded(2))
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.masks, other.masks)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_shift_is_the_same_for_all_tokens_and_noise_is_not() -> None:
    latents = noise(30, (6, 9, 9))
    for kind, alike in (("shift", True), ("noise", False)):
        made = LatentSynthesis({kind: 1.0})(latents, seeded())
        change, inside = as_tokens(made.images - latents), made.masks.flatten(1) == 1
        large = [number for number in range(30) if inside[number].sum() > 1]
        for number in large:
            changes = change[number, inside[number]]
            assert torch.allclose(changes, changes[:1].expand_as(changes), atol=1e-5) == alike
        assert len(large) > 10


def coded(count: int, rows: int = 6, columns: int = 7) -> Tensor:
    """Latents whose tokens say in channel 0 which image they are of, and in channel 1 where they were."""
    image = torch.arange(count).float()[:, None, None].expand(count, rows, columns)
    place = torch.arange(rows * columns).float().view(1, rows, columns).expand(count, rows, columns)
    return torch.stack([image, place], 1)


def test_a_transplant_is_of_one_other_image_and_place() -> None:
    latents = coded(40)
    made = LatentSynthesis({"transplant": 1.0})(latents, seeded())
    inside = made.masks.flatten(1) == 1
    tokens, places = as_tokens(made.images), torch.arange(42)
    moves = set()
    for number in range(40):
        image, place = tokens[number, inside[number]].unbind(1)
        assert len(image.unique()) == 1
        assert image[0] != number
        moved = (place - places[inside[number]]) % 42
        assert len(moved.unique()) == 1
        moves.add((int(image[0] - number) % 40, int(moved[0])))
    assert len(moves) > 30
    of_two = LatentSynthesis({"transplant": 1.0})(coded(2), seeded())
    for number in range(2):
        assert (of_two.images[number, 0, of_two.masks[number, 0] == 1] == 1 - number).all()


def test_a_shuffle_is_of_the_images_own_tokens() -> None:
    latents = coded(20)
    made = LatentSynthesis({"shuffle": 1.0})(latents, seeded())
    assert torch.equal(made.images[:, 0], latents[:, 0])
    moved = made.images[:, 1] != latents[:, 1]
    assert moved.sum() > 0.9 * made.masks.sum()
    for number in range(20):
        places = as_tokens(made.images)[number, made.masks[number].flatten() == 1, 1]
        assert len(places.unique()) == len(places)
    constant = torch.arange(20.0).view(20, 1, 1, 1).expand(20, 2, 6, 7)
    assert torch.equal(LatentSynthesis({"shuffle": 1.0})(constant, seeded()).images, constant)


def test_a_single_latent_can_be_spoilt_in_every_way() -> None:
    for kind in KINDS:
        made = LatentSynthesis({kind: 1.0})(noise(1), seeded())
        assert made.images.isfinite().all()
        assert made.masks.sum() >= 1


def test_weights_say_how_often() -> None:
    # A shuffle leaves constant latents as they are, a shift doesn't.
    latents = torch.zeros(1000, 2, 4, 4)
    for weights, share in (
        ({"shift": 3.0, "shuffle": 1.0}, 0.75),
        ({"shift": 0.0, "shuffle": 2.0, "noise": 0.0}, 0.0),
        ({"shift": 0.5, "shuffle": 0.0}, 1.0),
    ):
        made = LatentSynthesis(weights)(latents, seeded())
        changed = (made.images != 0).flatten(1).any(1).float().mean()
        assert float(changed) == pytest.approx(share, abs=0.06 if 0 < share < 1 else 0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"noise": 1.0, "cutpaste": 1.0}, r"unknown latent synthesis \['cutpaste'\]: choose among .*shuffle"),
        ({"noise": -1.0, "shift": 2.0}, "must be finite and not negative"),
        ({"noise": 0.0, "shift": 0.0}, "at least one above 0"),
        ({"noise": float("nan")}, "must be finite"),
        ({"noise": float("inf"), "shift": 1.0}, "must be finite"),
        ({}, "at least one above 0"),
    ],
)
def test_impossible_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LatentSynthesis(weights)


# --- what it is fed ---

COUNT = 10
VARIED, POOLED, AGENT_NORMAL, AGENT_ANOMALY = 100, 200, 300, 400
HARMLESS = LatentSynthesis({"shuffle": 1.0})
"""Of a latent that is everywhere the same it changes nothing: one can still see whose it is."""


def valued(values: Tensor, shape: tuple[int, ...] = SPATIAL) -> Tensor:
    """Latents that are everywhere the same."""
    return values.float().view(-1, *(1 for _ in shape)).expand(-1, *shape).clone()


def pool(kind: int, size: int = 30, shape: tuple[int, ...] = SPATIAL, seed: int = 0) -> Pool:
    """A pool whose latents say of which kind they are, plus the image that they were made of."""
    sources = torch.randint(COUNT, (size,), generator=seeded(seed))
    tokens = torch.zeros(size, 1, *grid_of(shape))
    if kind == POOLED:
        tokens[:, :, 0] = 1.0
        tokens[:, :, 1:2] = LEAST_SHARE
        tokens[:, :, 2:3] = LEAST_SHARE * 0.9
    return Pool(valued(kind + sources, shape), tokens, sources)


def agents(labels: list[int]) -> Samples:
    kinds = torch.tensor(labels)
    sources = torch.arange(len(labels)) % COUNT
    masks = torch.zeros(len(labels), 1, 5, 5, dtype=torch.bool)
    masks[kinds == 1, :, 4] = True
    return Samples(valued(AGENT_NORMAL + 100 * kinds + sources), masks, kinds, sources, sources % 3 != 0)


def said(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Which kind every latent is of, and which training image it shows."""
    values = latents.flatten(1)
    assert torch.equal(values, values[:, :1].expand_as(values))
    return values[:, 0].long() // 100 * 100, values[:, 0].long() % 100


def check_same(first: Batch, second: Batch) -> None:
    for one, other in zip(first, second, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(one, other)


KNOWN = valued(torch.arange(COUNT))


@settings(max_examples=30)
@given(st.integers(1, 12), SEEDS, st.booleans())
def test_half_of_a_batch_is_normal(half: int, seed: int, flat: bool) -> None:
    shape = FLAT if flat else SPATIAL
    diet = LatentDiet(noise(COUNT, shape), LatentSynthesis({"noise": 1.0}))
    batch = diet.batch(2 * half, seeded(seed))
    assert batch.images.shape == (2 * half, *shape)
    assert batch.masks.shape == (2 * half, 1, *grid_of(shape))
    assert batch.labels.tolist() == [0.0] * half + [1.0] * half
    assert torch.equal(batch.masks.flatten(1).amax(1), batch.labels)
    # Neither samples nor pools: what isn't anomalous is the training image's own.
    own = as_tokens(noise(COUNT, shape)[batch.sources])
    same = (as_tokens(batch.images) == own).all(2)
    assert torch.equal(same, batch.masks.flatten(1) == 0)


@settings(max_examples=40)
@given(
    st.integers(2, 25),
    st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.booleans(),
    SEEDS,
)
def test_everything_in_a_batch_says_whose_it_is(
    half: int, pool_share: float, share: float, vary: bool, seed: int
) -> None:
    samples = agents([0, 1, 1, 0, 1, 0])
    varied = pool(VARIED) if vary else None
    diet = LatentDiet(KNOWN, HARMLESS, varied, pool(POOLED), pool_share, blend([Portion(samples, share)]))
    batch = diet.batch(2 * half, seeded(seed))
    kinds, shown = said(batch.images)
    assert torch.equal(batch.sources, shown)
    normal, anomalous = kinds[:half].tolist(), kinds[half:].tolist()
    assert anomalous.count(AGENT_ANOMALY) == round(share * half)
    assert normal.count(AGENT_NORMAL) == round(share * half / 2)
    assert set(normal) <= {0, AGENT_NORMAL, *([VARIED] if vary else [])}
    assert set(anomalous) <= {0, AGENT_ANOMALY, POOLED, *([VARIED] if vary else [])}
    if share == 0:
        assert anomalous.count(POOLED) == round(pool_share * half)
    assert torch.equal(batch.masks.flatten(1).amax(1), batch.labels)
    pooled, agent = batch.masks[kinds == POOLED, 0], batch.masks[kinds == AGENT_ANOMALY, 0]
    assert (pooled[:, :2] == 1).all()
    assert (pooled[:, 2:] == 0).all()
    assert (agent[:, 4] == 1).all()
    assert (agent[:, :4] == 0).all()
    # Of samples alone, some don't say where the anomaly is.
    of_agent = (kinds == AGENT_ANOMALY) | (kinds == AGENT_NORMAL)
    assert torch.equal(batch.marked, ~of_agent | (shown % 3 != 0))


def test_agents_replace_pooled_and_other_anomalies_alike() -> None:
    diet = LatentDiet(KNOWN, HARMLESS, None, pool(POOLED), 0.5, blend([Portion(agents([0, 1]), 0.5)]))
    batches = [diet.batch(40, seeded(seed)) for seed in range(20)]
    kinds = torch.stack([said(batch.images)[0][20:] for batch in batches])
    assert ((kinds == AGENT_ANOMALY).sum(1) == 10).all()
    assert float((kinds == POOLED).float().mean()) == pytest.approx(0.25, abs=0.06)
    assert (kinds == AGENT_ANOMALY).any(0).all()


def test_about_half_of_the_normals_are_varied() -> None:
    diet = LatentDiet(KNOWN, HARMLESS, pool(VARIED))
    kinds, _ = said(diet.batch(2000, seeded()).images)
    for part in (kinds[:1000], kinds[1000:]):
        assert float((part == VARIED).float().mean()) == pytest.approx(0.5, abs=0.06)


def test_every_training_image_is_shown() -> None:
    batch = LatentDiet(KNOWN, HARMLESS).batch(400, seeded())
    assert torch.equal(batch.sources.unique(), torch.arange(COUNT))
    shared = Samples(*(torch.cat([part, part]) for part in agents([1, 1, 1])))
    batch = LatentDiet(KNOWN, HARMLESS, samples=blend([Portion(shared, 1.0)])).batch(80, seeded())
    assert torch.equal(batch.sources[40:].unique(), torch.arange(3))


@pytest.mark.parametrize(
    ("labels", "kind", "missing"), [([1, 1], AGENT_ANOMALY, AGENT_NORMAL), ([0], AGENT_NORMAL, AGENT_ANOMALY)]
)
def test_an_agent_may_have_made_one_kind_only(labels: list[int], kind: int, missing: int) -> None:
    samples = blend([Portion(agents(labels), 0.5)])
    batch = LatentDiet(KNOWN, HARMLESS, samples=samples).batch(16, seeded())
    kinds = said(batch.images)[0].tolist()
    assert kinds.count(kind) == (4 if kind == AGENT_ANOMALY else 2)
    assert kinds.count(missing) == 0
    assert torch.equal(batch.masks.flatten(1).amax(1), batch.labels)


def test_an_agent_that_made_nothing_changes_nothing() -> None:
    nothing = blend([Portion(agents([0, 1]).of(2), 1.0)])
    with_nothing = LatentDiet(noise(COUNT), HARMLESS, samples=nothing).batch(12, seeded())
    check_same(LatentDiet(noise(COUNT), HARMLESS).batch(12, seeded()), with_nothing)


def test_a_pool_alone_is_enough() -> None:
    diet = LatentDiet(KNOWN, None, None, pool(POOLED), 1.0)
    kinds, shown = said(diet.batch(20, seeded()).images)
    assert kinds.tolist() == [0] * 10 + [POOLED] * 10
    assert torch.equal(diet.batch(20, seeded()).sources, shown)


@given(st.integers(1, 6), st.integers(1, 6), SEEDS)
def test_every_anomaly_has_an_anomalous_token(rows: int, columns: int, seed: int) -> None:
    shares = torch.rand(8, 1, rows, columns, generator=seeded(seed)) ** 6
    shares[0] = 0
    marked = anomalous_tokens(shares)
    assert not marked[0].any()
    assert marked[1:].flatten(1).any(1).all()
    assert marked[shares >= 0.1].all()
    few = marked & (shares < 0.1)  # only where nothing reaches a tenth
    assert not (few.flatten(1).any(1) & (shares >= 0.1).flatten(1).any(1)).any()


@settings(max_examples=20)
@given(SEEDS)
def test_a_diet_of_streamed_latents_is_the_same(seed: int) -> None:
    known, varied, spoilt = (noise(20, seed=number).half() for number in (1, 2, 3))
    sources = torch.arange(20) % COUNT
    tokens = torch.rand(20, 1, 5, 5, generator=seeded(4))

    def diet(streamed: bool) -> LatentDiet:
        def kept(latents: Tensor) -> ImageSource:
            return StreamedImages(latents.numpy(), CPU) if streamed else latents

        pools = [Pool(kept(latents), tokens, sources) for latents in (varied, spoilt)]
        synthesis = LatentSynthesis(dict.fromkeys(KINDS, 1.0))
        return LatentDiet(kept(known), synthesis, *pools, 0.5, blend([Portion(agents([0, 1]), 0.25)]))

    first, second = (diet(streamed).batch(16, seeded(seed)) for streamed in (False, True))
    assert first.images.dtype == torch.float32
    check_same(first, second)
