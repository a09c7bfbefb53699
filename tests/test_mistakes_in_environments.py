"""Mistakes in Python: with gym.make, with a batch, and in reward terms of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from latent_common.errors import UserError
from latent_env import RewardTerm, register_reward
from latent_env.dynamics import Dynamics
from latent_env.rewards.base import reward_terms

LONG = "x" * 5000
SINGLE, BATCH = "single", "batch"
both = pytest.mark.parametrize("kind", [SINGLE, BATCH])


def make(kind: str, env: str = "LatentAug-v0", **arguments: Any) -> Any:
    if kind == SINGLE:
        return gym.make(env, **arguments).unwrapped
    return gym.make_vec(env, num_envs=3, device="cpu", **arguments)


def step(env: Any) -> Any:
    return env.step(env.action_space.sample())


def raising(transition: Any) -> Any:
    return transition.distance / [][0]


VALUES: list[tuple[Callable[[Any], Any], str]] = [
    (raising, r"the reward term mine failed with IndexError: list index out of range \(.*py, line \d+\)"),
    (lambda t: t.colour, "the reward term mine failed with AttributeError: .*colour"),
    (
        lambda t: 0 * t.distance / 0,
        "the reward term mine returned NaN or infinity: every number must be finite",
    ),
    (lambda t: t.distance + torch.inf, "the reward term mine returned NaN or infinity"),
    (
        lambda t: t.distance[:, None],
        r"the reward term mine returned a tensor \(\d, 1\) of float32: .* tensor \(\d,\) of",
    ),
    (lambda t: t.distance.mean(), r"the reward term mine returned a tensor \(\) of float32"),
    (
        lambda t: t.label,
        r"the reward term mine returned a tensor \(\d,\) of int64: it must return .* of floats",
    ),
    (lambda t: float(t.distance.mean()), "the reward term mine returned float: it must return a tensor"),
    (lambda _: None, r"the reward term mine returned NoneType: it must return a tensor \(\d,\)"),
    (lambda t: t.distance.cpu().numpy(), "the reward term mine returned ndarray: it must return"),
]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Registers a reward term ``mine``, until the end of the test."""
    monkeypatch.setattr(reward_terms, "_factories", dict(reward_terms._factories))

    def register(value: Callable[[Any], Any], **attributes: Any) -> None:
        term = type("Mine", (RewardTerm,), {"value": lambda _, transition: value(transition), **attributes})
        register_reward("mine")(term)

    return register


@both
@pytest.mark.parametrize(("value", "message"), VALUES, ids=[message[16:50] for _, message in VALUES])
def test_a_term_of_ones_own_that_returns_something_else(
    value: Callable[[Any], Any], message: str, kind: str, own: Callable[..., None]
) -> None:
    own(value)
    env = make(kind, reward={"mine": 1.0})
    env.reset(seed=0)
    with pytest.raises(UserError, match=message):
        step(env)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"needs": ("colour",)},
            "the reward term mine needs 'colour', but a transition has .*, distance, decoded",
        ),
        ({"needs": "image"}, "the reward term mine has needs = 'image': make it a tuple"),
        ({"needs": (3,)}, "the reward term mine needs 3"),
        ({"needs": ("__class__",)}, "the reward term mine needs '__class__'"),
        ({"__init__": lambda _: 1 / 0}, "the reward term mine failed with ZeroDivisionError"),
        (
            {"__init__": lambda self, size: self.x(size)},
            "the reward term mine failed with TypeError: .*size",
        ),
    ],
    ids=lambda value: str(value)[:30].partition(" at ")[0],
)
def test_a_term_of_ones_own_that_cant_be_made(
    attributes: dict[str, Any], message: str, own: Callable[..., None]
) -> None:
    own(lambda transition: transition.distance, **attributes)
    with pytest.raises(UserError, match=message):
        make(SINGLE, reward={"mine": 1.0})


@both
@pytest.mark.parametrize("method", ["begin", "remember", "forget"])
def test_a_term_of_ones_own_whose_memory_fails(method: str, kind: str, own: Callable[..., None]) -> None:
    own(lambda transition: transition.distance, **{method: lambda self, *_: self.nowhere})
    env = make(kind, reward={"mine": 1.0})

    def play() -> None:
        for _ in range(2):
            env.reset(seed=0)
            step(env)

    with pytest.raises(UserError, match=r"the reward term mine failed with AttributeError: .*nowhere"):
        play()


def test_a_class_that_is_no_term(own: Callable[..., None]) -> None:
    register_reward("mine")(type("Other", (), {"value": lambda _, transition: transition.distance}))
    with pytest.raises(
        UserError, match=r"the reward term mine is a Other: derive it from latent_env\.RewardTerm"
    ):
        make(SINGLE, reward={"mine": 1.0})


def test_what_is_built_in_isnt_replaced(own: Callable[..., None]) -> None:
    class Boundary(RewardTerm):
        def value(self, transition: Any) -> Any:
            return transition.distance

    with pytest.raises(
        UserError, match=r"the reward boundary is there already \(latent_env.rewards.boundary"
    ):
        register_reward("boundary")(Boundary)
    register_reward("mine")(Boundary)
    register_reward("mine")(Boundary)  # a cell of a notebook that is run again


@both
@pytest.mark.parametrize("env", ["LatentAug-v0", "LatentDenoise-v0"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 10**12}, "horizon=1000000000000 is more than the 10,000 that are possible"),
        ({"horizon": 0}, "horizon=0 must be a whole number of at least 1"),
        ({"horizon": True}, "horizon=True must be"),
        ({"max_delta": float("nan")}, "max_delta=nan must be a finite number"),
        ({"max_delta": "far"}, "max_delta='far' must be a finite number"),
        ({"artifacts": LONG}, r"artifacts='xxxxxxxxxxxxxxxxxxxx… \(5,000 letters\)' can't be the path"),
        ({"artifacts": "x" * 300}, "can't be the path of a folder"),
        ({"artifacts": "a\0b"}, "can't be the path of a folder"),
        ({"artifacts": ""}, "artifacts='' must be a name or a folder"),
        ({"artifacts": 3}, "artifacts=3 must be a name or a folder"),
        ({"artifacts": "nowhere"}, "artifacts=nowhere "),
        ({"reward": {"nowhere:term": 1.0}}, "nowhere"),
        ({"reward": {"../x:term": 1.0}}, "x:term"),
        ({"reward": {"boundary": float("nan"), "critic": float("nan")}}, "nan.* must be"),
        ({"reward": "boundary"}, "reward='boundary' must map names of terms to weights"),
        ({"device": "abacus"}, "device=abacus is unknown"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_arguments(arguments: dict[str, Any], message: str, kind: str, env: str) -> None:
    with pytest.raises(UserError, match=message):
        gym.make_vec(env, **{"num_envs": 2, "device": "cpu", **arguments}) if kind == BATCH else gym.make(
            env, **arguments
        )


@pytest.mark.parametrize("count", [0, -1, 10**9, 2.5, True])
def test_numbers_of_worlds(count: Any) -> None:
    with pytest.raises(UserError, match=f"num_envs={count}"):
        gym.make_vec("LatentAug-v0", num_envs=count, device="cpu")


@both
@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 10**30, 1.5, "a", True])
def test_seeds(seed: Any, kind: str) -> None:
    env = make(kind)
    with pytest.raises(UserError, match=f"seed={seed!r} must be a whole number"):
        env.reset(seed=seed)


@pytest.mark.parametrize("seed", [[-1, 2, 3], ["a", "b", "c"], [1, 2**63, 3], [1.5, 2, 3]])
def test_lists_of_seeds(seed: list[Any]) -> None:
    env = make(BATCH)
    with pytest.raises(UserError, match=r"seed=.* must be a whole number from 0"):
        env.reset(seed=seed)


def test_the_last_seeds_differ() -> None:
    env = make(SINGLE)
    first, second = (env.reset(seed=2**63 - 1 - back) for back in (0, 1))
    assert not np.array_equal(first[0], second[0])
    with pytest.raises(
        UserError, match="seed=9223372036854775806 must be a whole number from 0 to 92233720368547758"
    ):
        make(BATCH).reset(seed=2**63 - 2)


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sorce": 1}, "options={'sorce': …} is unknown: a reset knows 'source'"),
        ([1, 2], r"options=\[1, 2\] must be a dictionary; it may hold 'source'"),
        ("source", "options='source' must be a dictionary"),
        ({"source": -1}, r"options\['source'\]=-1 must be a whole number from 0"),
        ({"source": 10**9}, r"options\['source'\]=1000000000 must be"),
        ({"source": "first"}, r"options\['source'\]='first' must be"),
    ],
    ids=str,
)
def test_options_of_a_reset(options: Any, message: str, kind: str) -> None:
    env = make(kind)
    with pytest.raises(UserError, match=message):
        env.reset(options=options)


def test_a_step_after_the_end() -> None:
    env = make(SINGLE, horizon=1)
    env.reset(seed=0)
    assert step(env)[2]
    with pytest.raises(gym.error.ResetNeeded, match="the episode is over: call"):
        step(env)
    env.reset()
    step(env)


@pytest.mark.parametrize("env", ["LatentAug-v0", "LatentDenoise-v0"])
def test_nan_in_one_world_spoils_no_other(env: str) -> None:
    reward = {"reward": {"coverage": 1.0, "novelty": 1.0, "boundary": 1.0}} if env == "LatentAug-v0" else {}
    dynamics: Dynamics = make(BATCH, env, **reward).dynamics
    actions = torch.full((3, dynamics.perturbation.action_size), 0.5)
    seeds = torch.arange(3)
    dynamics.reset_tensor(seeds=seeds)
    clean = [dynamics.step_tensor(actions) for _ in range(2)]
    actions[1] = torch.nan
    dynamics.reset_tensor(seeds=seeds)
    spoiled = [dynamics.step_tensor(actions) for _ in range(2)]
    for before, after in zip(clean, spoiled, strict=True):
        assert torch.equal(before.observations[[0, 2]], after.observations[[0, 2]])
        assert after.observations.isfinite().all()
        assert after.rewards.isfinite().all()
