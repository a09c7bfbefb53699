"""Every learner by one interface: it learns, logs, saves, loads, refuses nonsense."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learner_configs import small_learner, worlds
from one_step_task import Array, recorded_trajectories, without_logger
from stable_baselines3.common.base_class import BaseAlgorithm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from agents.learners.checkpoints import load_checkpoint, save_checkpoint
from agents.learners.mpo import MPO
from agents.learners.saving import load_policy, optimizers, policy_tensors, save_policy
from agents.learners.sequences.decision_transformer import DecisionTransformer
from agents.learners.sequences.sequence_policy import DecisionTransformerPolicy
from agents.learners.training import learn
from latent_common.errors import UserError
from latent_common.progress import progress_bar
from stages.agents.learners import LEARNERS, make_learner, saved_learner

NAMES = list(LEARNERS)


def learned(model: BaseAlgorithm, folder: Path, steps: int = 64) -> list[int]:
    """Learn until so many steps are done; returns after how many of them the policy was kept."""
    kept: list[int] = []
    with progress_bar("test", steps, model.num_timesteps, hidden=True) as bar:
        learn(model, SummaryWriter(str(folder)), steps, bar, lambda: kept.append(model.num_timesteps), 0.1)
    return kept


def parameters(model: BaseAlgorithm) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.policy.named_parameters()}


def observations_of(model: BaseAlgorithm, count: int = 5) -> Array:
    shape = (count, *(model.observation_space.shape or ()))
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def logged(folder: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=0, msg=name)


# What each has to change when it learns: the actor, and the critic if it has one.
PARTS = {
    "ppo": ("mlp_extractor.policy_net", "action_net", "log_std", "mlp_extractor.value_net", "value_net"),
    "reinforce": ("mlp_extractor.policy_net", "action_net", "log_std", "mlp_extractor.value_net"),
    "actor_critic": ("mlp_extractor.policy_net", "action_net", "log_std", "mlp_extractor.value_net"),
    "mpo": ("actor.body", "actor.mean", "actor.std", "critics.nets.0", "critics.nets.1", "log_temp"),
    "decision_transformer": (
        "model.embed_return",
        "model.embed_state",
        "model.embed_action",
        "model.body",
        "model.m",
    ),
}


@pytest.mark.parametrize("kind", ["augment", "denoise"])
@pytest.mark.parametrize("name", NAMES)
def test_everyone_learns_in_all_worlds(name: str, kind: str, tmp_path: Path) -> None:
    env = worlds(kind)
    model = make_learner(small_learner(name), env, seed=3)
    before = parameters(model)
    kept = learned(model, tmp_path)
    assert model.num_timesteps == 64
    assert kept == [64]
    after = parameters(model)
    for part in PARTS[name]:
        found = [key for key in after if key.startswith(part)]
        assert found, part
        assert any(not after[key].equal(before[key]) for key in found), part
    assert all(bool(tensor.isfinite().all()) for tensor in after.values())
    seen = observations_of(model)
    for deterministic in (True, False):
        actions, _ = model.predict(seen, deterministic=deterministic)
        assert actions.shape == (5, env.dynamics.perturbation.action_size)
        assert actions.dtype == np.float32
        assert np.abs(actions).max() <= 1
    one, _ = model.predict(seen[0], deterministic=True)
    np.testing.assert_allclose(one, model.predict(seen, deterministic=True)[0][0], atol=1e-5)
    learned(model, tmp_path, 70)  # whole rollouts
    assert model.num_timesteps == {"mpo": 80}.get(name, 96)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_learned_is_logged(name: str, tmp_path: Path) -> None:
    """However short the run is, it leaves some curves."""
    env = worlds(reward={"realism": 2.0, "novelty": 0.5})
    learned(make_learner(small_learner(name), env, seed=0), tmp_path)
    scalars = logged(tmp_path)
    own = {"mpo": "critic_loss", "decision_transformer": "action_loss"}.get(name, "value_loss")
    tags = [f"train/{own}", "charts/SPS", "charts/learning_rate", "rollout/ep_rew_mean", "time/env"]
    rewards = ["reward/total", "reward/realism", "reward/novelty"]
    for tag in [*tags, *rewards]:
        assert scalars.get(tag), tag
        assert np.isfinite(scalars[tag]).all(), tag
    assert min(scalars["charts/SPS"]) > 0
    assert scalars["charts/learning_rate"][0] == pytest.approx(1e-2)
    total, realism, novelty = (np.array(scalars[tag]) for tag in rewards)
    np.testing.assert_allclose(total, 2 * realism + 0.5 * novelty, rtol=1e-4, atol=1e-5)
    # Episodes have four steps; what they pay differs from rollout to rollout.
    assert scalars["rollout/ep_rew_mean"][-1] == pytest.approx(4 * total.mean(), rel=0.5)


@pytest.mark.parametrize("name", NAMES)
def test_a_curve_has_one_point_a_step(name: str, tmp_path: Path) -> None:
    """However many worlds end together."""
    learned(make_learner(small_learner(name), worlds(count=8), 0), tmp_path, 256)
    events = EventAccumulator(str(tmp_path)).Reload()
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert len(steps) == len(set(steps)), tag


def test_where_nothing_is_played_no_reward_is_logged(tmp_path: Path) -> None:
    settings = small_learner("decision_transformer", demonstrations=["forward"])
    learned(make_learner(settings, worlds("denoise"), 0), tmp_path / "forward")
    scalars = logged(tmp_path / "forward")
    assert scalars["train/action_loss"]
    assert scalars["rollout/ep_rew_mean"]
    assert not [tag for tag in scalars if tag.startswith("reward/")]
    both = small_learner("decision_transformer", demonstrations=["forward", "random", "self"])
    model = make_learner(both, worlds("denoise"), 0)
    learned(model, tmp_path / "both", 96)
    assert len(logged(tmp_path / "both")["train/target_return"]) == 3  # one a recording
    assert logged(tmp_path / "both")["reward/total"]
    assert isinstance(model, DecisionTransformer)
    assert model.trajectories is not None
    returns = model.trajectories.returns().split(8)
    assert float(returns[0].mean()) > float(returns[1].mean())  # the first are demonstrations


@pytest.mark.parametrize("kind", ["augment", "denoise"])
@pytest.mark.parametrize("name", NAMES)
def test_a_seed_is_a_run(name: str, kind: str, tmp_path: Path) -> None:
    def weights(seed: int, run: int) -> dict[str, Tensor]:
        model = make_learner(small_learner(name), worlds(kind, seed=run), seed)
        learned(model, tmp_path / str(run))
        return parameters(model)

    first, same, other = weights(1, 0), weights(1, 1), weights(2, 2)
    assert_equal(first, same)
    assert any(not first[name].equal(other[name]) for name in first)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_comes_back(name: str, tmp_path: Path) -> None:
    settings = small_learner(name, total_steps=128)
    model = make_learner(settings, worlds(), seed=0)
    learned(model, tmp_path / "log")
    save_checkpoint(tmp_path, model)
    twin = make_learner(settings, worlds(), seed=1)
    assert optimizers(model).keys() == optimizers(twin).keys()
    load_checkpoint(tmp_path, twin)
    ours, theirs = policy_tensors(model), policy_tensors(twin)
    assert_equal(ours, theirs)
    for kind in optimizers(model):
        assert [key for key in ours if key.startswith(f"{kind}.")], kind  # it has been used
    trained = {
        id(p) for optimizer in optimizers(twin).values() for g in optimizer.param_groups for p in g["params"]
    }
    wanted = {id(p) for p in twin.policy.parameters() if p.requires_grad}
    assert trained == wanted
    assert twin.num_timesteps == 64
    seen = observations_of(model)
    one, other = (m.predict(seen, deterministic=True)[0] for m in (model, twin))
    np.testing.assert_array_equal(one, other)

    learned(twin, tmp_path / "log", 128)
    assert twin.num_timesteps == 128
    save_policy(tmp_path, twin, asdict(settings))
    fresh = make_learner(settings, worlds(), seed=2)
    load_policy(tmp_path, fresh)
    assert fresh.num_timesteps == 128
    learned(fresh, tmp_path / "log", 160)  # as the next round does
    assert fresh.num_timesteps == 160


@pytest.mark.parametrize("name", NAMES)
def test_the_zip_is_stable_baselines(name: str, tmp_path: Path) -> None:
    settings = small_learner(name)
    model = make_learner(settings, worlds(), seed=0)
    learned(model, tmp_path / "log")
    save_policy(tmp_path, model, asdict(settings))
    loaded = type(model).load(tmp_path / "policy.zip", device="cpu")
    assert loaded.num_timesteps == 64
    seen, later = observations_of(model), observations_of(model) + 1
    first, memory = model.predict(seen, deterministic=True)
    again, same = loaded.predict(seen, deterministic=True)
    np.testing.assert_array_equal(first, again)
    actions, _ = model.predict(later, memory, deterministic=True)
    np.testing.assert_array_equal(actions, loaded.predict(later, same, deterministic=True)[0])
    if not isinstance(loaded, DecisionTransformer):  # whose demonstrations aren't saved
        goes_on = type(model).load(tmp_path / "policy.zip", env=worlds(), device="cpu")
        before = parameters(goes_on)
        goes_on.learn(64, reset_num_timesteps=False)
        assert goes_on.num_timesteps == 128
        assert any(not before[key].equal(value) for key, value in parameters(goes_on).items())


@pytest.mark.parametrize("capacity", [1000, 48])
def test_the_replay_buffer_comes_back(capacity: int, tmp_path: Path) -> None:
    settings = small_learner("mpo", total_steps=128, buffer_size=capacity)
    model, twin = (make_learner(settings, worlds(), seed) for seed in (0, 1))
    learned(model, tmp_path / "log")
    save_checkpoint(tmp_path, model)
    load_checkpoint(tmp_path, twin)
    assert isinstance(model, MPO)
    assert isinstance(twin, MPO)
    ours, theirs = model.replay_buffer, twin.replay_buffer
    assert ours is not None
    assert theirs is not None
    assert (
        (ours.pos, ours.full) == (theirs.pos, theirs.full) == ((4, True) if capacity == 48 else (16, False))
    )
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert ours.dones[: ours.size()].mean() == 0.25  # episodes have four steps
    assert np.abs(ours.actions[: ours.size()]).max() <= 1


def test_a_memory_of_other_worlds_is_refused(tmp_path: Path) -> None:
    settings = small_learner("mpo", total_steps=128)
    model = make_learner(settings, worlds(), seed=0)
    learned(model, tmp_path / "log")
    save_checkpoint(tmp_path, model)
    with pytest.raises(UserError, match="holds a checkpoint that isn't of this training: delete it"):
        load_checkpoint(tmp_path, make_learner(settings, worlds(count=2), 0))


def test_copies_of_mpo_catch_up_by_the_same_count_after_a_stop(tmp_path: Path) -> None:
    settings = small_learner("mpo", total_steps=128)
    model, twin = (make_learner(settings, worlds(), seed) for seed in (0, 1))
    for learner in (model, twin):
        assert isinstance(learner, MPO)
        learner.target_period = 8
    learned(model, tmp_path / "log")
    save_checkpoint(tmp_path, model)
    load_checkpoint(tmp_path, twin)
    assert isinstance(twin, MPO)
    assert twin._n_updates == 6  # 48 steps after the first 16, two for every 16
    before = {name: tensor.clone() for name, tensor in twin.policy.target_critics.named_parameters()}
    without_logger(twin)
    twin.train(1, 16)
    assert_equal(before, dict(twin.policy.target_critics.named_parameters()))
    twin.train(1, 16)
    assert_equal(
        dict(twin.policy.critics.named_parameters()), dict(twin.policy.target_critics.named_parameters())
    )


def test_the_trajectories_come_back(tmp_path: Path) -> None:
    settings = small_learner("decision_transformer", total_steps=128)
    model, twin = (make_learner(settings, worlds(), seed) for seed in (0, 1))
    learned(model, tmp_path / "log")
    save_checkpoint(tmp_path, model)
    load_checkpoint(tmp_path, twin)
    assert len(recorded_trajectories(model)) == 64
    assert_equal(recorded_trajectories(model).tensors(), recorded_trajectories(twin).tensors())
    policies = model.policy, twin.policy
    assert all(isinstance(policy, DecisionTransformerPolicy) for policy in policies)
    learned(twin, tmp_path / "log", 96)
    assert len(recorded_trajectories(twin)) == 96
    first = {key: tensor[:64] for key, tensor in recorded_trajectories(twin).tensors().items()}
    assert_equal(first, recorded_trajectories(model).tensors())


def test_what_a_transformer_measures_by_stays_in_the_next_round(tmp_path: Path) -> None:
    """Whose memory is gone by then: weights that were learned in some units mean nothing in others."""
    settings = small_learner("decision_transformer", total_steps=128)
    model, twin = (make_learner(settings, worlds(), seed) for seed in (0, 1))
    learned(model, tmp_path / "log")
    save_policy(tmp_path, model, asdict(settings))
    load_policy(tmp_path, twin)
    learned(twin, tmp_path / "log", 128)
    for name in ("return_scale", "location", "scale"):
        torch.testing.assert_close(getattr(twin.policy, name), getattr(model.policy, name), msg=name)


def test_a_wish_of_ones_own_is_kept(tmp_path: Path) -> None:
    model = make_learner(small_learner("decision_transformer", target_return=2.5), worlds(), 0)
    learned(model, tmp_path)
    assert isinstance(model, DecisionTransformer)
    assert float(model.policy.target_return) == 2.5


def test_no_more_trajectories_are_kept_than_asked_for(tmp_path: Path) -> None:
    model = make_learner(small_learner("decision_transformer", memory_size=40), worlds(), 0)
    learned(model, tmp_path, 128)
    assert len(recorded_trajectories(model)) == 40
    assert int((recorded_trajectories(model).times == 0).sum()) == 10


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_of_another_world_is_refused(name: str, tmp_path: Path) -> None:
    settings = small_learner(name)
    save_policy(tmp_path, make_learner(settings, worlds(), 0), asdict(settings))
    for other in (worlds(latent="spatial"), worlds("denoise")):
        with pytest.raises(UserError, match="the saved policy doesn't fit this world"):
            load_policy(tmp_path, make_learner(settings, other, 0))


def test_episodes_of_a_saved_policy_are_learned_from(tmp_path: Path) -> None:
    settings = small_learner("mpo")
    recorded_policy = make_learner(settings, worlds("denoise"), 0)
    learned(recorded_policy, tmp_path / "log")
    folder = tmp_path / "recorded"
    save_policy(folder, recorded_policy, asdict(settings))
    again = saved_learner(folder, worlds("denoise"), seed=5)
    assert isinstance(again, MPO)
    assert_equal(policy_tensors(recorded_policy), policy_tensors(again))
    pupil = make_learner(
        small_learner("decision_transformer", demonstrations=[str(folder)]), worlds("denoise"), seed=0
    )
    learned(pupil, tmp_path / "pupil")
    by_hand = recorded_trajectories(pupil)
    assert len(by_hand) == 64
    mean, _ = recorded_policy.predict(by_hand.observations.numpy(), deterministic=True)
    away = np.abs(by_hand.actions.numpy() - mean)
    spread = np.sqrt(np.square(away).mean())
    assert 0 < spread < 1.2 * 0.8  # around its means, about as far as it deviates at first


@pytest.mark.parametrize("changes", [{"name": "mpq"}, {"wish": 3.0}], ids=str)
def test_a_policy_of_another_version_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = small_learner("mpo")
    save_policy(tmp_path, make_learner(settings, worlds(), 0), asdict(settings) | changes)
    with pytest.raises(UserError, match="a policy with other settings than today's learners have"):
        saved_learner(tmp_path, worlds(), seed=0)


MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    *((name, {"hidden": []}, r"agent\.hidden=\[\] must name layers") for name in NAMES),
    *((name, {"hidden": [8, 0]}, r"agent\.hidden=\[8, 0\] must name layers") for name in NAMES),
    *((name, {"min_std": 0}, r"agent\.min_std=0 must be above 0") for name in NAMES),
    *((name, {"init_std": -1}, r"agent\.init_std=-1 must be above 0") for name in NAMES[:-1]),
    *((name, {"n_steps": 0}, r"agent\.n_steps=0 must be above 0") for name in NAMES),
    ("ppo", {"batch_size": 24}, r"agent\.batch_size=24 must divide"),
    ("reinforce", {"baseline_epochs": 0}, r"agent\.baseline_epochs=0 must be above 0"),
    ("mpo", {"candidates": 0}, r"agent\.candidates=0 must be above 0"),
    ("mpo", {"gradient_steps": 0}, r"agent\.gradient_steps=0 must be above 0"),
    ("mpo", {"batch_size": 0}, r"agent\.batch_size=0 must lie from 2"),
    ("decision_transformer", {"context": 0}, r"agent\.context=0 must be above 0"),
    (
        "decision_transformer",
        {"demonstrations": []},
        r"agent\.demonstrations=\[\] names nothing to learn from",
    ),
    (
        "decision_transformer",
        {"demonstrations": ["master"]},
        r"agent\.demonstrations: master is neither forward, random",
    ),
    ("decision_transformer", {"heads": 3}, r"agent\.heads=3 must divide agent\.hidden\[0\]=8"),
    ("decision_transformer", {"heads": 0}, r"agent\.heads=0 must be above 0"),
    ("ppo", {"learning_rate": "fast"}, r"agent\.learning_rate=fast must be above 0"),
]


@pytest.mark.parametrize(("name", "others", "message"), MISTAKES, ids=lambda value: str(value)[:30])
def test_mistakes_are_explained(name: str, others: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_learner(small_learner(name, **others), worlds(), seed=0)


def test_demonstrations_are_of_denoising_alone(tmp_path: Path) -> None:
    settings = small_learner("decision_transformer", demonstrations=["forward"])
    with pytest.raises(UserError, match=r"agent\.demonstrations: forward is for env=latent_denoise alone"):
        learned(make_learner(settings, worlds(), 0), tmp_path)


@pytest.mark.parametrize("name", ["ppo", "reinforce", "actor_critic"])
def test_one_step_of_one_world_is_refused_or_learned_from(name: str, tmp_path: Path) -> None:
    """One number has no deviation to divide by."""
    env = worlds(count=1)
    try:
        model = make_learner(small_learner(name, n_steps=1), env, seed=0)
    except UserError:
        return
    learned(model, tmp_path, 4)
    assert all(bool(tensor.isfinite().all()) for tensor in parameters(model).values())
