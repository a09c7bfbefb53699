"""Every learner as `agent=`: in both environments, stopped and gone on with, and in the benchmark."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conftest import RunHere

import train_ppo
from benchmarks import learners
from benchmarks.cases import Case, Outcome
from benchmarks.differences import Results
from detectors.metrics.intervals import Estimate
from latent_env.worlds.store import COMPLETE
from stages.denoise.report import AGENT, DIFFUSION, UNTRAINED

WORLDS = ["dataset=digits", "device=cpu", "threads=1", "env.num_envs=8", "samples=32"]
DENOISE = [
    *WORLDS,
    "env=latent_denoise",
    "env.artifacts=digits",
    "env.horizon=4",
    "env.critic.steps=12",
    "env.critic.width=16",
]
AUGMENT = [
    *WORLDS,
    "autoencoder.steps=10",
    "detector.steps=4",
    "detector.width=16",
    "detector.baselines=[]",
    "reward_ensemble.count=1",
    "mixture.shares=[0.25]",
]
SMALL = {
    "reinforce": ["agent.n_steps=8"],
    "actor_critic": ["agent.n_steps=4"],
    "mpo": ["agent.gradient_steps=2", "agent.batch_size=16", "agent.learning_starts=32"],
    "decision_transformer": [
        "agent.n_steps=4",
        "agent.gradient_steps=2",
        "agent.batch_size=16",
        "agent.heads=2",
    ],
}


def small(agent: str) -> list[str]:
    return [f"agent={agent}", "agent.total_steps=128", "agent.hidden=[16,16]", *SMALL[agent]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.denoise.references.CLASSIFIER_STEPS", 20)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("agent", SMALL)
def test_images_from_noise(agent: str, tmp_path: Path, run_here: RunHere) -> None:
    arguments = [*DENOISE, *small(agent)]
    code, out, err = run_here(train_ppo.main, "train_ppo", *arguments, cwd=tmp_path)
    assert code == 0, err
    assert f"agent {agent}" in out
    (folder,) = (tmp_path / "runs/digits/generator").iterdir()
    assert {path.name for path in (folder / "round_2").iterdir()} >= {"policy.json", "policy.zip"}
    assert not list(folder.rglob("checkpoint.*"))  # there is nothing left to go on with
    first = (folder / "report.json").read_bytes()
    # Trained once: what is only measured again has the same figures.
    (folder / COMPLETE).unlink()
    code, again, err = run_here(train_ppo.main, "train_ppo", *arguments, cwd=tmp_path)
    assert code == 0, err
    assert "agent, round" not in err
    assert (folder / "report.json").read_bytes() == first
    assert again == out


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["mpo", "decision_transformer"])
def test_images_for_a_detector(agent: str, tmp_path: Path, run_here: RunHere) -> None:
    code, out, err = run_here(train_ppo.main, "train_ppo", *AUGMENT, *small(agent), cwd=tmp_path)
    assert code == 0, err
    assert "image_AUROC" in out
    (folder,) = (tmp_path / "runs/digits/agent").iterdir()
    assert json.loads((folder / "report.json").read_text())["agent"] == agent


@pytest.mark.usefixtures("quick")
def test_episodes_of_a_saved_policy_are_learned_from(tmp_path: Path, run_here: RunHere) -> None:
    code, _, err = run_here(train_ppo.main, "train_ppo", *DENOISE, *small("reinforce"), cwd=tmp_path)
    assert code == 0, err
    (folder,) = (tmp_path / "runs/digits/generator").iterdir()
    imitating = [*DENOISE, *small("decision_transformer"), f"agent.demonstrations=[{folder / 'round_2'}]"]
    code, out, err = run_here(train_ppo.main, "train_ppo", *imitating, cwd=tmp_path)
    assert code == 0, err
    assert "agent decision_transformer" in out
    imitating[-1] = "agent.demonstrations=[nobody]"
    code, _, err = run_here(train_ppo.main, "train_ppo", *imitating, cwd=tmp_path)
    assert code == 2
    assert "agent.demonstrations: nobody is neither forward, random, self nor a folder" in err


@pytest.mark.slow
def test_the_benchmark_goes_on_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tasks", "pendulum", "--seeds", "1", "--pendulum-steps", "1024", "--out", str(tmp_path)]
    assert learners.main([*arguments, "--agents", "decision_transformer"]) == 1
    assert "learns from ppo: name it in --agents too" in capsys.readouterr().err
    assert learners.main([*arguments, "--agents", "decision_transformer", "ppo", "mpo"]) == 0
    printed = capsys.readouterr().out
    assert "| ppo - ppo, untrained " in printed
    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["ppo", "mpo", "decision_transformer"]  # whom others learn from comes first
    assert all(row["state"] == "complete" and row["training_steps"] == "1024" for row in rows.values())
    policies = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/pendulum/*/policy.json")}
    assert len(policies) == 3
    assert learners.main([*arguments, "--agents", "ppo", "mpo", "decision_transformer"]) == 0
    assert capsys.readouterr().out == printed
    assert policies == {
        path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/pendulum/*/policy.json")
    }


def test_results_of_a_denoising_run_stand_beside_each_other(tmp_path: Path) -> None:
    figures = {AGENT: {"return": 0.7, "accuracy": 0.9}, UNTRAINED: {"return": 0.1, "accuracy": 0.2}}
    figures[DIFFUSION] = {"accuracy": 0.95, "quality": 0.5}
    metrics = {f"{name}_{key}": value for name, own in figures.items() for key, value in own.items()}
    (tmp_path / COMPLETE).write_text(json.dumps(metrics))
    case = Case(("digits",), "ppo", 0, "train_ppo", ())
    results = Results(learners.results_of(Outcome(case, tmp_path)))
    assert [method for _, method in results.methods] == ["ppo", "ppo, untrained", "diffusion beside ppo"]
    gain, to_diffusion = learners.pairs_of(results)
    assert results.difference(gain, "return") == Estimate(pytest.approx(0.6))
    assert results.difference(to_diffusion, "accuracy") == Estimate(pytest.approx(-0.05))
    assert results.difference(to_diffusion, "return") is None
