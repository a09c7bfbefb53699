"""The parts of the batched world: random streams, shell, perturbations, rewards, transitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_world
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import latent_env
from latent_common.errors import UserError
from latent_env import RewardTerm, Transition
from latent_env.perturbations.factory import make_perturbation
from latent_env.random_streams import Streams
from latent_env.rewards.reward import Reward
from latent_env.settings import Settings
from latent_env.shell import ANOMALY, NORMAL, UNDECIDED, Shell
from latent_env.worlds.world import World


def streams(*seeds: int, step: int = 0) -> Streams:
    made = Streams(len(seeds), torch.device("cpu"))
    made.seeds = torch.tensor(seeds)
    made.steps += step
    return made


def test_streams_look_random() -> None:
    normal = streams(*range(500)).normal(100).double()
    assert abs(float(normal.mean())) < 0.02
    assert abs(float(normal.std()) - 1) < 0.02
    assert abs(float((normal[:-1] * normal[1:]).mean())) < 0.02  # neighbouring seeds are unrelated
    assert abs(float((normal[:, :-1] * normal[:, 1:]).mean())) < 0.02
    integers = streams(*range(5000)).integers(10)
    counts = np.bincount(integers.numpy(), minlength=10)
    assert counts.min() > 400
    assert counts.max() < 600


@given(st.integers(0, 2**63 - 1), st.integers(0, 50))
def test_a_stream_depends_on_its_own_world_only(seed: int, step: int) -> None:
    alone = streams(seed, step=step).normal(3, 4)
    accompanied = streams(1, seed, 2, step=step).normal(3, 4)
    assert torch.equal(alone[0], accompanied[1])
    assert not torch.equal(alone, streams(seed, step=step + 1).normal(3, 4))


@given(
    st.floats(0.1, 5),
    st.floats(1.05, 4),
    st.lists(st.floats(-50, 50, width=32), min_size=24, max_size=24),
)
def test_shell_bounds_every_token(inner: float, ratio: float, change: list[float]) -> None:
    shell = Shell(inner, inner * ratio)
    start = torch.linspace(-1, 1, 24).view(1, 6, 2, 2)
    moved = start + torch.tensor(change).view(1, 6, 2, 2)
    inside = shell.project(moved, start)
    assert float(shell.distance(inside, start)) <= shell.outer * (1 + 1e-5)
    torch.testing.assert_close(shell.project(inside, start), inside)
    if float(shell.distance(moved, start)) <= shell.outer * (1 - 1e-5):
        torch.testing.assert_close(inside, moved)


def test_shell_labels() -> None:
    shell = Shell(1.0, 3.0, band=0.2)
    distance = torch.tensor([0.0, 0.79, 0.9, 1.1, 1.3, 1.3])
    visible = torch.tensor([False, True, True, True, True, False])
    expected = [NORMAL, NORMAL, UNDECIDED, UNDECIDED, ANOMALY, UNDECIDED]
    assert shell.label(distance, visible).tolist() == expected


def test_shell_comes_from_how_far_normals_lie_apart(flat_world: World) -> None:
    distances = torch.cdist(flat_world.latents, flat_world.latents).fill_diagonal_(torch.inf).amin(1)
    shell = Shell.around_normals(flat_world.autoencoder, 1.0, 2.0, 0.1)
    assert shell.inner == pytest.approx(float(distances.max()), rel=1e-4)
    assert shell.outer == pytest.approx(2 * shell.inner)


@pytest.mark.parametrize("latent", ["flat", "spatial"])
@pytest.mark.parametrize("name", ["dense", "principal", "brush"])
def test_perturbations(latent: str, name: str) -> None:
    world = make_world(latent)
    if latent == "flat" and name == "brush":
        with pytest.raises(UserError, match="brush needs a spatial latent"):
            make_perturbation(name, world, None)
        return
    perturbation = make_perturbation(name, world, None)
    random = streams(1, 2, 3)
    nothing = perturbation(perturbation.null_action.expand(3, -1), random, world.latents[:3])
    assert torch.equal(nothing, torch.zeros(3, *world.autoencoder.latent_shape))
    actions = torch.rand(3, perturbation.action_size) * 2 - 1
    delta = perturbation(actions, random, world.latents[:3])
    assert delta.shape == nothing.shape
    assert float(delta.abs().flatten(1).amax(1).min()) > 0
    doubled = make_perturbation(name, world, 2.0)
    halved = make_perturbation(name, world, 1.0)
    wide, half = (each(actions, random, world.latents[:3]) for each in (doubled, halved))
    torch.testing.assert_close(wide, 2 * half)


def test_the_brush_perturbs_where_and_how_the_action_says() -> None:
    world = make_world("spatial", size=64)
    last = world.autoencoder.latent_shape[2] - 1
    brush = make_perturbation("brush", world, 2.0)
    action = torch.zeros(1, brush.action_size)
    action[0, :5] = torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0])  # top right, small, strong, smooth
    action[0, 5] = 1.0
    strength = brush(action, streams(0), world.latents[:1])[0].norm(dim=0)
    assert np.unravel_index(int(strength.argmax()), strength.shape) == (0, last)
    assert float(strength.max()) == pytest.approx(2.0, rel=1e-4)
    assert float(strength[last // 2 :, : last // 2].max()) < 1e-3

    action[0, 2] = 1.0  # wide: now the directions of neighbouring tokens can be compared

    def alignment(roughness: float) -> float:
        action[0, 4] = roughness
        delta = brush(action, streams(0), world.latents[:1])[0]
        unit = delta / delta.norm(dim=0, keepdim=True).clamp_min(1e-9)
        return float((unit[:, :4, -4:-1] * unit[:, :4, -3:]).sum(0).mean())

    assert alignment(-1.0) == pytest.approx(1.0, abs=1e-4)
    assert abs(alignment(1.0)) < 0.5


@latent_env.register_perturbation("first_only")
class FirstOnly:
    """A user's perturbation: only the first dimension moves."""

    def __init__(self, world: World, max_delta: float | None) -> None:  # noqa: ARG002
        self.action_size, self.max_delta = 1, max_delta or 1.0
        self.null_action = torch.zeros(1)

    def __call__(self, actions: Tensor, streams: Streams, latents: Tensor) -> Tensor:  # noqa: ARG002
        delta = torch.zeros_like(latents)
        delta.view(len(actions), -1)[:, :1] = self.max_delta * actions
        return delta


@latent_env.register_reward("brightness")
class Brightness(RewardTerm):
    """A user's reward term."""

    def value(self, transition: Transition) -> Tensor:
        return transition.image.mean(dim=(1, 2, 3))


def test_users_rewards_and_perturbations() -> None:
    import gymnasium as gym

    # A name with its module works from a fresh process too, where nothing is registered yet.
    arguments = {"reward": {"test_dynamics:brightness": 2.0}, "perturbation": "test_dynamics:first_only"}
    env = gym.make("LatentAug-v0", **arguments)  # type: ignore[arg-type]
    before, _ = env.reset(seed=0)
    after, reward, _, _, info = env.step(np.ones(1, np.float32))
    assert np.flatnonzero(before != after).tolist() == [0]
    assert 0 < reward == pytest.approx(2 * info["reward_terms/test_dynamics:brightness"])


def test_names_of_users_things_are_checked() -> None:
    with pytest.raises(UserError, match="can't be named"):
        latent_env.register_reward("a:b")


def test_an_unfinished_reward_term_is_refused() -> None:
    class Forgotten(RewardTerm):
        pass

    with pytest.raises(TypeError, match="value"):
        Forgotten()  # type: ignore[abstract]


def test_pay_doesnt_depend_on_earlier_episodes() -> None:
    import gymnasium as gym

    env = gym.make("LatentAug-v0", horizon=4)
    env.reset(seed=0)
    action = env.action_space.sample()
    paid: dict[bytes, set[tuple[float, ...]]] = {}
    for _ in range(60):  # from the same image, which asks for one of 32 anomalies
        seen, _ = env.reset(options={"source": 3})
        paid.setdefault(seen.tobytes(), set()).add(
            tuple(float(env.step(action if step else -action)[1]) for step in range(4))
        )
    assert 20 < len(paid) <= 32
    assert all(len(rewards) == 1 for rewards in paid.values())


def test_episode_novelty_compares_with_the_start_and_what_came_after_it(flat_world: World) -> None:
    dynamics = Settings(reward={"episode_novelty": 1.0}, horizon=100).dynamics(flat_world, 2)
    dynamics.reset_tensor(seeds=torch.tensor([1, 2]))
    still = torch.zeros(2, dynamics.perturbation.action_size)
    there = torch.full_like(still, 0.3)
    there[1] = 0  # the second world never moves
    paid = [dynamics.step_tensor(action).rewards for action in (still, there, still, -there, there)]
    assert torch.stack(paid)[:, 1].abs().max() < 1e-4
    moved = torch.stack(paid)[:, 0]
    assert moved[1] > 0.1
    assert moved[[0, 2, 3, 4]].abs().max() < 1e-4  # staying, back at the start, back where it was


def test_novelty_falls_with_repetition_and_world_by_world(flat_world: World) -> None:
    dynamics = Settings(reward={"novelty": 1.0}, horizon=100).dynamics(flat_world, 2)
    dynamics.reset_tensor(seeds=torch.tensor([1, 2]))
    go, back = torch.full((2, 6), 0.5), torch.full((2, 6), -0.5)
    first = dynamics.step_tensor(go).rewards
    assert torch.equal(first, torch.ones(2))
    dynamics.step_tensor(back)
    assert torch.all(dynamics.step_tensor(go).rewards < 1e-3)  # the same change as the first
    dynamics.reset_tensor(torch.tensor([True, False]), seeds=torch.tensor([1, 2]))
    fresh = dynamics.step_tensor(go).rewards
    assert float(fresh[0]) == 1.0
    assert float(fresh[1]) < 1.0


def test_a_step_computes_only_what_the_reward_needs(flat_world: World) -> None:
    dynamics = Settings(reward={"novelty": 1.0}).dynamics(flat_world, 2)
    dynamics.reset_tensor(seeds=torch.tensor([1, 2]))
    transition = dynamics.step_tensor(torch.ones(2, 6)).transition
    assert "decoded" not in vars(transition)
    assert "detection" not in vars(transition)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from(["flat", "spatial"]))
def test_transitions_keep_their_promises(seed: int, latent: str) -> None:
    world = make_world(latent)
    dynamics = Settings().dynamics(world, 3)
    dynamics.reset_tensor(seeds=torch.arange(3) + seed)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        actions = torch.rand(3, dynamics.perturbation.action_size, generator=generator) * 2 - 1
        step = dynamics.step_tensor(actions).transition
        assert float(step.distance.max()) <= dynamics.shell.outer * (1 + 1e-5)
        assert 0 <= float(step.image.min()) <= float(step.image.max()) <= 1
        outside = (step.support == 0).expand_as(step.image)
        torch.testing.assert_close(step.image[outside], step.start_image[outside])
        assert torch.equal(
            step.truth.flatten(1).any(1), (step.label == ANOMALY) & step.mask.flatten(1).any(1)
        )
        assert dynamics.observe().abs().max() <= dynamics.observation_bound


def test_imagining_changes_nothing_and_has_gradients(spatial_world: World) -> None:
    dynamics = Settings().dynamics(spatial_world, 2)
    before = dynamics.reset_tensor(seeds=torch.tensor([1, 2]))
    actions = torch.zeros(2, dynamics.perturbation.action_size, requires_grad=True)
    score = dynamics.imagine(actions).detection.score
    (gradient,) = torch.autograd.grad(score.sum(), actions)
    assert gradient.shape == actions.shape
    assert torch.equal(dynamics.observe(), before)
    detached = actions.detach()
    torch.testing.assert_close(dynamics.step_tensor(detached).transition.detection.score, score.detach())


def test_rewards_reject_what_is_no_weight() -> None:
    for weights in ({"boundary": True}, {"boundary": "1"}, {"boundary": float("inf")}, {"boundary": 0}):
        with pytest.raises(UserError):
            Reward(weights)  # type: ignore[arg-type]
