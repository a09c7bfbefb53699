"""Rewards for what detectors learn from a sample, and for what it adds to the set."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import make_world
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from test_vector_env import MODES, assert_same, singles
from torch import Tensor

from agents.overoptimization import INTERVAL, OverOptimizationMonitor
from detectors.blocks.tokens import anomalous_tokens
from detectors.distances.knn import KnnDetector
from detectors.latent_transformer import LatentTransformerDetector
from detectors.transformer import TransformerDetector
from latent_common.errors import UserError
from latent_env.dynamics import Dynamics
from latent_env.rewards.anomaly_similarity import anomaly_descriptor
from latent_env.rewards.base import mean_less_disagreement, reward_terms
from latent_env.rewards.reward import Reward
from latent_env.settings import Settings
from latent_env.shell import ANOMALY, NORMAL, UNDECIDED
from latent_env.transition import Transition
from latent_env.vector_env import LatentAugVectorEnv
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.store import save_world
from latent_env.worlds.world import World

REFERENCE_TERMS = ["usefulness", "similarity"]
KINDS = ["image", "latent"]
ALL: dict[str, float] = dict.fromkeys(REFERENCE_TERMS, 1.0)


def member(of: World, kind: str, seed: int) -> TransformerDetector | LatentTransformerDetector:
    """Random weights, also in the last layer."""
    made: TransformerDetector | LatentTransformerDetector
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "image":
            made = TransformerDetector(1, 32, width=16, depth=1, heads=2)
            torch.nn.init.normal_(made.out.weight, std=0.1)
        else:
            made = LatentTransformerDetector(
                of.autoencoder.latent_shape, len(of.images), width=16, depth=1, heads=2
            )
            made.memory.fill(of.latents, torch.arange(len(of.images)))
    return made.eval().requires_grad_(False)


@functools.cache
def world(kind: str, reward_ensemble: int = 2) -> World:
    """An untrained world with a reference set, a reward ensemble and a held-out detector."""
    made = make_world("spatial")
    if kind == "latent":
        made = made.with_detector(member(made, kind, 0))
    normal, spoilt = made.images[:4], made.images[:4].clone()
    for number in range(4):
        spoilt[number, :, 5 * number : 5 * number + 8, 4:12] = 255
    images = torch.cat([normal, spoilt])
    inputs = images if kind == "image" else made.autoencoder.encode_all(images)
    marks = torch.zeros(8, 1, *made.latents.shape[2:], dtype=torch.bool)
    marks[4:, :, 1:3, :2] = True
    reference_set = ReferenceSet(inputs, torch.tensor([0] * 4 + [1] * 4), marks)
    members = [member(made, kind, 1 + number) for number in range(reward_ensemble)]
    return made.with_reward_ensemble(members, member(made, kind, 99)).with_reference_set(reference_set)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders that hold the worlds of `world` as artifacts."""
    made = {}
    for kind in KINDS:
        made[kind] = str(tmp_path_factory.mktemp(kind))
        save_world(Path(made[kind]), world(kind))
    return made


def dynamics(of: World, worlds: int = 4, **changes: Any) -> Dynamics:
    given = {"perturbation": "dense", "max_delta": 4.0, "reward": ALL, **changes}
    made = Settings(**given).dynamics(of, worlds)
    made.reset_tensor(seeds=torch.arange(worlds))
    return made


def random_actions(batch: Dynamics, seed: int = 0, length: float = 1.0) -> Tensor:
    shape = (batch.num_worlds, batch.perturbation.action_size)
    return length * (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1)


# --- as a stranger sees it ---


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("term", [*REFERENCE_TERMS, "matching", "coverage"])
def test_both_checkers(kind: str, term: str, folders: dict[str, str]) -> None:
    arguments: dict[str, Any] = {"artifacts": folders[kind], "reward": {term: 1.0}}
    env = gym.make("LatentAug-v0", **arguments, disable_env_checker=True)
    # The render check tries every mode, and "human" needs a screen to open its window on.
    check_env(env.unwrapped)
    check_env_sb3(gym.make("LatentAug-v0", **arguments).unwrapped)


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_are_finite_and_follow_from_the_seed(kind: str, folders: dict[str, str]) -> None:
    reward = {**ALL, "matching": 1.0, "coverage": 0.5}
    env = gym.make("LatentAug-v0", artifacts=folders[kind], reward=reward)

    def play(seed: int) -> list[float]:
        env.action_space.seed(seed)
        env.reset(seed=seed)
        rewards = []
        for _ in range(9):
            _, reward, terminated, _, info = env.step(env.action_space.sample())
            assert np.isfinite(float(reward))
            assert abs(info["reward_terms/similarity"]) <= 1 + 1e-5
            assert abs(info["reward_terms/matching"]) <= 1 + 1e-5
            assert 0 <= info["reward_terms/coverage"] <= 1
            rewards.append(float(reward))
            if terminated:
                env.reset()
        return rewards

    first, other = play(3), play(4)
    assert play(3) == first  # what happened in between is forgotten
    assert first != other
    assert len(set(first)) == 9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_single_worlds_side_by_side(kind: str, mode: AutoresetMode, folders: dict[str, str]) -> None:
    arguments: dict[str, Any] = {"artifacts": folders[kind], "horizon": 3, "reward": ALL}
    batch = LatentAugVectorEnv(3, **arguments, device="cpu", autoreset_mode=mode)
    single = singles(3, mode, **arguments)
    for ours, theirs in zip(batch.reset(seed=11), single.reset(seed=11), strict=True):
        assert_same(ours, theirs)
    single.action_space.seed(0)
    paid = []
    for step in range(10):
        actions = single.action_space.sample()
        ours, theirs = batch.step(actions), single.step(actions)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
        paid.append(ours[1])
        if step == 1:  # from here on some worlds end earlier than others
            mask = {"reset_mask": np.array([True, False, True])}
            assert_same(batch.reset(options=dict(mask))[0], single.reset(options=dict(mask))[0])
    assert np.ptp(paid) > 0.1


@pytest.mark.parametrize("term", REFERENCE_TERMS)
def test_a_world_without_a_reference_set_tells_what_is_missing(term: str, tmp_path: Path) -> None:
    save_world(tmp_path, world("image").with_reference_set(None))
    env = gym.make("LatentAug-v0", artifacts=str(tmp_path), reward={term: 1.0})
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"train_detector\.py.*reference_set\.json"):
        env.step(env.action_space.sample())


def test_detectors_without_a_last_layer_to_copy_are_named() -> None:
    made = make_world("spatial")
    shape = made.autoencoder.latent_shape
    knn = KnnDetector(shape).eval()
    reference_set = ReferenceSet(made.latents[:4], torch.tensor([0, 0, 1, 1]))
    batch = dynamics(made.with_detector(knn).with_reference_set(reference_set), reward={"usefulness": 1.0})
    with pytest.raises(UserError, match="KnnDetector: choose detector=transformer"):
        batch.step_tensor(random_actions(batch))


# --- copies that learn ---


def gains(batch: Dynamics, actions: list[Tensor]) -> Tensor:
    """What usefulness pays in a row, ``(steps, N)``."""
    return torch.stack([batch.step_tensor(action).reward_terms["usefulness"] for action in actions])


@pytest.mark.parametrize("kind", KINDS)
def test_copies_learn_during_an_episode_and_begin_anew(kind: str) -> None:
    batch = dynamics(world(kind), horizon=6)
    sources = torch.tensor([0, 3, 5, 7])
    batch.reset_tensor(sources=sources)
    still = torch.zeros_like(random_actions(batch))
    played = [random_actions(batch), still, still]  # the same sample again and again
    first = gains(batch, played)
    assert (first[1:] != first[:-1]).all()
    batch.reset_tensor(sources=sources)
    torch.testing.assert_close(gains(batch, played), first)
    # Where no episode begins, copies go on from what they know.
    some = torch.tensor([True, False, True, False])
    batch.reset_tensor(some, sources=sources)
    then = gains(batch, [torch.where(some[:, None], played[0], still)])[0]
    torch.testing.assert_close(then[some], first[0][some])
    alone = dynamics(world(kind), horizon=6)
    alone.reset_tensor(sources=sources)
    torch.testing.assert_close(then[~some], gains(alone, [*played, still])[3][~some])


@pytest.mark.parametrize("kind", KINDS)
def test_only_worlds_that_step_learn(kind: str) -> None:
    batch, steady = (dynamics(world(kind), horizon=9) for _ in range(2))
    actions = random_actions(batch)
    moving = torch.tensor([True, True, False, False])
    batch.step_tensor(actions, moving)
    still = torch.zeros_like(actions)
    batch.reset_tensor(torch.tensor([False, True, False, False]), sources=steady.sources)
    second = torch.where(torch.tensor([True, False, False, False])[:, None], still, actions)
    found = gains(batch, [second])[0]
    first, again = gains(steady, [actions, still])
    torch.testing.assert_close(found[0], again[0])
    torch.testing.assert_close(found[1:], first[1:])


def test_the_change_of_a_reference_anomaly_is_useful() -> None:
    """An agent that makes exactly the anomalies of the reference set is paid more than others."""
    base = world("latent")
    change = torch.zeros_like(base.latents[:4])
    for number in range(4):
        change[number, :, number, 1] = torch.tensor([3.0, -3.0, 2.0, 2.0, -2.0, 3.0])
    inputs = torch.cat([base.latents[:8], base.latents[:4] + change])
    reference_set = ReferenceSet(inputs, torch.tensor([0] * 8 + [1] * 4))
    batch = dynamics(base.with_reference_set(reference_set), shell_ratio=50.0)
    batch.reset_tensor(sources=torch.arange(4))
    step = batch.step_tensor((change / 4).flatten(1))
    torch.testing.assert_close(step.transition.latent, inputs[8:], atol=1e-5, rtol=0)
    assert (step.transition.label == ANOMALY).all()
    useful = step.reward_terms["usefulness"]
    assert useful.min() > 0
    assert step.reward_terms["similarity"].min() > 0.5  # each is one of four
    found = []
    for seed in range(8):
        batch.reset_tensor(sources=torch.arange(4))
        found.append(batch.step_tensor(random_actions(batch, seed)).reward_terms["usefulness"])
    assert torch.stack(found).mean() < useful.mean() / 2


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5)
@given(length=st.floats(0.02, 1.0), seed=st.integers(0, 1000))
def test_undecided_samples_are_paid_nothing(kind: str, length: float, seed: int) -> None:
    batch = dynamics(world(kind), 8, shell_band=0.5)
    result = batch.step_tensor(random_actions(batch, seed, length))
    undecided = result.transition.label == UNDECIDED
    for name in REFERENCE_TERMS:
        assert not result.reward_terms[name][undecided].any()
    normal = result.transition.label == NORMAL
    assert not result.reward_terms["similarity"][normal].any()
    # Nor do they teach anything: what comes next is paid as if they hadn't been.
    other = dynamics(world(kind), 8, shell_band=0.5)
    other.last = batch.last
    still = torch.zeros_like(random_actions(batch))
    after, fresh = gains(batch, [still])[0], gains(other, [still])[0]
    torch.testing.assert_close(after[undecided], fresh[undecided])


def test_all_labels_come_up() -> None:
    found: set[int] = set()
    for length in np.linspace(0.02, 1, 12):
        batch = dynamics(world("latent"), 8, shell_band=0.5)
        found |= set(batch.step_tensor(random_actions(batch, 0, float(length))).transition.label.tolist())
    assert found == {NORMAL, ANOMALY, UNDECIDED}


# --- reward ensembles ---


def paid(name: str, transition: Transition) -> Tensor:
    """What a fresh term pays."""
    with torch.no_grad():
        return reward_terms[name]().value(transition)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["boundary", "matching", *REFERENCE_TERMS])
def test_a_reward_ensemble_pays_its_mean_less_its_disagreement(name: str, kind: str) -> None:
    of = world(kind, 3)
    batch = dynamics(of, 6)
    transition = batch.step_tensor(random_actions(batch)).transition
    alone = torch.stack([paid(name, transition.with_reward_ensemble([each])) for each in of.reward_ensemble])
    expected = alone.mean(0) - alone.std(0, correction=0)
    torch.testing.assert_close(paid(name, transition), expected, atol=1e-5, rtol=1e-4)
    assert (alone.std(0) > 0).any()


@given(st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=5))
def test_disagreement_never_pays(values: list[list[float]]) -> None:
    each = torch.tensor(values, dtype=torch.double)
    found = mean_less_disagreement(each)
    assert (found <= each.mean(0) + 1e-9).all()
    if len(each) == 1:
        assert torch.equal(found, each[0])


def test_without_a_reward_ensemble_the_detector_pays() -> None:
    of = world("image").with_reward_ensemble([])
    batch = dynamics(of, reward={**ALL, "boundary": 1.0})
    transition = batch.step_tensor(random_actions(batch)).transition
    for name in ("boundary", *REFERENCE_TERMS):
        assert torch.equal(paid(name, transition), paid(name, transition.with_reward_ensemble([of.detector])))
    before = dynamics(world("image")).step_tensor(random_actions(batch)).transition
    assert not torch.equal(paid("boundary", before), paid("boundary", transition))


# --- as many as there are ---


def like_the_reference_set(of: World) -> tuple[World, Tensor]:
    """A world whose reference set has two kinds of anomalies, one three times as often, and how to make them.

    That is the changes ``(4, *latent_shape)`` of the first four images; the last is of the rarer kind.
    """
    change = torch.zeros_like(of.latents[:4])
    change[:3, :, 1, 1] = torch.tensor([3.0, -3.0, 2.0, 2.0, -2.0, 3.0])
    change[3, :, 2, 2] = torch.tensor([-4.0, 4.0, 3.0, -3.0, 4.0, -2.0])
    inputs = torch.cat([of.latents[:8], of.latents[:4] + change])
    return of.with_reference_set(ReferenceSet(inputs, torch.tensor([0] * 8 + [1] * 4))), change


def test_what_there_is_enough_of_pays_less() -> None:
    base, change = like_the_reference_set(world("latent").with_reward_ensemble([]))
    batch = dynamics(base, reward={"matching": 1.0}, shell_ratio=50.0, horizon=1)

    def made(*numbers: int) -> Tensor:
        """What is paid where worlds make these anomalies of the reference set."""
        chosen = torch.tensor(numbers)
        batch.reset_tensor(sources=chosen)
        return batch.step_tensor((change[chosen] / 4).flatten(1)).rewards

    alone = made(0, 1, 2, 3)  # nothing is there yet
    assert alone.min() > 0
    many = made(0, 0, 0, 0)
    assert many[0] > 0.0
    for _ in range(3):
        many = made(0, 0, 0, 0)
    rare = made(3, 3, 3, 3)[0]
    assert many[0] < 0 < rare  # the common kind is there often enough, the rarer one isn't
    for _ in range(200):
        even = made(0, 1, 2, 3)
    # Where both sets are the same, nothing is left to gain.
    torch.testing.assert_close(even, torch.zeros(4), atol=0.02, rtol=0)
    still = torch.zeros(4, batch.perturbation.action_size)
    batch.reset_tensor()
    assert (batch.step_tensor(still).rewards == -0.5).all()
    batch.reset_tensor(seeds=torch.arange(4))
    torch.testing.assert_close(made(0, 1, 2, 3), alone)  # what happened before is forgotten


@pytest.mark.parametrize("kind", KINDS)
def test_a_samples_descriptor_is_of_what_detectors_read(kind: str) -> None:
    batch = dynamics(world(kind), 6)
    step = batch.step_tensor(random_actions(batch)).transition
    seen = step.latent if kind == "latent" else step.world.autoencoder.encode(step.image)
    assert step.truth.any()
    shares = torch.nn.functional.adaptive_avg_pool2d(step.truth.float(), seen.shape[2:])
    for one, other in zip(step.descriptor, anomaly_descriptor(seen, anomalous_tokens(shares)), strict=True):
        torch.testing.assert_close(one, other)
    normal = step.label != ANOMALY
    assert not step.descriptor.inside[normal][:, : seen.shape[1]].any()  # there is nothing to be seen


def test_descriptors_decide_where_masks_are_known() -> None:
    base = world("image").with_reward_ensemble([])
    assert base.reference_set is not None
    batch = dynamics(base, 4, reward={"similarity": 1.0}, horizon=1)
    actions, sources = random_actions(batch), torch.arange(4)
    batch.reset_tensor(sources=sources)
    step = batch.step_tensor(actions)
    assert (step.transition.label == ANOMALY).all()
    inputs = torch.cat([base.images[:4], (step.transition.image * 255).round().to(torch.uint8)])
    labels = torch.tensor([0] * 4 + [1] * 4)
    grid = base.latents.shape[2:]
    shares = torch.nn.functional.adaptive_avg_pool2d(step.transition.truth.float(), grid)
    here = anomalous_tokens(shares)
    elsewhere = here.flip(2, 3)
    assert (here != elsewhere).any()

    def paid_where(marks: Tensor | None) -> Tensor:
        marks = None if marks is None else torch.cat([torch.zeros_like(marks), marks])
        batch = dynamics(
            base.with_reference_set(ReferenceSet(inputs, labels, marks)),
            4,
            reward={"similarity": 1.0},
            horizon=1,
        )
        batch.reset_tensor(sources=sources)
        return batch.step_tensor(actions).rewards

    similar, apart, anywhere = paid_where(here), paid_where(elsewhere), paid_where(None)
    assert (similar >= 0.2).all()  # each is one of four
    assert apart.mean() < similar.mean() < anywhere.mean()


# --- coverage ---


def test_coverage_pays_less_for_repetition_by_whomever() -> None:
    batch = dynamics(world("latent"), 3, reward={"coverage": 1.0}, horizon=20)
    same = torch.zeros(3, dtype=torch.int64)
    actions = random_actions(batch)
    similar = actions[[0, 0, 2]]
    batch.reset_tensor(sources=same)
    first = batch.step_tensor(similar).rewards
    assert first[:2].max() < 1e-3  # two worlds that do the same teach the set nothing new
    assert first[2] > 0.5
    batch.reset_tensor(sources=same)
    assert batch.step_tensor(actions[[2, 1, 1]]).rewards[0] < 1e-3  # another world did it before
    batch.reset_tensor(sources=same)
    fresh = batch.step_tensor(random_actions(batch, 5)).rewards
    assert fresh.min() > 0.5


def test_worlds_that_start_anew_take_their_changes_with_them() -> None:
    batch = dynamics(world("latent"), 2, reward={"coverage": 1.0}, horizon=20)
    sources, actions = torch.zeros(2, dtype=torch.int64), random_actions(batch)
    batch.reset_tensor(sources=sources)
    first = batch.step_tensor(actions).rewards
    one = torch.tensor([True, False])
    batch.reset_tensor(one, seeds=torch.tensor([7, 7]))
    batch.reset_tensor(sources=sources)
    again = batch.step_tensor(actions).rewards
    torch.testing.assert_close(again[0], first[0])
    assert again[1] < 1e-3


def test_coverage_keeps_so_many_and_no_more() -> None:
    term = reward_terms["coverage"]()
    most = term.MEMORY  # type: ignore[attr-defined]
    batch = dynamics(world("latent"), 64, reward={"novelty": 1.0}, horizon=100)
    everywhere = torch.ones(64, dtype=torch.bool)
    first = batch.step_tensor(random_actions(batch)).transition
    term.remember(first, everywhere)
    assert term.value(first).max() < 1e-3
    for seed in range(1, 1 + most // 64):
        batch.reset_tensor()
        term.remember(batch.step_tensor(random_actions(batch, seed)).transition, everywhere)
    assert term.value(first).min() > 0.1


# --- over-optimisation ---


def watched(of: World, weights: dict[str, float], steps: int) -> dict[str, float]:
    batch = dynamics(of, reward=weights)
    overoptimization = OverOptimizationMonitor(batch)
    for seed in range(steps):
        overoptimization.watch(batch.step_tensor(random_actions(batch, seed)).transition)
        batch.reset_tensor()
    return overoptimization.take_statistics()


@pytest.mark.parametrize("kind", KINDS)
def test_over_optimisation_compares_the_ensemble_with_a_held_out_detector(kind: str) -> None:
    of, weights = world(kind), {"usefulness": 1.0, "boundary": 0.5, "novelty": 9.0}
    found = watched(of, weights, 2 * INTERVAL)
    assert found.keys() == {"reward_ensemble", "held_out"}
    batch, expected = dynamics(of, reward=weights), dict.fromkeys(found, 0.0)
    for seed in range(2 * INTERVAL):
        transition = batch.step_tensor(random_actions(batch, seed)).transition
        batch.reset_tensor()
        if (seed + 1) % INTERVAL:
            continue
        assert of.held_out_detector is not None
        for name, step in (
            ("reward_ensemble", transition),
            ("held_out", transition.with_reward_ensemble([of.held_out_detector])),
        ):
            mean = paid("usefulness", step).mean() + 0.5 * paid("boundary", step).mean()
            expected[name] += float(mean) / 2
    assert found == pytest.approx(expected, abs=1e-5)
    assert found["reward_ensemble"] != pytest.approx(found["held_out"], abs=1e-5)


def test_a_held_out_detector_equal_to_the_others_scores_the_same() -> None:
    of = world("image")
    found = watched(
        of.with_reward_ensemble(of.reward_ensemble[:1], of.reward_ensemble[0]), {"usefulness": 1.0}, INTERVAL
    )
    assert found["reward_ensemble"] == pytest.approx(found["held_out"], abs=1e-6)


Without = Callable[[World], World]
NO_OVEROPTIMIZATION: list[tuple[Without, dict[str, float]]] = [
    (lambda of: replace(of, held_out_detector=None), {"usefulness": 1.0}),
    (lambda of: of, {"novelty": 1.0, "realism": 1.0}),  # no detector is asked
]


@pytest.mark.parametrize(("change", "weights"), NO_OVEROPTIMIZATION, ids=["no ensemble", "no term"])
def test_no_monitor_where_there_is_nothing_to_compare(change: Without, weights: dict[str, float]) -> None:
    assert watched(change(world("image")), weights, INTERVAL) == {}
    assert Reward({"novelty": 1.0}).detector_part(dynamics(world("image")).last) is None
