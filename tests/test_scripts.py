"""The three scripts, called as a user calls them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from conftest import ROOT, TINY, TINY_AGENT, TINY_PPO, RunHere, run_script

import train_ppo

SCRIPTS = ["train_ae.py", "train_detector.py", "train_ppo.py"]


def report(folder: Path) -> dict[str, object]:
    (path,) = folder.glob("runs/digits/agent/*/report.json")
    loaded: dict[str, object] = json.loads(path.read_text())
    return loaded


@pytest.mark.slow
def test_everything_from_nothing_and_once_more(tmp_path: Path) -> None:
    first = run_script("train_ppo.py", *TINY_PPO, "export=out", cwd=tmp_path)
    for metric in ("image_AUROC", "image_AP", "image_F1Max"):
        assert metric in first.stdout
    assert gym.make("LatentAug-v0", artifacts=str(tmp_path / "out")).reset(seed=0)[0].shape == (16 + 32,)
    assert "tensorboard --logdir runs" in first.stdout
    for stage in ("autoencoder", "detector", "agent"):
        (folder,) = (tmp_path / "runs" / "digits" / stage).iterdir()
        names = {path.name for path in folder.iterdir()}
        assert {"config.yaml", "metrics.json", "pictures"} <= names
        assert any(name.startswith("events.out.tfevents") for name in names)
        assert list((folder / "pictures").glob("*.png"))
    (folder,) = (tmp_path / "runs" / "digits" / "agent").iterdir()
    assert {"report.json", "report.md", "augmented.npz", "policy.zip"} <= {p.name for p in folder.rglob("*")}
    with np.load(folder / "augmented.npz") as made:
        assert set(np.unique(made["labels"])) <= {0, 1}

    env = gym.make("LatentAug-v0", artifacts=str(folder))
    assert env.reset(seed=0)[0].shape == (16 + 32,)
    env = gym.make("LatentAug-v0", artifacts=str(tmp_path / "runs"))
    assert env.reset(seed=0)[0].shape == (16 + 32,)

    again = run_script("train_ppo.py", *TINY_PPO, cwd=tmp_path)
    assert "using" in again.stderr
    assert again.stdout == first.stdout

    # The same seed in another folder: the same figures, to the last digit.
    other = tmp_path / "other"
    other.mkdir()
    run_script("train_ppo.py", *TINY_PPO, cwd=other)
    assert report(other)["metrics"] == report(tmp_path)["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["random", "gradient", "none"])
def test_other_agents(agent: str, tmp_path: Path) -> None:
    done = run_script("train_ppo.py", *TINY_AGENT, f"agent={agent}", "env.horizon=2", cwd=tmp_path)
    assert "image_AUROC" in done.stdout
    assert report(tmp_path)["agent"] == agent


@pytest.mark.slow
def test_stages_on_their_own_export_and_multirun(tmp_path: Path) -> None:
    tiny = TINY[:-2]
    done = run_script("train_ae.py", *tiny, "seed=1,2", "-m", cwd=tmp_path)
    assert done.stdout.count("on normal validation images") == 2
    assert len(list((tmp_path / "runs/digits/autoencoder").iterdir())) == 2
    done = run_script("train_detector.py", *TINY, "seed=1", "export=world", cwd=tmp_path)
    assert "autoencoder: using" in done.stderr
    assert gym.make("LatentAug-v0", artifacts=str(tmp_path / "world")).reset(seed=0)[0].shape == (16 + 32,)
    assert not (tmp_path / "outputs").exists()  # Hydra's own folders would only confuse


@pytest.mark.slow
def test_a_users_reward_and_perturbation(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import latent_env\n"
        "@latent_env.register_reward('dark')\n"
        "class Dark(latent_env.RewardTerm):\n"
        "    def value(self, transition):\n"
        "        return 1 - transition.image.mean(dim=(1, 2, 3))\n"
    )
    overrides = [*TINY_AGENT, "agent=random", "plugins=[mine]", "+reward.terms.dark=0.5"]
    done = run_script("train_ppo.py", *overrides, cwd=tmp_path)
    assert "image_AUROC" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_every_choice_with_a_line(script: str, tmp_path: Path) -> None:
    text = run_script(script, "--help", cwd=tmp_path).stdout
    for choice in ("phantom", "digits", "folder", "bmad_liver", "conv"):
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [choice]]
        assert len(line.split()) > 4
    assert ("ppo" in text.split()) == (script == "train_ppo.py")
    assert "seed: 0" in text
    assert not list(tmp_path.iterdir())


def test_the_whole_configuration_is_plain(tmp_path: Path, run_here: RunHere) -> None:
    """``--cfg job`` shows the values that a run would have: nothing is null that is filled in later."""
    arguments = ["dataset=digits", "--cfg", "job", "seed=3"]
    code, shown, _ = run_here(train_ppo.main, "train_ppo", *arguments, cwd=tmp_path)
    assert code == 0
    assert "${" not in shown
    assert "recommended" not in shown
    config = yaml.safe_load(shown)
    assert (config["seed"], config["detector"]["steps"], config["agent"]["total_steps"]) == (3, 200, 6144)
    assert not list(tmp_path.iterdir())


MISTAKES = [
    (["datset=digits"], "datset=digits is an unknown key: train_ppo.py has agent, autoencoder"),
    (["dataset=foo"], "dataset=foo is unknown: choose one of bmad_brain, bmad_camelyon16, bmad_custom"),
    (
        ["agent=genius"],
        "agent=genius is unknown: choose one of actor_critic, decision_transformer, feature_noise, "
        "glass, gradient, mixup, mpo, none, ppo, random, random_useful, reinforce, "
        "untrained",
    ),
    (
        ["autoencoder.widht=3"],
        "autoencoder.widht=3 is an unknown key: autoencoder has batch_size, latent",
    ),
    (["seed.x=3"], "seed.x=3: seed is a single value"),
    (["autoencoder.steps=many"], "autoencoder.steps=many must be a whole number"),
    (["env.time_aware=perhaps"], "env.time_aware=perhaps must be true or false"),
    (["reward=balanced", "reward.terms.boundary=high"], "reward.terms.boundary=high must be a number"),
    (["autoencoder.steps=0"], "autoencoder.steps=0 must be above 0"),
    (["share=2"], "share=2 must lie from 0 to 1"),
    (["threads=-1"], "threads=-1 must be above 0"),
    (["device=abacus"], "device=abacus is unknown: choose cpu, cuda or auto"),
    (["seed"], "seed: can't be read as key=value"),
    (["seed=-5"], "seed=-5 must lie from 0"),
    (["dataset.seed=-1"], "dataset.seed=-1 must lie from 0"),
    (["+foo=1"], "+foo=… is an unknown key"),
    (["reward.terms.boundary=1"], "reward.terms has coverage, matching; +reward.terms.boundary=1 adds it"),
    (["dataset=digits", "dataset.normal=1.5"], "1.5"),
    (["agent.hidden=[-1]"], "agent.hidden=[-1]"),
    (["agent.n_steps=1", "env.num_envs=1"], "at least 2"),
    (["export=/proc/nowhere"], "export=/proc/nowhere: can't write there"),
    (["runs=/proc/nowhere"], "runs=/proc/nowhere: can't write there"),
    (["-m", "dataset=foo"], "dataset=foo is unknown"),
    (["dataset=_files"], "dataset=_files is unknown: choose one of bmad_brain, "),
    (["autoencoder.width=null"], "autoencoder.width=null: this key can't be null"),
    (["agent.hidden=3"], "agent.hidden=3 must be a list, such as agent.hidden=[3]"),
    (["labelled=3"], "labelled=3: set the keys below it, as labelled.<name>=<value>"),
    (["dataset.name=[1]"], "dataset.name=[1] must be text"),
    (["seed=1,2"], "seed=1,2: several values need -m (a run for each), or brackets"),
    (["~seed"], "seed must have a value"),
    (["normals=40"], "normals= is now max_train_images="),
    (["agent=cem"], "agent=cem is gone: "),
    (["autoencoder.latent=round"], "autoencoder.latent=round is unknown: choose one of flat, spatial"),
    (["dataset=digits", "env.perturbation=brush"], "brush needs a spatial latent"),
    (
        ["env.perturbation=paint"],
        "perturbation=paint is unknown: choose one of auto, brush, copy_paste",
    ),
    (["+reward.terms.beauty=1"], "reward=beauty is unknown: choose one of boundary, "),
    (["synthesis.weights={cutpaste: 0, perlin: 0}"], "synthesis"),
    (["dataset=digits", "dataset.normal=12"], "12"),
    (["dataset.size=60"], "60"),
    (["plugins=[no_such_module]"], "plugins: can't import 'no_such_module'"),
    (["dataset=folder"], "dataset.root is missing"),
    (["dataset=folder", "dataset.root=nowhere"], "nowhere"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_clear_line(
    arguments: list[str], message: str, tmp_path: Path, run_here: RunHere
) -> None:
    small = ["dataset.train=20"] if not any(a.startswith("dataset=") for a in arguments) else []
    arguments = [*arguments, *small, "autoencoder.batch_size=8"]
    code, _, error = run_here(train_ppo.main, "train_ppo", *arguments, cwd=tmp_path)
    assert code == 2, error
    assert message in error
    log = [line for line in error.splitlines() if line.startswith("train_ppo.py: ")]
    assert len(log) == 1
    assert not list(tmp_path.glob("runs/**/metrics.json"))  # nothing was trained before it was noticed


def test_a_mistake_ends_a_process_without_a_traceback(tmp_path: Path) -> None:
    done = run_script("train_ppo.py", "dataset=foo", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("train_ppo.py: dataset=foo is unknown")
    assert "Traceback" not in done.stderr


def test_a_group_of_another_script(tmp_path: Path) -> None:
    done = run_script("train_ae.py", "agent=ppo", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert (
        done.stderr
        == "train_ae.py: agent=ppo: train_ae.py has no agent; its groups are autoencoder, dataset\n"
    )


@pytest.mark.slow
def test_a_changed_plugin_is_not_the_same_run(tmp_path: Path) -> None:
    source = "import latent_env\n@latent_env.register_reward('x')\nclass X(latent_env.RewardTerm):\n"
    source += "    def value(self, transition):\n        return {} * transition.distance\n"
    for factor in ("1", "-1"):
        (tmp_path / "mine.py").write_text(source.format(factor))
        arguments = [*TINY_AGENT, "agent=none", "plugins=[mine]", "+reward.terms.x=1"]
        run_script("train_ppo.py", *arguments, cwd=tmp_path)
    assert len(list((tmp_path / "runs/digits/agent").iterdir())) == 2


def test_missing_data_says_where_how_and_whence(tmp_path: Path) -> None:
    done = run_script("train_ppo.py", "dataset=bmad_liver", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for part in ("Liver/", "/data does not exist", "train/good", "Ungood", "BMAD", "data_root="):
        assert part in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "agent"])
def test_ctrl_c_loses_nothing(stage: str, tmp_path: Path) -> None:
    """Interrupted and taken up again, the stage ends where it would have ended anyway."""
    if stage == "autoencoder":
        arguments = ["train_ae.py", "dataset=digits", "threads=1", "autoencoder.steps=1500"]
    else:
        steps = ["agent.total_steps=12800", "agent.n_epochs=2", "share=0.5"]
        arguments = ["train_ppo.py", *(each for each in TINY_PPO if "total_steps" not in each), *steps]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / arguments[0]), *arguments[1:]],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    waiting = f"runs/digits/{stage}/*/events*"
    while not list(tmp_path.glob(waiting)) and process.poll() is None:
        time.sleep(0.2)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 130, log
    assert "the same command goes on from what is kept" in log
    assert "Traceback" not in log
    done = run_script(*arguments, cwd=tmp_path)
    assert "going on from step" in done.stderr
    other = tmp_path / "uninterrupted"
    other.mkdir()
    run_script(*arguments, cwd=other)
    for suffix in ("safetensors", "json", "npz", "md"):
        found = [
            {path.relative_to(folder): path.read_bytes() for path in folder.glob(f"runs/**/*.{suffix}")}
            for folder in (tmp_path, other)
        ]
        assert found[0].keys() == found[1].keys()
        assert not [path for path, content in found[0].items() if content != found[1][path]]
