"""`train_ppo.py env=latent_denoise`, called as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from conftest import RunHere, later_wins

import train_ppo
from latent_env.worlds.store import COMPLETE

TINY_DENOISE = [
    "env=latent_denoise",
    "dataset=digits",
    "device=cpu",
    "threads=1",
    "env.artifacts=digits",
    "env.num_envs=8",
    "env.horizon=4",
    "env.critic.steps=12",
    "env.critic.width=16",
    "samples=40",
    "agent.n_steps=8",
    "agent.batch_size=32",
    "agent.n_epochs=2",
    "agent.total_steps=128",
]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.denoise.references.CLASSIFIER_STEPS", 20)


def figures(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("runs/digits/generator/*/report.json")
    loaded: dict[str, Any] = json.loads(path.read_text())["figures"]
    return loaded


@pytest.mark.usefixtures("quick")
def test_everything_from_nothing_once_more_and_after_a_stop(
    tmp_path: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run_here(train_ppo.main, "train_ppo", *TINY_DENOISE, "export=out", cwd=tmp_path)
    assert code == 0, err
    for word in ("class accuracy", "plain diffusion", "random prior samples", "its untrained policy"):
        assert word in out
    (folder,) = (tmp_path / "runs/digits/generator").iterdir()
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    pictures = {f"pictures/{name}.png" for name in ("strips", "images_agent", "images_diffusion")}
    saved = {"round_2/policy.zip", "round_1/critic/critic.json", "diffusion/diffusion.json"}
    assert pictures | saved | {"report.md", "config.yaml", COMPLETE, "critic_latent.json"} <= kept
    first = figures(tmp_path)
    assert set(first) == {"agent", "untrained", "diffusion", "prior", "real"}
    assert {"accuracy", "frechet", "diversity", "quality", "return"} <= set(first["agent"])
    for place in (folder, tmp_path / "out", tmp_path / "runs"):
        env = gym.make("LatentDenoise-v0", artifacts=str(place))
        assert env.reset(seed=0)[0].shape == (21,)

    code, again, err = run_here(train_ppo.main, "train_ppo", *TINY_DENOISE, cwd=tmp_path)
    assert code == 0
    assert "generator: using" in err
    assert again == out

    # Stopped at the very end, nothing is learned again, and the figures are the same.
    (folder / COMPLETE).unlink()
    monkeypatch.setattr("stages.denoise.critic.train_critic", None)
    code, _, err = run_here(train_ppo.main, "train_ppo", *TINY_DENOISE, cwd=tmp_path)
    assert code == 0, err
    assert "critic: using" in err
    assert figures(tmp_path) == first


@pytest.mark.usefixtures("quick")
def test_pixels_without_classes(tmp_path: Path, run_here: RunHere) -> None:
    arguments = [a for a in TINY_DENOISE if not a.startswith(("env.artifacts", "agent."))]
    more = [
        "env.space=pixel",
        "env.conditional=false",
        "agent=random",
        "rounds=1",
        "env.recommended.total_steps=256",
    ]
    code, _, err = run_here(train_ppo.main, "train_ppo", *arguments, *more, cwd=tmp_path)
    assert code == 0, err
    assert not (tmp_path / "runs/digits/autoencoder").exists()
    assert 0 <= figures(tmp_path)["agent"]["quality"] <= 1


MISTAKES = [
    (
        ["agent=gradient"],
        "agent=gradient makes anomalies, no images: choose ppo, reinforce, actor_critic, mpo",
    ),
    (["env.artifacts=nowhere"], "env.artifacts=nowhere is neither a built-in world"),
    (["env.artifacts=phantom"], "env.artifacts=phantom is for images of 1x64x64, digits has 1x8x8"),
    (["env.space=audio"], "space='audio' is unknown: choose latent or pixel"),
    (["env.threshold=2"], "threshold=2 must be above 0 and at most 1"),
    (["env.critic.refresh=3"], "env.critic.refresh=3 must lie from 0 to 1"),
    (["env.critic.steps=0"], "env.critic.steps=0 must be above 0"),
    (["reward=boundary"], "reward=boundary is unknown: choose one of critic, interpolate"),
    (["agent.init_std=0"], "agent.init_std=0 must be above 0"),
    (["env.shell_band=1"], "env.shell_band=1 is an unknown key: env has"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_are_one_line(arguments: list[str], message: str, tmp_path: Path, run_here: RunHere) -> None:
    tiny = TINY_DENOISE if "agent=gradient" not in arguments else TINY_DENOISE[:-4]
    code, _, err = run_here(train_ppo.main, "train_ppo", *later_wins(*tiny, *arguments), cwd=tmp_path)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
