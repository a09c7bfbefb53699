"""``python -m stages.offline`` and what learns from its data sets: loaded, played again, refused."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import RunHere
from gymnasium import spaces
from learner_configs import small_learner, worlds
from minari_sets import SPACES, random_dataset

import train_ppo
from agents.learners.sequences.minari_episodes import MinariEpisodes
from agents.learners.stock_ppo import worlds_of
from agents.sb3_vec_env import LatentVecEnv
from latent_common.errors import UserError
from latent_env.dynamics import Episodes
from stages.agents.learners import make_learner
from stages.offline import command
from stages.offline.arguments import read_options

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")

DIGITS = "LatentDenoise-Digits-v0"
FOLDER = "MINARI_DATASETS_PATH"
MADE = (
    "latentaug/digits/random-v0",
    "latentdenoise/digits/random-v0",
    "latentdenoise/digits/ppo-v0",
    "latentdenoise/digits/forward-v0",
    "latentdenoise/pixel/forward-v0",
)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    said: str


Offline = Callable[..., Done]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offline:
    """The command as a user calls it, in this process."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["offline", *map(str, arguments)])
        capsys.readouterr()
        try:
            runpy.run_module("stages.offline", run_name="__main__")
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few small data sets; the tests only read it."""
    folder = tmp_path_factory.mktemp("sets")
    common = ["--episodes", "24", "--steps", "1", "--out", str(folder)]  # of PPO a rollout is the least
    for chosen in (
        [DIGITS],
        ["LatentDenoise-Pixel-v0", "--policies", "forward"],
        ["LatentAug-Digits-v0", "--policies", "random"],
    ):
        command.make_datasets(read_options([*chosen, *common]))
    return folder


@pytest.fixture
def there(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, and Minari looks there."""
    monkeypatch.setenv(FOLDER, str(made))
    return made


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where Minari looks."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "sets"))
    return tmp_path / "sets"


def seeds_of(data: Any) -> list[int]:
    return [each["seed"] for each in data.storage.get_episode_metadata(data.episode_indices)]


def test_minari_lists_what_was_made(there: Path) -> None:
    assert sorted(minari.list_local_datasets()) == sorted(MADE)
    assert {path.name for path in there.iterdir()} == {"latentaug", "latentdenoise"}  # and nothing half-made


@pytest.mark.parametrize("name", MADE)
@pytest.mark.usefixtures("there")
def test_a_data_set_knows_its_environment(name: str) -> None:
    data = minari.load_dataset(name)
    env, unseen = data.recover_environment(), data.recover_environment(eval_env=True)
    kind, world, _ = name.split("/")
    registered = gym.make(env.spec.id)
    assert env.spec.id.lower() == f"{kind}-{world}-v0"
    assert env.spec.kwargs == registered.spec.kwargs  # type: ignore[union-attr]
    assert data.observation_space == env.observation_space == registered.observation_space
    assert data.action_space == env.action_space == registered.action_space
    assert unseen.spec.kwargs["split"] == "test"
    assert len(data) == 24
    facts = data.storage.metadata
    assert facts["author"] == {"The LatentAug authors"}
    assert facts["algorithm_name"] in facts["description"]
    returns = [float(episode.rewards.sum()) for episode in data]
    assert facts["mean_return"] == pytest.approx(np.mean(returns))


@pytest.mark.parametrize("name", MADE)
@pytest.mark.usefixtures("there")
def test_recorded_actions_play_the_same_episode_again(name: str) -> None:
    data = minari.load_dataset(name)
    env = data.recover_environment()
    for episode, seed in zip(data, seeds_of(data), strict=True):
        seen, info = env.reset(seed=seed)
        observed, infos, paid, ends = [seen], [info], [], []
        for action in episode.actions:
            seen, reward, terminated, truncated, info = env.step(action)
            observed.append(seen)
            infos.append(info)
            paid.append(reward)
            ends.append((terminated, truncated))
        np.testing.assert_array_equal(observed, episode.observations)
        np.testing.assert_allclose(paid, episode.rewards, atol=1e-5)
        assert ends == [*zip(episode.terminations, episode.truncations, strict=True)]
        assert [terminated for terminated, _ in ends] == [False] * (len(ends) - 1) + [True]
        for key in infos[0]:
            recorded: Any = episode.infos
            for part in key.split("/"):  # Minari makes folders of such keys
                recorded = recorded[part]
            np.testing.assert_allclose(recorded, [each[key] for each in infos], atol=1e-5)


@pytest.mark.usefixtures("there")
def test_policies_see_the_same_starts_and_differ() -> None:
    random, ppo, forward = (minari.load_dataset(name) for name in MADE[1:4])
    assert seeds_of(random) == seeds_of(ppo) == seeds_of(forward)
    for one, two in zip(random, forward, strict=True):
        np.testing.assert_array_equal(one.observations[0], two.observations[0])
    assert not np.array_equal(random[0].actions, ppo[0].actions)
    assert forward.storage.metadata["mean_return"] > 0.5 > random.storage.metadata["mean_return"] + 0.3
    assert forward.total_steps < random.total_steps  # an image that is done ends the episode


def test_the_same_command_makes_the_same_and_keeps_it(offline: Offline, made: Path, tmp_path: Path) -> None:
    arguments = [DIGITS, "--policies", "random", "--episodes", 24, "--out", tmp_path]
    done = offline(*arguments)
    assert (done.code, done.out.count("\n")) == (0, 1)
    assert done.out.startswith("latentdenoise/digits/random-v0 ")
    assert f"{FOLDER}={tmp_path}" in done.said
    path = Path("latentdenoise/digits/random-v0/data/main_data.hdf5")
    one, other = (minari.MinariDataset(folder / path.parent) for folder in (made, tmp_path))
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours.actions, theirs.actions)
        np.testing.assert_array_equal(ours.rewards, theirs.rewards)
    before = (tmp_path / path).stat().st_mtime_ns
    assert "using" in offline(*arguments).said
    assert (tmp_path / path).stat().st_mtime_ns == before


def test_what_was_made_otherwise_is_replaced_only_on_demand(offline: Offline, tmp_path: Path) -> None:
    arguments = [DIGITS, "--policies", "random", "--out", tmp_path, "--episodes"]
    assert offline(*arguments, 3).code == 0
    refused = offline(*arguments, 5)
    assert (refused.code, refused.said.count("\n")) == (2, 1)
    assert "already, made with episodes=3: --overwrite replaces it" in refused.said
    assert offline(*arguments, 5, "--overwrite").code == 0
    assert len(minari.MinariDataset(tmp_path / MADE[1] / "data")) == 5


def test_a_folder_that_is_no_data_set_stays(offline: Offline, tmp_path: Path) -> None:
    (tmp_path / MADE[1]).mkdir(parents=True)
    refused = offline(DIGITS, "--policies", "random", "--out", tmp_path)
    assert (refused.code, refused.said.count("\n")) == (2, 1)
    assert "is no data set: delete it" in refused.said


@pytest.mark.parametrize("overwrite", [False, True])
def test_ctrl_c_leaves_no_half_data_set(
    overwrite: bool, offline: Offline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [DIGITS, "--policies", "random", "--out", tmp_path]
    if overwrite:
        assert offline(*arguments, "--episodes", 3).code == 0

    def stopped(parts: Iterator[Any], _: Any) -> Iterator[Any]:
        yield next(parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_shown", stopped)
    assert offline(*arguments, "--episodes", 100, "--overwrite").code == 130
    left = [path.name for path in tmp_path.iterdir()]
    assert left == (["latentdenoise"] if overwrite else [])
    if overwrite:
        assert len(minari.MinariDataset(tmp_path / MADE[1] / "data")) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("LatentAug-Digit-v0", "LatentAug-Digit-v0 is no registered task: choose LatentAug-Digits-v0, "),
        (
            "LatentAug-Digits-v0 --policies forward",
            "forward plays LatentDenoise alone: for LatentAug-Digits-v0",
        ),
        ("--policies sac", "argument --policies: invalid choice: 'sac'"),
        ("--episodes 0", "--episodes 0 must lie from 1 to"),
        ("--episodes many", "argument --episodes: invalid int value: 'many'"),
        ("--steps 0", "--steps 0 must lie from 1 to"),
        ("--seed -1", "--seed -1 must lie from 0 to"),
        ("--policy runs/x", "--policy runs/x plays one task alone: name that task"),
        (f"{DIGITS} --policy runs/x --policies random", "plays one task alone"),
        (f"{DIGITS} --policy runs/x", "--policy runs/x has no policy.json: name a round_… folder"),
        ("--out /dev/null/x", "--out=/dev/null/x: can't write there"),
    ],
)
def test_mistakes_are_one_line(arguments: str, expected: str, offline: Offline, empty: Path) -> None:
    done = offline(*arguments.split())
    assert (done.code, done.out, done.said.count("\n")) == (2, "", 1)
    assert expected in done.said
    assert done.said.startswith("stages.offline: ")


def test_a_missing_minari_is_one_line(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (command, sys.modules[MinariEpisodes.__module__]):
        monkeypatch.setattr(module, "find_spec", lambda _: None)
    done = offline(DIGITS)
    assert (done.code, done.said.count("\n")) == (2, 1)
    assert "pip install 'latent-aug[offline]'" in done.said
    with pytest.raises(UserError, match=r"pip install 'latent-aug\[offline\]'"):
        MinariEpisodes("x/y-v0", 0)


def test_help_names_policies_and_examples(offline: Offline) -> None:
    done = offline("--help")
    assert done.code == 0
    for expected in ("usage: python -m stages.offline", "forward", "latentaug/digits/ppo-v0", FOLDER):
        assert expected in done.out


# -- learning from them --

DENOISE = [
    "dataset=digits",
    "device=cpu",
    "threads=1",
    "samples=32",
    "env=latent_denoise",
    "env.artifacts=digits",
    "env.num_envs=8",
    "env.critic.steps=12",
    "env.critic.width=16",
    "agent=decision_transformer",
    "agent.total_steps=128",
    "agent.hidden=[16,16]",
    "agent.heads=2",
    "agent.n_steps=4",
    "agent.gradient_steps=2",
    "agent.batch_size=16",
]


@pytest.mark.usefixtures("there")
def test_train_ppo_learns_from_a_data_set(
    tmp_path: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch, offline: Offline
) -> None:
    monkeypatch.setattr("stages.denoise.references.CLASSIFIER_STEPS", 20)
    shown = "agent.demonstrations=[minari:latentdenoise/digits/forward-v0]"
    code, out, err = run_here(train_ppo.main, "train_ppo", *DENOISE, shown, cwd=tmp_path)
    assert code == 0, err
    assert "agent decision_transformer" in out
    (run,) = (tmp_path / "runs/digits/generator").iterdir()
    # What it has become can play episodes of a data set of its own.
    saved = offline(DIGITS, "--policy", run / "round_2", "--episodes", 4, "--out", tmp_path / "sets")
    assert saved.code == 0, saved.said
    assert saved.out.startswith("latentdenoise/digits/saved-v0 ")
    other = offline("LatentAug-Digits-v0", "--policy", run / "round_2", "--out", tmp_path / "sets")
    assert (other.code, "the saved policy doesn't fit this world" in other.said) == (2, True)


@pytest.mark.usefixtures("there")
def test_a_data_set_of_another_environment_is_refused(tmp_path: Path, run_here: RunHere) -> None:
    shown = "agent.demonstrations=[minari:latentdenoise/pixel/forward-v0]"
    code, _, err = run_here(train_ppo.main, "train_ppo", *DENOISE, shown, cwd=tmp_path)
    assert code == 2
    assert "minari:latentdenoise/pixel/forward-v0 has another observation space than this" in err
    assert "(64,) float32 from" in err
    assert "here (21,) float32 from" in err


@pytest.mark.usefixtures("empty")
def test_a_data_set_that_isnt_there_is_refused_before_anything_is_trained(
    tmp_path: Path, run_here: RunHere
) -> None:
    shown = "agent.demonstrations=[minari:latentdenoise/digits/none-v0]"
    code, _, err = run_here(train_ppo.main, "train_ppo", *DENOISE, shown, cwd=tmp_path)
    assert code == 2
    assert "minari:latentdenoise/digits/none-v0 is no data set in" in err
    assert "`python -m stages.offline` makes some" in err
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


def augmenting(task: str = "LatentAug-Digits-v0") -> LatentVecEnv:
    dynamics: Episodes[Any] = worlds_of(task, 4)
    return LatentVecEnv(dynamics, seed=0)


@pytest.mark.usefixtures("there")
def test_every_episode_is_learned_from_before_one_comes_again() -> None:
    env, data = augmenting(), minari.load_dataset(MADE[0])
    source = MinariEpisodes(MADE[0], 0)
    first, second = source.record(env, 24), source.record(env, 24)
    assert (first.times == 0).all()
    recorded = torch.from_numpy(np.concatenate([each.rewards for each in data])).float()
    for part in (first, second):
        assert part.rewards.sort().values.equal(recorded.sort().values)
        assert float(part.actions.abs().max()) <= 1
    assert not first.rewards.equal(second.rewards)
    place = {float(value): i for i, value in enumerate(recorded)}
    for i in range(24):
        episode = data[place[float(first.rewards[i])]]
        np.testing.assert_array_equal(first.observations[i], episode.observations[0])
        np.testing.assert_allclose(first.actions[i], episode.actions[0], atol=1e-6)


@pytest.mark.usefixtures("there")
def test_a_source_goes_on_where_it_was() -> None:
    env, name = LatentVecEnv(worlds_of(DIGITS, 2), seed=0), MADE[3]
    whole, stopped, gone_on = (MinariEpisodes(name, 5) for _ in range(3))
    expected = [whole.record(env, 100) for _ in range(4)]
    for part in expected[:2]:
        assert stopped.record(env, 100).observations.equal(part.observations)
    gone_on.restore(json.loads(json.dumps(stopped.state())), env)
    for part in expected[2:]:
        again = gone_on.record(env, 100)
        for ours, theirs in zip(again.tensors().values(), part.tensors().values(), strict=True):
            assert ours.equal(theirs)
    assert all(len(part) >= 100 and int(part.times[0]) == 0 for part in expected)


@pytest.mark.usefixtures("empty")
def test_data_sets_of_others_are_scaled_and_cut_off() -> None:
    env = worlds()
    space = env.action_space
    folder = random_dataset("others/mine-v0", env.observation_space, space, (4,))
    import h5py

    with h5py.File(folder / "main_data.hdf5", "a") as file:
        file["episode_0/actions"][0] = 3.0  # as libraries record it that leave cutting off to environments
    (part,) = [MinariEpisodes("others/mine-v0", 0).record(env, 4)]
    assert (part.actions[0] == 1).all()
    assert len(part) == 4
    settings = small_learner("decision_transformer", demonstrations=[f"minari:{folder.parent}"])
    model = make_learner(settings, env, 0)  # type: ignore[arg-type]
    model.learn(64)
    assert model.num_timesteps == 64


def damage(folder: Path, kind: str) -> None:
    import h5py

    facts = folder / "metadata.json"
    if kind == "cut off":
        content = (folder / "main_data.hdf5").read_bytes()
        (folder / "main_data.hdf5").write_bytes(content[: len(content) // 2])
    elif kind == "no JSON":
        facts.write_text("{")
    elif kind == "no spaces":
        known = json.loads(facts.read_text())
        known.pop("action_space")
        facts.write_text(json.dumps(known))
    elif kind == "no episodes":
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"total_episodes": 0}))
    else:
        with h5py.File(folder / "main_data.hdf5", "a") as file:
            if kind == "infinite":
                file["episode_1/rewards"][0] = np.inf
            else:
                del file["episode_1/observations"]
                file["episode_1/observations"] = np.zeros((2, 5), np.float32)


@pytest.mark.parametrize("kind", ["cut off", "no JSON", "no spaces", "no episodes", "infinite", "too short"])
@pytest.mark.usefixtures("empty")
def test_damaged_data_sets_are_told_in_a_line(kind: str) -> None:
    folder = random_dataset("others/mine-v0")
    damage(folder, kind)
    env = worlds()
    env.observation_space, env.action_space = SPACES
    with pytest.raises(UserError, match=r"mine-v0 can't be read .*: make what|mine-v0/data/.* is damaged"):
        MinariEpisodes("others/mine-v0", 0).record(env, 4)


@pytest.mark.parametrize(
    ("observations", "actions", "told"),
    [
        (
            spaces.Discrete(3),
            SPACES[1],
            r"observation space than this environment: Discrete\(3\), here \(5,\)",
        ),
        (
            SPACES[0],
            spaces.Box(-1.0, 1.0, (2,), np.float32),
            r"action space .*: \(2,\) float32 .*, here \(3,\)",
        ),
        (spaces.Box(-9.0, 9.0, (5,), np.float32), SPACES[1], "from -9 to 9, here .* from -2 to 2"),
    ],
)
@pytest.mark.usefixtures("empty")
def test_other_spaces_are_told(
    observations: spaces.Space[Any], actions: spaces.Space[Any], told: str
) -> None:
    random_dataset("others/mine-v0", observations, actions)
    env = worlds()
    env.observation_space, env.action_space = SPACES
    with pytest.raises(UserError, match=told):
        MinariEpisodes("others/mine-v0", 0).record(env, 4)
