"""The nearest neighbours of known latents are looked up once, and nothing else changes."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_latents import FLAT, SPATIAL, noise, seeded
from torch import Tensor

import detectors.distances.memory_bank
from detectors.blocks.tokens import grid_of
from detectors.distances.memory_bank import NO_OWNER, PositionalMemory
from detectors.distances.neighbour_cache import UNKNOWN, NeighbourCache, fill_memory
from detectors.latent_transformer import LatentTransformerDetector, token_losses
from detectors.training.batches import Batch
from detectors.training.latent_batches import ANOMALOUS, SAMPLES, VARIED, LatentBatchSampler, Pool
from detectors.training.loop import train_detector
from detectors.training.samples import Samples, SampleSource, make_mixture
from latent_common.training_state import TrainingState
from latent_env.worlds.artifacts import load_detector, save_detector

BOTH_SHAPES = pytest.mark.parametrize("shape", [SPATIAL, FLAT], ids=["spatial", "flat"])
COUNT = 30


def filled(shape: tuple[int, ...] = SPATIAL, size: int = 20) -> PositionalMemory:
    memory = PositionalMemory(shape, size)
    memory.fill(noise(size, shape, seed=1), torch.arange(size))
    return memory


def full_sampler(shape: tuple[int, ...] = SPATIAL, share: float = 0.5) -> LatentBatchSampler:
    """Latents of all kinds."""
    sources, places = torch.arange(40) % COUNT, (40, 1, *grid_of(shape))
    varied = Pool(noise(40, shape, 2).half(), torch.zeros(places), sources)
    anomalous = Pool(noise(40, shape, 3).half(), torch.rand(places, generator=seeded(4)), sources)
    labels = torch.arange(20) % 2
    masks = (labels == 1).view(-1, 1, 1, 1).expand(20, 1, *grid_of(shape))
    samples = Samples(noise(20, shape, 5), masks, labels, torch.arange(20), labels == 1)
    blended = make_mixture([SampleSource(samples, share)])
    return LatentBatchSampler(noise(COUNT, shape, 1).half(), varied, anomalous, blended)


def all_known(sampler: LatentBatchSampler) -> tuple[Tensor, Tensor]:
    """The known latents of a sampler in their order, and which images they were made of."""
    agents = () if sampler.samples is None else sampler.samples.by_label
    parts = [sampler.latents[:], sampler.varied.latents[:], sampler.anomalous.latents[:]]
    own = [torch.arange(len(sampler.latents)), sampler.varied.sources, sampler.anomalous.sources]
    latents = torch.cat([part.float() for part in (*parts, *(made.images for made in agents))])
    return latents, torch.cat([*own, *(made.sources for made in agents)])


# --- the memory ---


@settings(max_examples=40)
@given(st.sampled_from([SPATIAL, FLAT, (2, 3, 7)]), st.integers(0, 40), st.integers(0, 2**31))
def test_nothing_is_nearest_to_itself(shape: tuple[int, ...], batch: int, seed: int) -> None:
    memory, latents = filled(shape), noise(batch, shape, seed)
    latents[:20] = noise(20, shape, seed=1)[:batch]
    own = torch.arange(batch)
    assert torch.equal(memory.nearest(latents)[:20], own[:20, None].expand(-1, len(memory.tokens)))
    found = memory.nearest(latents, own)
    assert found.shape == (batch, grid_of(shape)[0] * grid_of(shape)[1])
    assert (found[:20] != own[:20, None]).all()
    nobody = memory.nearest(latents, torch.full((batch,), NO_OWNER))
    assert torch.equal(nobody, memory.nearest(latents))


def test_it_doesn_t_matter_how_many_are_looked_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers() -> list[Tensor]:
        memory, latents, owners = filled(), noise(70), torch.arange(70)
        return [memory.nearest(latents, owners), memory(latents)[0], memory.location, memory.scale]

    together = answers()
    monkeypatch.setattr(detectors.distances.memory_bank, "DISTANCES_AT_ONCE", 1)
    monkeypatch.setattr(detectors.distances.memory_bank, "MIN_AT_ONCE", 3)
    for one, other in zip(together, answers(), strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_given_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, latents = filled(), noise(8).requires_grad_()
    whole = memory(latents)
    nearest = memory.nearest(latents)
    monkeypatch.setattr(PositionalMemory, "nearest", None)
    given_too = memory(latents, None, nearest)
    slopes = [torch.autograd.grad(length.sum(), latents)[0] for _, length in (whole, given_too)]
    for one, other in zip((*whole, slopes[0]), (*given_too, slopes[1]), strict=True):
        assert torch.equal(one, other)


def test_a_memory_that_knows_what_is_nearest_to_itself_is_the_same() -> None:
    known, first, again = noise(20), PositionalMemory(SPATIAL, 20), PositionalMemory(SPATIAL, 20)
    nearest = first.fill(known, torch.arange(20))
    assert torch.equal(nearest, first.nearest(known, torch.arange(20)))
    assert torch.equal(again.fill(known, torch.arange(20), nearest), nearest)
    for one, other in zip(first.buffers(), again.buffers(), strict=True):
        assert torch.equal(one, other)


def test_lengths_of_tokens_follow_the_tokens(tmp_path: Any) -> None:
    detector = LatentTransformerDetector(SPATIAL, 20, width=8, depth=1, heads=2).eval()
    detector.memory.fill(noise(20, seed=1), torch.arange(20))
    assert not any("squares" in name for name in detector.state_dict())
    expected = detector.memory.tokens.square().sum(2)
    save_detector(tmp_path, detector)
    loaded = load_detector(tmp_path)
    restored = copy.deepcopy(LatentTransformerDetector(SPATIAL, 20, width=8, depth=1, heads=2))
    restored.load_state_dict(detector.state_dict())
    assert isinstance(loaded, LatentTransformerDetector)
    for other in (detector, loaded, restored, copy.deepcopy(detector)):
        assert torch.equal(other.memory.squares, expected)
        assert torch.equal(other.memory.nearest(noise(9)), detector.memory.nearest(noise(9)))


# --- the numbers in a batch ---


@BOTH_SHAPES
@settings(max_examples=25)
@given(st.integers(2, 20), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 2**31))
def test_a_batch_tells_which_latents_it_holds(
    shape: tuple[int, ...], half: int, share: float, seed: int
) -> None:
    sampler = full_sampler(shape, share)
    batch = sampler.batch(2 * half, seeded(seed))
    latents, sources = all_known(sampler)
    assert len(latents) == sampler.known_offsets[-1]
    assert batch.known is not None
    assert torch.equal(latents[batch.known], batch.images)
    assert torch.equal(sources[batch.known], batch.sources)


def test_all_kinds_are_drawn() -> None:
    sampler = full_sampler()
    batch = sampler.batch(400, seeded())
    assert batch.known is not None
    first = sampler.known_offsets
    assert first == [0, COUNT, COUNT + 40, COUNT + 80, COUNT + 90, COUNT + 100]
    for start, end in pairwise(first):
        assert ((batch.known >= start) & (batch.known < end)).any()
    assert 0 < first[VARIED] < first[ANOMALOUS] < first[SAMPLES]


# --- what is kept ---


@BOTH_SHAPES
def test_nothing_is_looked_up_twice(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    memory, sampler = filled(shape), full_sampler(shape)
    latents, owners = all_known(sampler)
    expected = memory.nearest(latents, owners)
    nearest = NeighbourCache(memory, sampler.known_offsets[-1])
    assert nearest.found.dtype == torch.int16
    looked_up, search = [0], PositionalMemory.nearest

    def counted(self: PositionalMemory, latents: Tensor, owners: Tensor) -> Tensor:
        looked_up[0] += len(latents)
        return search(self, latents, owners)

    monkeypatch.setattr(PositionalMemory, "nearest", counted)
    for seed in range(80):
        batch = sampler.batch(16, seeded(seed))
        assert batch.known is not None
        found = nearest(batch.images, batch.sources, batch.known)
        assert found.dtype == torch.int64
        assert torch.equal(found, search(memory, batch.images, batch.sources))
    kept = (nearest.found != UNKNOWN).all(1)
    assert kept.float().mean() > 0.95
    assert torch.equal(nearest.found[kept].long(), expected[kept])
    # A latent that stands in a batch twice may be looked up twice.
    assert int(kept.sum()) <= looked_up[0] < 1.3 * int(kept.sum())


def trained(
    sampler: LatentBatchSampler, once: bool, found: Tensor | None = None, memory_size: int = 20
) -> tuple[LatentTransformerDetector, list[float], NeighbourCache]:
    torch.manual_seed(0)
    detector = LatentTransformerDetector(SPATIAL, memory_size, width=16, depth=1, heads=2)
    nearest = fill_memory(detector.memory, sampler.latents, sampler.known_offsets[-1], found)
    state = TrainingState(detector, 3e-3, 40, seed=0)

    def inputs_of(batch: Batch) -> tuple[Any, ...]:
        assert batch.known is not None
        known = nearest(batch.images, batch.sources, batch.known) if once else None
        return batch.images, batch.sources, state.generator, known

    training = train_detector(state, detector, sampler, inputs_of, 16, token_losses)
    return detector, [float(progress.losses["total"]) for progress in training], nearest


def test_training_learns_the_same_with_and_without() -> None:
    sampler = full_sampler()
    standard, losses, _ = trained(sampler, once=False)
    same, same_losses, nearest = trained(sampler, once=True)
    again, again_losses, _ = trained(sampler, True, nearest.found[: sampler.known_offsets[SAMPLES]].clone())
    assert losses[0] != losses[-1]
    for other, other_losses in ((same, same_losses), (again, again_losses)):
        assert other_losses == pytest.approx(losses, rel=1e-4)
        for one, two in zip(standard.state_dict().values(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("memory_size", [7, COUNT])
def test_a_later_training_begins_with_what_is_known(
    memory_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = full_sampler()
    memory = PositionalMemory(SPATIAL, memory_size)
    nearest = fill_memory(memory, sampler.latents, sampler.known_offsets[-1])
    assert int((nearest.found != UNKNOWN).all(1).sum()) == memory_size
    kept = memory.owners
    assert torch.equal(nearest.found[kept].long(), memory.nearest(sampler.latents[kept].float(), kept))
    other = PositionalMemory(SPATIAL, memory_size)
    monkeypatch.setattr(PositionalMemory, "nearest", None)
    later = fill_memory(
        other, sampler.latents, sampler.known_offsets[-1], nearest.found[: sampler.known_offsets[SAMPLES]]
    )
    assert torch.equal(later.found, nearest.found)
    for one, two in zip(memory.buffers(), other.buffers(), strict=True):
        assert torch.equal(one, two)
