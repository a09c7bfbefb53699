"""The reward ensemble: small detectors that rewards depend on, trained before every round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from composed_runs import SMALL_PHANTOM, compose_run
from conftest import RunHere, make_world
from safetensors.torch import load_file
from test_usefulness import member, world
from torch import Tensor, nn

import stages.augmentation.reward_ensemble as ensembles
import stages.augmentation.rounds as rounds
import train_ppo
from agents.baselines.none_and_random import RandomAgent
from agents.rollout import Augmented, collect
from conf.schema.agents import AgentConfig, MixupConfig, UntrainedConfig
from conf.schema.detectors import RewardEnsembleConfig
from detectors.base import Detector
from latent_common.errors import UserError
from latent_env.training.run_folder import Run
from latent_env.worlds.reference_set import load_reference_set
from latent_env.worlds.reward_ensemble import SHARED, load_reward_ensemble, save_reward_ensemble, share_memory
from latent_env.worlds.store import load_world, save_world
from latent_env.worlds.world import World
from stages.agents.factory import depends_on_detectors
from stages.augmentation.dynamics import make_dynamics
from stages.augmentation.reward_ensemble import (
    member_trainer,
    with_reward_ensemble,
)
from stages.detector.trained import plan_trained_detector
from stages.detector.trainers.base import SingleTrainer

KINDS = ["image", "latent"]
CPU = torch.device("cpu")


def scores_of(reward_ensemble: Sequence[Any], seen: tuple[Tensor, ...]) -> list[Tensor]:
    """Scores by every detector of the reward ensemble."""
    return [each(*seen).score for each in reward_ensemble]


def seen(of: World) -> tuple[Tensor, ...]:
    return of.detector_inputs(torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(0)))


def weights(detector: Detector) -> list[Tensor]:
    assert isinstance(detector, nn.Module)
    return list(detector.state_dict().values())


def same_weights(a: Detector, b: Detector) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


# --- as an artifact ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_unseen", [True, False])
def test_a_reward_ensemble_scores_the_same_after_a_round_trip(
    kind: str, with_unseen: bool, tmp_path: Path
) -> None:
    of = world(kind)
    save_reward_ensemble(tmp_path, of.reward_ensemble, of.held_out_detector if with_unseen else None)
    reward_ensemble, held_out_detector = load_reward_ensemble(tmp_path, of.detector)
    assert len(reward_ensemble) == len(of.reward_ensemble)
    for ours, theirs in zip(
        scores_of(reward_ensemble, seen(of)), scores_of(of.reward_ensemble, seen(of)), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert (held_out_detector is not None) == with_unseen
    if held_out_detector is not None:
        assert torch.equal(
            scores_of([held_out_detector], seen(of))[0], scores_of([of.held_out_detector], seen(of))[0]
        )
    for each in reward_ensemble:
        assert isinstance(each, nn.Module)
        assert not each.training
        assert not any(parameter.requires_grad for parameter in each.parameters())


def test_a_reward_ensemble_of_latents_shares_the_detectors_memory(tmp_path: Path) -> None:
    of = world("latent")
    save_reward_ensemble(tmp_path, of.reward_ensemble, of.held_out_detector)
    detector: Any = of.detector
    reward_ensemble, held_out_detector = load_reward_ensemble(tmp_path, detector)
    everyone: list[Any] = [*reward_ensemble, held_out_detector]
    assert all(each.memory is detector.memory for each in everyone)
    names = load_file(tmp_path / "reward_ensemble.safetensors").keys()
    assert names
    assert not any(name.partition(".")[2].startswith(SHARED) for name in names)


def test_only_detectors_of_latents_share_a_memory() -> None:
    of = make_world("spatial")
    image, latent, other = member(of, "image", 0), member(of, "latent", 0), member(of, "latent", 1)
    kept: Any = latent.memory
    share_memory(latent, image)
    assert latent.memory is kept
    share_memory(other, latent)
    assert other.memory is kept
    share_memory(image, latent)
    assert not hasattr(image, "memory")


def test_a_folder_without_a_reward_ensemble_has_none(tmp_path: Path) -> None:
    assert load_reward_ensemble(tmp_path, world("image").detector) == ([], None)


def test_a_damaged_reward_ensemble_is_refused(tmp_path: Path) -> None:
    of = world("image")
    save_reward_ensemble(tmp_path, of.reward_ensemble, of.held_out_detector)
    text = (tmp_path / "reward_ensemble.json").read_text()
    for old, new in (
        ('"width": 16', '"width": 32'),
        ('"members"', '"dismembered"'),
        ("transformer", "oracle"),
    ):
        assert old in text
        (tmp_path / "reward_ensemble.json").write_text(text.replace(old, new))
        with pytest.raises(UserError, match=r"reward_ensemble\.json doesn't describe the detectors"):
            load_reward_ensemble(tmp_path, of.detector)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_world_has_its_reward_ensemble_and_its_reference_set(kind: str, tmp_path: Path) -> None:
    of = world(kind)
    save_world(tmp_path, of)
    stored = load_world(str(tmp_path), CPU)
    assert len(stored.reward_ensemble) == len(of.reward_ensemble)
    assert stored.held_out_detector is not None
    assert of.reference_set is not None
    assert stored.reference_set is not None
    assert torch.equal(stored.reference_set.labels, of.reference_set.labels)
    torch.testing.assert_close(
        stored.reference_set.inputs.float(), of.reference_set.inputs.float(), atol=1e-2, rtol=1e-2
    )
    assert stored.reference_set.marks is not None
    assert of.reference_set.marks is not None
    assert torch.equal(stored.reference_set.marks, of.reference_set.marks)
    env = gym.make("LatentAug-v0", artifacts=str(tmp_path), reward={"boundary": 1.0})
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.ones(env.action_space.shape or (), np.float32))
    transition = env.unwrapped.dynamics.last  # type: ignore[attr-defined]
    log = torch.stack(
        [
            4 * p * (1 - p)
            for p in (s.sigmoid() for s in scores_of(of.reward_ensemble, transition._inputs[:2]))
        ]
    )
    assert float(reward) == pytest.approx(float(log.mean() - log.std(correction=0)), abs=1e-4)
    assert info["reward_terms/boundary"] == pytest.approx(float(reward))


def test_a_reference_set_of_another_world_is_refused(tmp_path: Path) -> None:
    of, other = world("image"), world("latent")
    assert of.reference_set is not None
    assert of.reference_set.marks is not None
    coarse = of.reference_set._replace(marks=of.reference_set.marks[:, :, ::2])
    for reference_set in (other.reference_set, coarse):
        save_world(tmp_path, of.with_reference_set(reference_set))
        with pytest.raises(UserError, match=r"reference_set\.safetensors is of another world"):
            load_world(str(tmp_path), CPU)


def test_a_reference_set_may_lack_masks(tmp_path: Path) -> None:
    of = world("image")
    assert of.reference_set is not None
    save_world(tmp_path, of.with_reference_set(of.reference_set._replace(marks=None)))
    stored = load_world(str(tmp_path), CPU)
    assert stored.reference_set is not None
    assert stored.reference_set.marks is None
    env = gym.make("LatentAug-v0", artifacts=str(tmp_path), reward={"matching": 1.0})
    env.reset(seed=0)
    assert np.isfinite(env.step(env.action_space.sample())[1])


# --- how a command trains them ---

SMALL_ENSEMBLE = ["reward_ensemble.count=2", "reward_ensemble.width=8", "reward_ensemble.effort=0.5"]


class Made:
    """A command with its trained detector, and rounds in folders of their own."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        run = compose_run(folder, *SMALL_PHANTOM, *SMALL_ENSEMBLE, *overrides)
        self.config, self.context, self.data = run
        trained = plan_trained_detector(*run).train()
        self.world, self.trainer = trained.world, trained.trainer
        batch = make_dynamics(run.env, self.config.reward, self.config.agent, self.world)
        self.pool = collect(batch, RandomAgent(batch, 0), 32, 0)

    def run(self, name: str) -> Run:
        run = self.context.run_folder(self.data.dataset.name, "agent", "test", {"name": name})
        run.begin()
        return run

    def with_ensemble(
        self,
        name: str,
        pool: Augmented | None = None,
        number: int = 1,
        config: RewardEnsembleConfig | None = None,
    ) -> World:
        config = config or self.config.reward_ensemble
        return with_reward_ensemble(config, self.trainer, self.run(name), self.world, pool, number)


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(
        tmp_path_factory.mktemp(request.param), "detector=transformer", f"detector.input={request.param}"
    )


def test_reward_detectors_are_small_and_differ(made: Made) -> None:
    found = made.with_ensemble("differ")
    assert len(found.reward_ensemble) == 2
    assert found.held_out_detector is not None
    everyone: list[Any] = [*found.reward_ensemble, found.held_out_detector]
    assert all((each.width, each.depth) == (8, 1) for each in everyone)
    assert not any(same_weights(a, b) for i, a in enumerate(everyone) for b in everyone[:i])
    assert found.reference_set is not None
    assert found.detector is made.world.detector
    folder = made.run("differ").path / "round_1"
    assert (folder / "reward_ensemble.json").is_file()
    assert not list(folder.glob("member_*"))


def test_the_same_command_uses_the_reward_ensemble_it_has(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made.with_ensemble("again")
    monkeypatch.setattr(SingleTrainer, "train", forbidden)
    again = made.with_ensemble("again")
    scores = [
        scores_of([*found.reward_ensemble, found.held_out_detector], seen(made.world))
        for found in (first, again)
    ]
    for ours, theirs in zip(*scores, strict=True):
        assert torch.equal(ours, theirs)


def forbidden(*_: object) -> None:
    raise AssertionError("nothing is to be trained here")


def test_the_reward_ensemble_of_the_second_round_learns_from_what_agents_made(made: Made) -> None:
    first = made.with_ensemble("rounds")
    without, second = made.with_ensemble("rounds", None, 2), made.with_ensemble("more", made.pool, 2)
    for a, b, c in zip(first.reward_ensemble, without.reward_ensemble, second.reward_ensemble, strict=True):
        assert not same_weights(a, b)  # other random numbers
        assert not same_weights(b, c)  # the same ones, and other samples
    # Nothing is learned from a pool without a single sample.
    nothing = Augmented(*(part[:0] for part in vars(made.pool).values()))
    assert same_weights(
        made.with_ensemble("empty", nothing, 2).reward_ensemble[0], without.reward_ensemble[0]
    )


@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_stop_between_reward_detectors_goes_on_where_it_was(
    made: Made, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made.with_ensemble("whole")
    labels: list[str] = []

    train = SingleTrainer.train

    def until(trainer: SingleTrainer, run: Run, label: str, sample_sources: Any = ()) -> Any:
        if len(labels) == stop_at:
            raise KeyboardInterrupt
        labels.append(label)
        return train(trainer, run, label, sample_sources)

    name = f"stopped {stop_at}"
    monkeypatch.setattr(SingleTrainer, "train", until)
    if stop_at < 3:
        with pytest.raises(KeyboardInterrupt):
            made.with_ensemble(name)
    else:  # all are trained, and the stop comes before they are kept together
        monkeypatch.setattr(ensembles, "save_reward_ensemble", interrupted_save)
        with pytest.raises(KeyboardInterrupt):
            made.with_ensemble(name)
        monkeypatch.setattr(ensembles, "save_reward_ensemble", save_reward_ensemble)
    first, labels[:] = list(labels), []
    stop_at = 9
    found = made.with_ensemble(name)
    assert sorted(first + labels) == [f"reward ensemble {each}, round 1" for each in (1, 2, 3)]
    pairs = zip(
        [*found.reward_ensemble, found.held_out_detector],
        [*whole.reward_ensemble, whole.held_out_detector],
        strict=True,
    )
    for ours, theirs in pairs:
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours(*seen(made.world)).score, theirs(*seen(made.world)).score)


def interrupted_save(
    folder: Path, reward_ensemble: Sequence[Detector], held_out_detector: Detector | None
) -> None:
    if len(reward_ensemble) > 1:
        raise KeyboardInterrupt
    save_reward_ensemble(folder, reward_ensemble, held_out_detector)


INDEPENDENT: list[AgentConfig] = [
    AgentConfig("random", "auto", 1.0),
    AgentConfig("none", "auto", 1.0),
    MixupConfig("mixup", "dense", 1.0, low=0.2, high=0.8),
    UntrainedConfig("untrained", "auto", 1.0, hidden=[8]),
]


@pytest.mark.parametrize("agent", INDEPENDENT, ids=lambda agent: agent.name)
def test_what_some_agents_make_depends_on_no_detector(agent: AgentConfig) -> None:
    assert not depends_on_detectors(agent)
    assert depends_on_detectors(replace(agent, keep_fraction=0.5))


def test_a_reward_ensemble_of_none(made: Made) -> None:
    none = replace(made.config.reward_ensemble, count=0)
    assert made.with_ensemble("none", config=none) is made.world
    assert not (made.run("none").path / "round_1").exists()


def test_attention_heads_are_as_many_as_fit(tmp_path: Path) -> None:
    """The detector's number of attention heads need not divide the width of a small one."""
    run = compose_run(
        tmp_path,
        *SMALL_PHANTOM,
        "detector.width=24",
        "detector.heads=6",
        "detector=transformer",
        "reward_ensemble.count=1",
        "reward_ensemble.width=16",
    )
    trainer = plan_trained_detector(*run).train().trainer
    small: Any = member_trainer(run.config.reward_ensemble, trainer, 1, 0).config
    assert small.width == 16
    assert small.width % small.heads == 0
    assert small.heads > 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("reward_ensemble.count=-1", "reward_ensemble.count=-1 must lie from 0 to 100"),
        ("reward_ensemble.depth=0", "depth=0"),
        ("reward_ensemble.width=0", "width=0"),
        ("reward_ensemble.effort=0", "reward_ensemble.effort=0 must be above 0"),
        ("reward_ensemble.effort=1.5", "reward_ensemble.effort=1.5 must be above 0 and at most 1"),
    ],
)
def test_impossible_reward_ensembles_are_refused(wrong: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        compose_run(tmp_path, "dataset=digits", wrong)
    assert message in str(refused.value)


# --- a whole command ---


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_world_of_a_whole_command(
    kind: str, tmp_path: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[Augmented | None] = []

    def spy(config: Any, trainer: Any, run: Run, of: World, pool: Augmented | None, number: int) -> World:
        pools.append(pool)
        return with_reward_ensemble(config, trainer, run, of, pool, number)

    monkeypatch.setattr(rounds, "with_reward_ensemble", spy)
    arguments = [
        *SMALL_PHANTOM,
        *SMALL_ENSEMBLE,
        "detector=transformer",
        f"detector.input={kind}",
        "reward=useful",
        "rounds=2",
        "mixture.shares=[0.5]",
        "agent.total_steps=64",
        "agent.n_steps=8",
        "agent.batch_size=16",
        "agent.hidden=[8]",
        "export=out",
    ]
    code, _, log = run_here(train_ppo.main, "train_ppo", *arguments, cwd=tmp_path)
    assert code == 0, log
    first_pool, second_pool = pools
    assert first_pool is None
    assert second_pool is not None
    assert 0 < len(second_pool) <= 32  # what one round makes
    (run,) = (tmp_path / "runs/phantom/agent").glob("ppo-*")
    for folder in (run, tmp_path / "out"):
        stored = load_world(str(folder), CPU)
        assert len(stored.reward_ensemble) == 2
        assert stored.held_out_detector is not None
        assert load_reference_set(folder) is not None
        env = gym.make("LatentAug-v0", artifacts=str(folder), reward={"usefulness": 1.0, "coverage": 0.5})
        env.reset(seed=0)
        assert np.isfinite(float(env.step(env.action_space.sample())[1]))
    last, _ = load_reward_ensemble(run / "round_2", stored.detector)
    (kept,) = (tmp_path / "runs/phantom/detector").glob("*/reward-ensemble-*/round_1")  # for other agents too
    first, _ = load_reward_ensemble(kept, stored.detector)
    assert same_weights(stored.reward_ensemble[0], last[0])  # those of the last round
    assert not same_weights(stored.reward_ensemble[0], first[0])
