"""Batches of latents: normal ones, anomalies, pools, and samples of an agent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_latents import FLAT, SEEDS, SPATIAL, noise, seeded
from torch import Tensor

from detectors.blocks.tokens import MIN_SHARE, anomalous_tokens, grid_of
from detectors.training.batches import Batch
from detectors.training.latent_batches import LatentBatchSampler, Pool
from detectors.training.samples import Samples, SampleSource, make_mixture
from latent_common.image_source import ImageSource
from latent_env.data.placement import StreamedImages

CPU = torch.device("cpu")
COUNT = 10
VARIED, POOLED, AGENT_NORMAL, AGENT_ANOMALY = 100, 200, 300, 400


def constant_latents(values: Tensor, shape: tuple[int, ...] = SPATIAL) -> Tensor:
    """Latents that are everywhere the same."""
    return values.float().view(-1, *(1 for _ in shape)).expand(-1, *shape).clone()


def make_pool(kind: int, size: int = 30, shape: tuple[int, ...] = SPATIAL, seed: int = 0) -> Pool:
    """A pool whose latents hold the number of their kind plus that of the image that they were made of."""
    sources = torch.randint(COUNT, (size,), generator=seeded(seed))
    tokens = torch.zeros(size, 1, *grid_of(shape))
    if kind == POOLED:
        tokens[:, :, 0] = 1.0
        tokens[:, :, 1:2] = MIN_SHARE
        tokens[:, :, 2:3] = MIN_SHARE * 0.9
    return Pool(constant_latents(kind + sources, shape), tokens, sources)


def agent_samples(labels: list[int]) -> Samples:
    kinds = torch.tensor(labels)
    sources = torch.arange(len(labels)) % COUNT
    masks = torch.zeros(len(labels), 1, 5, 5, dtype=torch.bool)
    masks[kinds == 1, :, 4] = True
    return Samples(
        constant_latents(AGENT_NORMAL + 100 * kinds + sources), masks, kinds, sources, sources % 3 != 0
    )


def kinds_and_sources(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Which kind every latent is of, and which training image it shows."""
    values = latents.flatten(1)
    assert torch.equal(values, values[:, :1].expand_as(values))
    return values[:, 0].long() // 100 * 100, values[:, 0].long() % 100


def check_same(first: Batch, second: Batch) -> None:
    for one, other in zip(first, second, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(one, other)


KNOWN = constant_latents(torch.arange(COUNT))
POOLS = make_pool(VARIED), make_pool(POOLED)


@settings(max_examples=30)
@given(st.integers(1, 12), SEEDS, st.booleans())
def test_half_of_a_batch_is_normal(half: int, seed: int, flat: bool) -> None:
    shape = FLAT if flat else SPATIAL
    pools = make_pool(VARIED, shape=shape), make_pool(POOLED, shape=shape)
    sampler = LatentBatchSampler(constant_latents(torch.arange(COUNT), shape), *pools)
    batch = sampler.batch(2 * half, seeded(seed))
    assert batch.images.shape == (2 * half, *shape)
    assert batch.masks.shape == (2 * half, 1, *grid_of(shape))
    assert batch.labels.tolist() == [0.0] * half + [1.0] * half
    assert torch.equal(batch.masks.flatten(1).amax(1), batch.labels)
    kinds, shown = kinds_and_sources(batch.images)
    assert torch.equal(kinds == POOLED, batch.labels == 1)
    assert torch.equal(shown, batch.sources)


@settings(max_examples=40)
@given(
    st.integers(2, 25),
    st.sampled_from([0.0, 0.3, 1.0]),
    SEEDS,
)
def test_a_batch_names_the_training_image_of_every_latent(half: int, share: float, seed: int) -> None:
    samples = agent_samples([0, 1, 1, 0, 1, 0])
    sampler = LatentBatchSampler(KNOWN, *POOLS, make_mixture([SampleSource(samples, share)]))
    batch = sampler.batch(2 * half, seeded(seed))
    kinds, shown = kinds_and_sources(batch.images)
    assert torch.equal(batch.sources, shown)
    normal, anomalous = kinds[:half].tolist(), kinds[half:].tolist()
    assert anomalous.count(AGENT_ANOMALY) == round(share * half)
    assert normal.count(AGENT_NORMAL) == round(share * half / 2)
    assert set(normal) <= {0, AGENT_NORMAL, VARIED}
    assert set(anomalous) <= {AGENT_ANOMALY, POOLED}
    assert torch.equal(batch.masks.flatten(1).amax(1), batch.labels)
    pooled, agent = batch.masks[kinds == POOLED, 0], batch.masks[kinds == AGENT_ANOMALY, 0]
    assert (pooled[:, :2] == 1).all()
    assert (pooled[:, 2:] == 0).all()
    assert (agent[:, 4] == 1).all()
    assert (agent[:, :4] == 0).all()
    # Only samples may have an unknown mask.
    of_agent = (kinds == AGENT_ANOMALY) | (kinds == AGENT_NORMAL)
    assert torch.equal(batch.marked, ~of_agent | (shown % 3 != 0))


def test_samples_replace_pooled_anomalies_anywhere() -> None:
    sampler = LatentBatchSampler(KNOWN, *POOLS, make_mixture([SampleSource(agent_samples([0, 1]), 0.5)]))
    batches = [sampler.batch(40, seeded(seed)) for seed in range(20)]
    kinds = torch.stack([kinds_and_sources(batch.images)[0][20:] for batch in batches])
    assert ((kinds == AGENT_ANOMALY).sum(1) == 10).all()
    assert ((kinds == POOLED).sum(1) == 10).all()
    assert (kinds == AGENT_ANOMALY).any(0).all()


def test_about_half_of_the_normals_are_varied() -> None:
    kinds, _ = kinds_and_sources(LatentBatchSampler(KNOWN, *POOLS).batch(2000, seeded()).images)
    assert float((kinds[:1000] == VARIED).float().mean()) == pytest.approx(0.5, abs=0.06)
    assert (kinds[1000:] == POOLED).all()


def test_every_training_image_is_shown() -> None:
    batch = LatentBatchSampler(KNOWN, *POOLS).batch(400, seeded())
    assert torch.equal(batch.sources.unique(), torch.arange(COUNT))
    shared = Samples(*(torch.cat([part, part]) for part in agent_samples([1, 1, 1])))
    batch = LatentBatchSampler(KNOWN, *POOLS, make_mixture([SampleSource(shared, 1.0)])).batch(80, seeded())
    assert torch.equal(batch.sources[40:].unique(), torch.arange(3))


@pytest.mark.parametrize(
    ("labels", "kind", "missing"), [([1, 1], AGENT_ANOMALY, AGENT_NORMAL), ([0], AGENT_NORMAL, AGENT_ANOMALY)]
)
def test_an_agent_may_have_made_one_kind_only(labels: list[int], kind: int, missing: int) -> None:
    samples = make_mixture([SampleSource(agent_samples(labels), 0.5)])
    batch = LatentBatchSampler(KNOWN, *POOLS, samples).batch(16, seeded())
    kinds = kinds_and_sources(batch.images)[0].tolist()
    assert kinds.count(kind) == (4 if kind == AGENT_ANOMALY else 2)
    assert kinds.count(missing) == 0
    assert torch.equal(batch.masks.flatten(1).amax(1), batch.labels)


def test_an_agent_that_made_nothing_changes_nothing() -> None:
    nothing = make_mixture([SampleSource(agent_samples([0, 1]).of(2), 1.0)])
    with_nothing = LatentBatchSampler(KNOWN, *POOLS, nothing).batch(12, seeded())
    check_same(LatentBatchSampler(KNOWN, *POOLS).batch(12, seeded()), with_nothing)


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
def test_batches_of_streamed_latents_are_the_same(seed: int) -> None:
    known, varied, spoilt = (noise(20, seed=number).half() for number in (1, 2, 3))
    sources = torch.arange(20) % COUNT
    tokens = torch.rand(20, 1, 5, 5, generator=seeded(4))

    def sampler(streamed: bool) -> LatentBatchSampler:
        def kept(latents: Tensor) -> ImageSource:
            return StreamedImages(latents.numpy(), CPU) if streamed else latents

        pools = [Pool(kept(latents), tokens, sources) for latents in (varied, spoilt)]
        return LatentBatchSampler(
            kept(known), *pools, make_mixture([SampleSource(agent_samples([0, 1]), 0.25)])
        )

    first, second = (sampler(streamed).batch(16, seeded(seed)) for streamed in (False, True))
    assert first.images.dtype == torch.float32
    check_same(first, second)
