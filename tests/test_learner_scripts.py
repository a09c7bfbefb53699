"""Every learner as `agent=`: in both environments, stopped and gone on with, and in the benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import RunHere

import train_ppo
from benchmarks import learners
from latent_env.worlds.store import COMPLETE

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
    "detector.heads=2",
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
    monkeypatch.setattr("stages.denoise.report.JUDGE_STEPS", 20)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("agent", SMALL)
def test_images_from_noise(agent: str, tmp_path: Path, run_here: RunHere) -> None:
    arguments = [*DENOISE, *small(agent)]
    code, out, err = run_here(train_ppo.main, "train_ppo", *arguments, cwd=tmp_path)
    assert code == 0, err
    assert f"agent {agent}" in out
    (folder,) = (tmp_path / "runs/digits/artist").iterdir()
    assert {path.name for path in (folder / "round_2").iterdir()} >= {"policy.json", "policy.zip"}
    assert not (folder / "round_2/memory.json").exists()  # there is nothing left to go on with
    first = (folder / "report.json").read_bytes()
    # Learned once: what is only judged again is judged the same.
    (folder / COMPLETE).unlink()
    code, again, err = run_here(train_ppo.main, "train_ppo", *arguments, cwd=tmp_path)
    assert code == 0, err
    assert "agent, round" not in err
    assert (folder / "report.json").read_bytes() == first
    assert again == out


@pytest.mark.parametrize("agent", ["mpo", "decision_transformer"])
def test_images_for_a_detector(agent: str, tmp_path: Path, run_here: RunHere) -> None:
    code, out, err = run_here(train_ppo.main, "train_ppo", *AUGMENT, *small(agent), cwd=tmp_path)
    assert code == 0, err
    assert "image_AUROC" in out
    (folder,) = (tmp_path / "runs/digits/agent").iterdir()
    assert json.loads((folder / "report.json").read_text())["agent"] == agent


@pytest.mark.usefixtures("quick")
def test_a_saved_policy_teaches(tmp_path: Path, run_here: RunHere) -> None:
    code, _, err = run_here(train_ppo.main, "train_ppo", *DENOISE, *small("reinforce"), cwd=tmp_path)
    assert code == 0, err
    (folder,) = (tmp_path / "runs/digits/artist").iterdir()
    taught = [*DENOISE, *small("decision_transformer"), f"agent.demonstrations=[{folder / 'round_2'}]"]
    code, out, err = run_here(train_ppo.main, "train_ppo", *taught, cwd=tmp_path)
    assert code == 0, err
    assert "agent decision_transformer" in out
    taught[-1] = "agent.demonstrations=[nobody]"
    code, _, err = run_here(train_ppo.main, "train_ppo", *taught, cwd=tmp_path)
    assert code == 2
    assert "agent.demonstrations: nobody is neither forward, random, self nor a folder" in err


def test_the_benchmark_goes_on_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brief = {name: learners.Solver(2048, solver.make) for name, solver in learners.SOLVERS.items()}
    monkeypatch.setattr(learners, "SOLVERS", brief)
    arguments = ["--tasks", "pendulum", "--seeds", "0", "--out", str(tmp_path), "--agents"]
    learners.main([*arguments, "ppo", "mpo"])
    table = (tmp_path / "RESULTS.md").read_text()
    assert "| ppo | 2,048 |" in table
    assert "| decision_transformer" not in table
    before = (tmp_path / "cases/pendulum-ppo-0/case.json").read_bytes()
    learners.main([*arguments, "decision_transformer", "ppo"])
    assert (tmp_path / "cases/pendulum-ppo-0/case.json").read_bytes() == before
    rows = json.loads((tmp_path / "RESULTS.json").read_text())["runs"]
    assert {row["agent"] for row in rows} == {"ppo", "mpo", "decision_transformer"}
    assert all(-2000 < row["return"] < 0 for row in rows)
    assert all(row["commit"] for row in rows)


def test_published_rows_stay_until_they_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = {name: learners.Solver(512, solver.make) for name, solver in learners.SOLVERS.items()}
    monkeypatch.setattr(learners, "SOLVERS", brief)
    row = {"task": "pendulum", "return": -1.0, "untrained_return": -2.0, "steps": 3}
    published = [{**row, "agent": "ppo", "seed": seed} for seed in (0, 1)]
    published.append({**row, "agent": "mpo", "seed": 0})
    (tmp_path / "RESULTS.json").write_text(json.dumps({"runs": published}))
    for _ in range(2):  # whoever comes second finds a finished case, and the same rows
        learners.main(["--tasks", "pendulum", "--agents", "ppo", "--seeds", "0", "--out", str(tmp_path)])
        rows = json.loads((tmp_path / "RESULTS.json").read_text())["runs"]
        found = {(each["agent"], each["seed"]): each["steps"] for each in rows}
        assert found == {("mpo", 0): 3, ("ppo", 0): 512, ("ppo", 1): 3}
        assert "| ppo | 512 |" in (tmp_path / "RESULTS.md").read_text()
    assert not (tmp_path / "cases/pendulum-mpo-0").exists()


def test_a_transformer_without_demonstrations_says_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tasks", "pendulum", "--seeds", "0", "--agents", "decision_transformer"]
    with pytest.raises(SystemExit):
        learners.main([*arguments, "--out", str(tmp_path)])
    assert "learns from ppo: name it in --agents too" in capsys.readouterr().err
