"""One world, as Gymnasium and a stranger's code see it."""

from __future__ import annotations

import ast
import inspect
import json
import pickle
import re
import warnings
from dataclasses import fields
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import WORLDS
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from latent_common.errors import UserError
from latent_env.denoise.env import LatentDenoiseEnv
from latent_env.denoise.settings import DenoiseSettings
from latent_env.env import LatentAugEnv
from latent_env.settings import Settings
from latent_env.worlds.store import BUILTIN, builtin_names
from latent_env.worlds.tasks import DIGESTS, FIXED, Task, digest

AUGMENT, DENOISE = "LatentAug-v0", "LatentDenoise-v0"
TASKS = [task.id for task in FIXED]
VARIANTS: list[dict[str, Any]] = [
    {"artifacts": "digits"},
    {"perturbation": "principal", "reward": {"boundary": 1.0}, "time_aware": True, "horizon": 4},
    {"artifacts": "phantom"},
    {"artifacts": "phantom", "perturbation": "principal", "reward": {"boundary": 1.0}},
    {"artifacts": "phantom", "perturbation": "dense", "reward": {"realism": 1.0}, "horizon": 2},
    {"artifacts": "phantom", "perturbation": "local_edit", "horizon": 2, "blending": "poisson"},
]
DENOISING: list[dict[str, Any]] = [
    {},
    {"conditional": False, "time_aware": True, "reward": {"critic": 0.5, "interpolate": 1.0}},
    {"start": "drawn", "schedule": "linear", "threshold": None, "horizon": 3},
    {"space": "pixel", "start": "drawn"},
]
CASES = [(AUGMENT, variant) for variant in VARIANTS] + [(DENOISE, variant) for variant in DENOISING]
CASES += [(task, {}) for task in TASKS]

pytestmark = pytest.mark.filterwarnings("error")


def test_both_worlds_ship_with_the_package() -> None:
    assert builtin_names() == WORLDS
    assert {name for name in gym.registry if name.startswith("Latent")} == {AUGMENT, DENOISE, *TASKS}


@pytest.mark.parametrize(("spec", "variant"), CASES, ids=str)
def test_gymnasium_checker(spec: str, variant: dict[str, Any]) -> None:
    env = gym.make(spec, **variant, disable_env_checker=True)
    check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("world", WORLDS)
def test_tasks_are_played_with_the_artifacts_that_returns_were_measured_with(world: str) -> None:
    assert digest(BUILTIN / world) == DIGESTS[world]


@pytest.mark.parametrize("task", FIXED, ids=lambda task: task.id)
def test_tasks_keep_their_settings(task: Task) -> None:
    env = gym.make(task.id)
    assert env.spec is not None
    assert env.spec.reward_threshold is not None
    assert env.spec.max_episode_steps == gym.spec(task.id).kwargs["horizon"] == task.settings["horizon"]
    kind = DenoiseSettings if "Denoise" in task.id else Settings
    # A default that changes one day changes no task: each of its settings is named, or doesn't matter to it.
    named = {field.name for field in fields(kind)} & task.settings.keys()
    assert named | {"artifacts"} == task.settings.keys()
    batch = gym.make_vec(task.id, num_envs=2, device="cpu")
    assert np.array_equal(batch.reset(seed=3)[0][0], env.reset(seed=3)[0])


@pytest.mark.parametrize("task", TASKS)
def test_episodes_may_start_from_images_that_nothing_learned_from(task: str) -> None:
    splits = [gym.make(task, **{"split": split}).unwrapped.dynamics.world for split in ("train", "test")]  # type: ignore[attr-defined]
    known, unknown = ({image.numpy().tobytes() for image in world.images} for world in splits)
    assert len(unknown) >= 64
    assert not known & unknown


@pytest.mark.parametrize(
    ("spec", "variant"),
    [(AUGMENT, {"artifacts": world}) for world in WORLDS] + CASES[len(VARIANTS) :],
    ids=str,
)
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_sb3_checker(spec: str, variant: dict[str, Any], render_mode: str | None) -> None:
    env = gym.make(spec, **variant, render_mode=render_mode)
    check_env_sb3(env.unwrapped, skip_render_check=render_mode is None)
    env.close()


@pytest.mark.parametrize(("spec", "variant"), CASES, ids=str)
def test_same_seed_same_trajectory(spec: str, variant: dict[str, Any]) -> None:
    def play(seed: int) -> list[Any]:
        env = gym.make(spec, **variant)
        env.action_space.seed(seed)
        seen: list[Any] = [env.reset(seed=seed)[0]]
        for _ in range(9):
            observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
            assert env.observation_space.contains(observation)
            assert isinstance(reward, float)
            seen += [observation, reward, *info.values()]
            if terminated or truncated:
                seen.append(env.reset()[0])
        return seen

    first, again, other = play(3), play(3), play(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(("spec", "variant"), CASES, ids=str)
def test_spec_survives_json_and_pickle(spec: str, variant: dict[str, Any]) -> None:
    reward = {"critic": 2.0} if spec.startswith("LatentDenoise") else {"boundary": 1.0, "realism": 0.5}
    env = gym.make(spec, **{"reward": reward, **variant})
    assert env.spec is not None
    text = env.spec.to_json()
    json.loads(text)
    twin = gym.make(gym.envs.registration.EnvSpec.from_json(text))
    third = pickle.loads(pickle.dumps(env))
    action = env.action_space.sample()
    outcomes = []
    for each in (env, twin, third):
        each.reset(seed=7)
        observation, reward, *_ = each.step(action)
        outcomes.append((observation, reward))
    for observation, reward in outcomes[1:]:
        assert np.array_equal(observation, outcomes[0][0])
        assert reward == outcomes[0][1]


@pytest.mark.parametrize(("spec", "variant"), CASES, ids=str)
def test_infos_are_flat_and_alike_at_reset_and_step(spec: str, variant: dict[str, Any]) -> None:
    env = gym.make(spec, **variant)
    env.action_space.seed(0)
    infos = [env.reset(seed=0)[1], env.step(env.action_space.sample())[4], env.reset()[1]]
    types = [{key: type(value) for key, value in info.items()} for info in infos]
    assert types[0] == types[1] == types[2]
    assert set(types[0].values()) == {int, float}
    terms = [[value for key, value in info.items() if key.startswith("reward_terms/")] for info in infos]
    assert len(terms[0]) == len(variant.get("reward", env.unwrapped.dynamics.reward.weights))  # type: ignore[attr-defined]
    assert not any(terms[0] + terms[2])
    paid = [env.step(env.action_space.sample())[4] for _ in range(8) if env.reset()]
    assert any(value for info in paid for key, value in info.items() if key.startswith("reward_terms/"))


def test_id_with_module_name() -> None:
    assert gym.make("latent_env:LatentAug-v0").reset(seed=0)[0].dtype == np.float32


def test_horizon_terminates_and_never_truncates() -> None:
    env = gym.make("LatentAug-v0", horizon=3)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (True, False)]


def test_time_limit_truncates() -> None:
    env = gym.make("LatentAug-v0", horizon=5, max_episode_steps=2)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(2)]
    assert ends == [(False, False), (False, True)]


def test_time_aware_observation_counts_down() -> None:
    env = gym.make("LatentAug-v0", time_aware=True, horizon=4)
    left = [env.reset(seed=0)[0][-1]]
    left += [env.step(env.action_space.sample())[0][-1] for _ in range(4)]
    assert left == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert env.observation_space.shape == (gym.make("LatentAug-v0").observation_space.shape[0] + 1,)  # type: ignore[index]


def test_reward_is_the_weighted_sum_of_its_terms() -> None:
    weights = {"boundary": 2.0, "novelty": -0.5, "realism": 0.25}
    env = gym.make("LatentAug-v0", reward=weights, horizon=4)
    env.reset(seed=1)
    for _ in range(4):
        _, reward, _, _, info = env.step(env.action_space.sample())
        terms = {name: info[f"reward_terms/{name}"] for name in weights}
        assert reward == pytest.approx(sum(weights[name] * terms[name] for name in weights), abs=1e-5)
        assert all(0 <= value <= 1 for value in terms.values())


@pytest.mark.parametrize(("spec", "horizon"), [(AUGMENT, 3), (DENOISE, 5)])
def test_the_spec_knows_the_horizon(spec: str, horizon: int) -> None:
    env = gym.make(spec, horizon=horizon)
    assert env.spec is not None
    assert env.spec.max_episode_steps == horizon
    assert gym.make(spec, horizon=horizon, max_episode_steps=2).spec.max_episode_steps == 2  # type: ignore[union-attr]
    seen = gym.wrappers.TimeAwareObservation(env, normalize_time=True)
    assert seen.reset(seed=0)[0].shape == (env.observation_space.shape[0] + 1,)  # type: ignore[index]
    twin = gym.make(env.spec)
    assert twin.spec == env.spec
    twin.reset(seed=0)
    ends = [twin.step(np.zeros(twin.action_space.shape or (), np.float32))[2] for _ in range(horizon)]
    assert ends == [False] * (horizon - 1) + [True]


@pytest.mark.parametrize("conditional", [True, False])
def test_a_class_can_be_asked_for(conditional: bool) -> None:
    env = gym.make(DENOISE, conditional=conditional)
    starts = [env.reset(seed=seed, options={"class": 2})[1] for seed in range(12)]
    assert {start["class"] for start in starts} == {2}
    assert len({start["source"] for start in starts}) > 6
    batch = gym.make_vec(DENOISE, num_envs=6, conditional=conditional, device="cpu")
    together = batch.reset(seed=0, options={"class": 2})[1]
    assert together["source"].tolist() == [start["source"] for start in starts[:6]]
    assert env.reset(options={"source": 5})[1]["source"] == 5
    for options in ({"class": 99}, {"class": "two"}, {"class": 2, "source": 5}):
        with pytest.raises(UserError, match="class"):
            env.reset(options=options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"'class'.* is unknown"):
        gym.make(AUGMENT).reset(options={"class": 2})


def test_a_start_can_be_named() -> None:
    env = gym.make("LatentAug-v0")
    first, info = env.reset(seed=0, options={"source": 5})
    assert info["source"] == 5
    env.step(env.action_space.sample())
    again, info = env.reset(seed=99, options={"source": 5})
    assert info["source"] == 5
    assert np.array_equal(first[:16], again[:16])
    assert not np.array_equal(first, again)  # it asks for another anomaly


def test_starts_cover_the_images() -> None:
    env = gym.make("LatentAug-v0")
    env.reset(seed=0)
    sources = [env.reset()[1]["source"] for _ in range(300)]
    count = len(env.unwrapped.dynamics.world.images)  # type: ignore[attr-defined]
    assert 0 <= min(sources) < max(sources) < count
    assert len(set(sources)) > min(count, 300) / 2


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"artifacts": "nowhere"}, "artifacts=nowhere.*digits, phantom.*train_detector.py"),
    ({"artifacts": "digits", "perturbation": "brush"}, "brush needs a spatial latent"),
    (
        {"perturbation": "paint"},
        "perturbation=paint is unknown: choose one of auto, brush, copy_paste, dense",
    ),
    ({"reward": {"beauty": 1.0}}, "reward=beauty is unknown: choose one of boundary, .*usefulness"),
    ({"reward": {}}, "no term with a weight"),
    ({"reward": {"boundary": "much"}}, "must be a number"),
    ({"reward": {"boundary": float("nan")}}, "must be finite"),
    ({"reward": {"no_such_module:term": 1.0}}, "can't import 'no_such_module'"),
    ({"horizon": 0}, "horizon=0"),
    ({"horizon": 2.5}, "horizon=2.5"),
    ({"artifacts": None}, "artifacts=None"),
    ({"artifacts": ""}, "artifacts=''"),
    ({"perturbation": 3}, "perturbation=3"),
    ({"reward": "boundary"}, "reward='boundary' must map"),
    ({"reward": {3: 1.0}}, "must map names"),
    ({"max_delta": "big"}, "max_delta='big'"),
    ({"max_delta": float("inf")}, "max_delta=inf"),
    ({"shell_ratio": "4"}, "shell_ratio='4'"),
    ({"time_aware": "no"}, "time_aware='no'"),
    ({"observation": "pixels"}, "observation='pixels' must be one of auto, latent, pooled"),
    ({"compiled": 1}, "compiled=1 must be True or False"),
    ({"device": "mps"}, "device=mps is unknown"),
    ({"max_delta": -1.0}, "max_delta=-1"),
    ({"shell_ratio": 1.0}, "ratio=1"),
    ({"shell_quantile": 2.0}, "quantile=2"),
    ({"shell_band": 1.5}, "band=1.5"),
    ({"precision": "float16"}, "precision='float16' must be 'float32' or 'bfloat16'"),
    ({"device": "abacus"}, "device=abacus is unknown"),
    ({"render_mode": "ascii"}, "render_mode='ascii'"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_are_explained(arguments: dict[str, Any], message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium warns of an unknown render mode before we see it
        with pytest.raises(UserError, match=message):
            gym.make("LatentAug-v0", **arguments)
        if arguments.keys() != {"render_mode"}:
            with pytest.raises(UserError, match=message):
                gym.make_vec("LatentAug-v0", num_envs=2, **arguments)


@pytest.mark.parametrize(
    ("kind", "settings"), [(LatentAugEnv, Settings), (LatentDenoiseEnv, DenoiseSettings)]
)
def test_the_manual_gives_every_argument_with_its_default(
    kind: type[LatentAugEnv] | type[LatentDenoiseEnv], settings: type[Settings] | type[DenoiseSettings]
) -> None:
    manual = re.search(r"## Arguments\s+``(gym\.make\(.*?\))``", kind.__doc__ or "", re.DOTALL)
    assert manual is not None
    call = ast.parse(manual[1].replace("\n", " "), mode="eval").body
    assert isinstance(call, ast.Call)
    told = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    own = {name: each.default for name, each in inspect.signature(kind.__init__).parameters.items()}
    own = {name: default for name, default in own.items() if default is not inspect.Parameter.empty}
    assert told == own | {field.name: field.default for field in fields(settings)}
    with pytest.raises(TypeError, match="unexpected keyword argument 'horizont'"):
        kind(horizont=3)


def test_wrong_actions_and_options() -> None:
    env = gym.make("LatentAug-v0", disable_env_checker=True)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(env.action_space.sample())
    with pytest.raises(UserError, match="source"):
        env.reset(options={"source": 10**6})
    env.reset(seed=0)
    with pytest.raises(UserError, match="shape"):
        env.unwrapped.step(np.zeros(3, np.float32))
    with pytest.raises(UserError, match="NaN"):
        env.unwrapped.step(np.full(env.action_space.shape, np.nan, np.float32))  # type: ignore[arg-type]
