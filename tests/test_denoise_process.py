"""The forward process against closed form, and the interpolation reward against a slow reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from latent_common.errors import UserError
from latent_env.denoise.process import SCHEDULES, ForwardProcess, mixed
from latent_env.denoise.quality import OUTSIDE, PATH_POINTS, interpolated

Floats = NDArray[np.float64]


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(times=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=8))
def test_noise_only_grows(schedule: str, times: list[float]) -> None:
    amounts = ForwardProcess(schedule).amount(torch.tensor(sorted(times)))
    assert (amounts >= 0).all()
    assert (amounts <= 1).all()
    assert (amounts.diff() >= 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ends_of_the_process(schedule: str) -> None:
    first, last = ForwardProcess(schedule).amount(torch.tensor([0.0, 1.0])).tolist()
    assert first == 0
    assert last == pytest.approx(1, abs=1e-4)


def test_schedules_are_what_their_names_say() -> None:
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    cosine = ForwardProcess("cosine").amount(times)
    np.testing.assert_allclose((1 - cosine**2).sqrt(), np.cos(math.pi / 2 * times.numpy()), atol=1e-9)
    # A thousand small steps, each with noise of variance β and the rest shrunk by √(1 − β).
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    linear = ForwardProcess("linear").amount(times)
    np.testing.assert_allclose((1 - linear**2)[1:], kept[9::10], atol=2e-3)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_mean_and_variance_of_noisy_states(schedule: str, time: float) -> None:
    generator = torch.Generator().manual_seed(0)
    process, count = ForwardProcess(schedule), 40_000
    clean = torch.tensor([2.0, -1.0, 0.5]).expand(count, 3)
    noise = torch.randn(count, 3, generator=generator)
    states = process.noisy(clean, noise, torch.full((count,), time))
    amount = float(process.amount(torch.tensor(time)))
    error = 5 * amount / count**0.5  # five standard errors
    np.testing.assert_allclose(states.mean(0), math.sqrt(1 - amount**2) * clean[0], atol=error)
    np.testing.assert_allclose(states.var(0), [amount**2] * 3, rtol=0.04)


def test_a_small_step_more_is_the_same_process() -> None:
    """Noise added in two steps has the variance of one: σ² = 1 − (1 − σ₁²)(1 − σ₂²)."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.zeros(40_000, 1)
    first, second = (torch.randn(40_000, 1, generator=generator) for _ in range(2))
    once = mixed(clean, first, torch.full((40_000,), 0.6))
    twice = mixed(once, second, torch.full((40_000,), 0.5))
    assert float(twice.var()) == pytest.approx(1 - (1 - 0.36) * (1 - 0.25), rel=0.03)


def test_unknown_schedules_are_refused() -> None:
    with pytest.raises(UserError, match="schedule='steps' is unknown: choose cosine or linear"):
        ForwardProcess("steps")


def slowly(state: Floats, clean: Floats, noise: Floats, process: ForwardProcess, corridor: float) -> float:
    """The interpolation reward, point by point."""
    amounts = [float(process.amount(torch.tensor(k / PATH_POINTS))) for k in range(PATH_POINTS + 1)]
    points = [math.sqrt(max(1 - a * a, 0)) * clean + a * noise for a in amounts]
    order = sorted(range(len(points)), key=lambda k: float(np.linalg.norm(state - points[k])))
    here, there = order[:2]
    if abs(here - there) != 1:
        return OUTSIDE
    way = points[there] - points[here]
    share = float(np.clip(np.dot(state - points[here], way) / np.dot(way, way), 0, 1))
    away = math.sqrt(np.mean((state - points[here] - share * way) ** 2))
    if away > corridor:
        return OUTSIDE
    return 1 - (amounts[here] + share * (amounts[there] - amounts[here]))


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(seed=st.integers(0, 10_000), time=st.floats(0.02, 0.98), beside=st.floats(0.01, 1.5))
def test_interpolation_equals_a_slow_reference(schedule: str, seed: int, time: float, beside: float) -> None:
    rng = np.random.default_rng(seed)
    process = ForwardProcess(schedule)
    clean, noise, off = rng.normal(size=(3, 5, 7)).astype(np.float32)
    amount = float(process.amount(torch.tensor(time)))
    states = math.sqrt(1 - amount**2) * clean + amount * noise + beside * off
    tensors = [torch.from_numpy(part.astype(np.float64)) for part in (states, clean, noise)]
    found = interpolated(*tensors, process, 0.5)  # type: ignore[arg-type]
    wanted = [slowly(s.numpy(), x.numpy(), e.numpy(), process, 0.5) for s, x, e in zip(*tensors, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=2e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_on_the_trajectory_quality_is_what_is_left_of_the_noise(schedule: str) -> None:
    generator = torch.Generator().manual_seed(3)
    clean, noise = torch.randn(2, 50, 16, generator=generator)
    process, times = ForwardProcess(schedule), torch.linspace(0, 1, 50)
    states = process.noisy(clean, noise, times)
    found = interpolated(states, clean, noise, process, 0.5)
    np.testing.assert_allclose(found, 1 - process.amount(times), atol=0.03)


def test_outside_the_corridor_nothing_can_be_interpolated() -> None:
    generator = torch.Generator().manual_seed(3)
    clean, noise, other = torch.randn(3, 20, 16, generator=generator)
    process = ForwardProcess("cosine")
    assert (interpolated(other, clean, noise, process, 0.5) == OUTSIDE).all()
    assert (interpolated(torch.zeros_like(clean), clean, noise, process, 0.5) == OUTSIDE).all()
    assert (interpolated(clean + 0.1, clean, noise, process, 0.5) > 0.9).all()
