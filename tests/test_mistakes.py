"""A user's mistakes: each is one line that names what was wrong, and nothing is trained before it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import RunHere
from omegaconf import DictConfig

import train_ae
import train_detector
import train_ppo
from latent_env.rewards.base import reward_terms
from stages import prepare

SCRIPTS: dict[str, Callable[[DictConfig], None]] = {
    "prepare": prepare.main,
    "train_ae": train_ae.main,
    "train_detector": train_detector.main,
    "train_ppo": train_ppo.main,
}

USUAL = {"dataset": "digits", "device": "cpu", "threads": "1"}
LONG = "x" * 5000
NO_NAME = "can't be the name of a folder"

NAMES = [
    ("train_ae", "autoencoder.name=../../../x", f"autoencoder.name=../../../x {NO_NAME}"),
    ("train_ae", "autoencoder.name=/tmp/x", f"autoencoder.name=/tmp/x {NO_NAME}"),
    ("train_detector", "autoencoder.name=..", f"autoencoder.name=.. {NO_NAME}"),
    ("train_detector", "detector.name=../x", f"detector.name=../x {NO_NAME}"),
    ("train_ppo", "agent.name=a/b", f"agent.name=a/b {NO_NAME}"),
    ("train_ppo", "agent.name=''", f"agent.name= {NO_NAME}"),
    (
        "train_ae",
        f"autoencoder.name={LONG}",
        f"=xxxxxxxxxxxxxxxxxxxx… (5,000 letters) {NO_NAME}",
    ),
    ("prepare", "dataset.name=../x", f"dataset.name=../x {NO_NAME}"),
    ("prepare", "dataset=folder dataset.root=. dataset.name=../x", f"dataset.name=../x {NO_NAME}"),
    ("train_ae", "runs=''", "runs= is empty: name a folder"),
    ("train_ae", f"runs={LONG}", "runs=xxxxxxxxxxxxxxxxxxxx… (5,000 letters): can't write there"),
]


LIMITS = [
    ("train_ppo", "agent.ent_coef=nan", "agent.ent_coef=nan must be at least 0"),
    ("train_ppo", "agent.gamma=2", "agent.gamma=2 must lie from 0 to 1"),
    ("train_ppo", "agent.gamma=nan", "agent.gamma=nan must lie from 0 to 1"),
    ("train_ppo", "agent=actor_critic agent.gae_lambda=3", "agent.gae_lambda=3 must lie from 0 to 1"),
    (
        "train_ppo",
        "agent.hidden=[100000000]",
        "agent.hidden=[100000000]: each must be above 0 and at most 4096",
    ),
    ("train_ppo", "agent=mpo agent.buffer_size=0", "agent.buffer_size=0 must be above 0"),
    ("train_ppo", "agent=mpo agent.epsilon=nan", "agent.epsilon=nan must be above 0"),
    ("train_ppo", "agent=mpo agent.learning_starts=-1", "agent.learning_starts=-1 must lie from 0"),
    ("train_ppo", "agent=mixup agent.low=nan", "agent.low=nan must lie from 0 to 1"),
    (
        "train_ppo",
        "agent=decision_transformer agent.target_return=nan",
        "agent.target_return=nan must be a finite",
    ),
    (
        "train_ppo",
        "agent=decision_transformer agent.demonstrations=[../x]",
        "../x is neither forward, random, self nor",
    ),
    ("train_ppo", "mixture.margin=nan", "mixture.margin=nan must be a finite number"),
    ("train_ppo", "mixture.shares=[2]", "mixture.shares=[2.0]: each must lie from 0 to 1"),
    ("train_ppo", "mixture.shares=[nan]", "mixture.shares=[nan]: each must lie from 0 to 1"),
    (
        "train_ppo",
        "reward=balanced reward.terms.novelty=nan",
        "reward.terms.novelty=nan must be a finite number",
    ),
    ("train_ppo", "reward_ensemble.count=1000000", "reward_ensemble.count=1000000 must lie from 0 to 100"),
    ("train_ppo", "rounds=1000000000", "rounds=1000000000 must be above 0 and at most"),
    ("train_ppo", "samples=100000000000", "samples=100000000000 must be above 0 and at most"),
    ("train_ppo", "env.horizon=1000000000000", "env.horizon=1000000000000 must lie from 1 to 10000"),
    ("train_ppo", "env.num_envs=1000000000", "env.num_envs=1000000000 must lie from 1 to"),
    ("train_ppo", "env.max_delta=nan", "env.max_delta=nan must be above 0"),
    ("train_ppo", "env.shell_quantile=7", "env.shell_quantile=7 must be above 0 and at most 1"),
    ("train_ppo", "env.shell_band=nan", "env.shell_band=nan must lie from 0 to below 1"),
    ("train_ppo", "env.shell_ratio=-1", "env.shell_ratio=-1 must be above 0"),
    ("train_ppo", "labelled.weight=2", "labelled.weight=2 must lie from 0 to 1"),
    ("train_detector", "labelled.weight=2", "labelled.weight=2 must lie from 0 to 1"),
    ("train_detector", "labelled.train=1e9", "labelled.train=1e+09 must lie from 0 to 16777216"),
    ("train_detector", "labelled.train=-1", "labelled.train=-1 must lie from 0"),
    ("train_detector", "labelled.reference_set=nan", "labelled.reference_set=nan must lie from 0"),
    ("train_detector", "detector=transformer detector.patch=0", "detector.patch=0 must be above 0"),
    (
        "train_detector",
        "detector.width=100000000",
        "detector.width=100000000 must be above 0 and at most 4096",
    ),
    (
        "train_detector",
        "detector=knn detector.bank=1000000000000",
        "detector.bank=1000000000000 must be above 0",
    ),
    (
        "train_detector",
        "detector=ensemble detector.members=[knn,knn]",
        "detector.members=['knn', 'knn'] names one twice",
    ),
    ("train_detector", "synthesis.weights={perlin: nan}", "synthesis.weights.perlin=nan must be at least 0"),
    ("train_detector", "synthesis.pool=-1", "synthesis.pool=-1 must be above 0"),
    (
        "train_ae",
        "autoencoder.width=100000000",
        "autoencoder.width=100000000 must be above 0 and at most 4096",
    ),
    (
        "train_ae",
        "autoencoder=memae autoencoder.items=100000000",
        "autoencoder.items=100000000 must lie from 0 to",
    ),
    ("train_ae", "autoencoder.latent_size=100000000", "autoencoder.latent_size=100000000 must be above 0"),
    ("train_ae", "autoencoder.batch_size=1000000000", "autoencoder.batch_size=1000000000 must lie from 2"),
    ("train_ae", "autoencoder.learning_rate=inf", "autoencoder.learning_rate=inf must be above 0 and finite"),
    (
        "train_ae",
        "autoencoder=memae autoencoder.shrinkage=nan",
        "autoencoder.shrinkage=nan must be at least 0",
    ),
    ("train_ae", "threads=100000", "threads=100000 must be above 0 and at most 1024"),
    ("train_ae", "threads=1000000000000", "threads=1000000000000 must be above 0 and at most 1024"),
    ("train_ae", "memory=nan", "memory=nan must be above 0"),
    ("train_ae", "dataset.augment.shift=5", "dataset.augment.shift=5.0 must lie from 0 to 0.5"),
    ("train_ae", "dataset.augment.rotation=nan", "dataset.augment.rotation=nan must "),
    (
        "prepare",
        "dataset=phantom dataset.train=1000000000",
        "dataset.train=1000000000 must be above 0 and at most",
    ),
    ("prepare", "dataset=phantom dataset.size=100000000", "size=100000000 does not fit"),
    ("prepare", "dataset=folder dataset.root=. dataset.limit=-1", "dataset.limit=-1 must be above 0"),
    (
        "prepare",
        "dataset=folder dataset.root=. dataset.valid_fraction=nan",
        "valid_fraction=nan must lie between",
    ),
    (
        "prepare",
        "dataset=mvtec dataset.category=bottle dataset.name=odd",
        "dataset.name=odd is unknown: this is mvtec",
    ),
    ("prepare", "dataset=mnist dataset.name=odd", "dataset.name=odd is unknown: this is mnist or cifar10"),
]

ARGUMENTS = [
    ("train_ae", "seed=1 seed=2", "seed is given twice, as seed=1 and seed=2: give it once"),
    ("train_ae", "seed=1,2 seed=3 -m", "seed is given twice, as seed=1,2 and seed=3: give it once"),
    ("train_ppo", "agent=ppo agent=random", "agent is given twice, as agent=ppo and agent=random"),
    ("train_ppo", "+reward.terms.novelty=1 reward.terms.novelty=2", "reward.terms.novelty is given twice"),
    ("train_ppo", "~reward.terms.coverage +reward.terms.coverage=1", "reward.terms.coverage is given twice"),
    ("train_ppo", "mixture.by_synthetic=7", "mixture.by_synthetic=7 must be true or false"),
    ("train_ppo", "mixture.by_synthetic='-1'", "mixture.by_synthetic=-1 must be true or false"),
    ("train_ppo", "mixture={by_synthetic:2}", "mixture.by_synthetic=2 must be true or false"),
    ("train_ppo", "mixture.by_synthetic=0.5", "mixture.by_synthetic=0.5 must be true or false"),
    ("train_ae", "runs=~/x", "runs=~/x: a value that begins with ~ needs quotes, as in \"runs='~/x'\""),
    ("train_ae", "runs=${oc.env:NOPE}", "runs=${oc.env:NOPE}: the environment variable NOPE is not set"),
    ("train_ae", "runs=${nope}", "runs=${nope}: there is no key nope to take a value from"),
    ("train_ae", "=digits", "=digits names no key: give it as key=value"),
    (
        "train_ae",
        "--config-name=x",
        "--config-name=x is no option of train_ae.py: it has -m, --cfg job and --help",
    ),
    ("train_ae", "--config-dir=/nope", "--config-dir=/nope is no option of train_ae.py"),
    ("train_ae", "-x", "-x is no option of train_ae.py"),
    ("train_ae", "--cfg", "--cfg is followed by nothing: --cfg job shows every key and its value"),
    ("train_ae", "--cfg nonsense", "--cfg nonsense: it shows job, hydra, all, as in --cfg job"),
    ("train_ae", "+dataset.name=x", "+dataset.name=x: dataset.name is there already, leave + away"),
    ("train_ae", "+dataset=phantom", "+dataset=phantom: give it as dataset=<choice>, without +"),
    ("train_ae", "~dataset", "~dataset: give it as dataset=<choice>, without ~"),
    ("train_ae", "autoencoder=null", "autoencoder=null: choose one of ae, conv"),
    ("train_ae", "autoencoder=", "autoencoder=: choose one of ae, conv"),
    ("train_ae", "dataset=[digits,phantom]", "dataset=[digits,phantom]: choose one of bmad_brain"),
    ("train_ae", "digits", "digits: can't be read as key=value"),
]

PLUGINS = {
    "plugins=[bad_syntax]": "plugins: {}/bad_syntax.py, line 2: ",
    "plugins=[raises]": "importing raises failed with ZeroDivisionError: division by zero ({}/r",
    "plugins=[leaves]": "plugins: importing leaves failed with SystemExit: 3 ({}/leaves.py, line 2)",
    "plugins=[imports]": "plugins: can't import 'imports' (No module named 'nowhere')",
    "plugins=[replaces]": "plugins: the reward boundary is there already (latent_env.rewards.boundary",
    "plugins=['../x']": "plugins: '../x' is no name of a module",
    "plugins.x=1": "plugins.x=1: plugins is a list: give all of it, as in plugins=[",
    "plugins=['']": "plugins: '' is no name of a module",
    "plugins=['.x']": "plugins: '.x' is no name of a module",
    "plugins=['a b']": "plugins: 'a b' is no name of a module",
    "plugins=raises": "plugins=raises must be a list, such as plugins=[raises]",
    "plugins=[needs] +reward.terms.needy=1": "the reward term needy needs 'colour', but a transition has",
}
HEAD = "import latent_env\n@latent_env.register_reward({!r})\nclass Mine(latent_env.RewardTerm):\n"
TERMS = {
    "transition.distance[:, None]": "the reward term mine returned a tensor (32, 1) of float32: it",
    "3.0": "the reward term mine returned float: it must return a tensor (32,) of floats",
    "None": "the reward term mine returned NoneType: it must return a tensor (32,) of floats",
    "transition.distance.cpu().numpy()": "the reward term mine returned ndarray: it must return",
    "[][0]": "the reward term mine failed with IndexError: list index out of range (",
    "transition.colour": "the reward term mine failed with AttributeError: ",
}
VALUE = "    def value(self, transition): return transition.distance\n"
MODULES = {
    "bad_syntax": "\nclass :\n",
    "raises": "\n1 / 0\n",
    "leaves": "import sys\nsys.exit(3)\n",
    "imports": "import nowhere\n",
    "replaces": HEAD.format("boundary") + VALUE,
    "needs": HEAD.format("needy") + "    needs = ('colour',)\n" + VALUE,
}


def check(script: str, arguments: list[str], message: str, folder: Path, run_here: RunHere) -> None:
    """The script says ``message`` in one line, and leaves no result behind."""
    beside = set(folder.parent.iterdir())
    keys = {each.lstrip("+~").partition("=")[0] for each in arguments}
    usual = {"dataset": "digits"} if script == "prepare" else USUAL
    others = [f"{key}={value}" for key, value in usual.items() if key not in keys]
    code, _, error = run_here(SCRIPTS[script], script, *others, *arguments, cwd=folder)
    lines = [line for line in error.splitlines() if line.startswith(("train_", "stages.prepare"))]
    assert code == 2, error
    assert message in error
    assert len(lines) == 1, error
    assert "Traceback" not in error
    assert not list(folder.glob("runs/**/metrics.json"))
    assert set(folder.parent.iterdir()) == beside


@pytest.mark.parametrize(("script", "arguments", "message"), NAMES, ids=lambda value: str(value)[:40])
def test_a_name_that_leads_elsewhere(
    script: str, arguments: str, message: str, tmp_path: Path, run_here: RunHere
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    check(script, arguments.split(), message, folder, run_here)


@pytest.mark.parametrize(
    ("script", "arguments", "message"), [*LIMITS, *ARGUMENTS], ids=lambda value: str(value)[:40]
)
def test_an_argument_that_makes_no_sense(
    script: str, arguments: str, message: str, tmp_path: Path, run_here: RunHere
) -> None:
    check(script, arguments.replace(": ", ":").split(), message, tmp_path, run_here)


@pytest.mark.parametrize("arguments", PLUGINS)
def test_a_plugin_that_fails(arguments: str, tmp_path: Path, run_here: RunHere) -> None:
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
    given = arguments.split() if arguments != "plugins=['a b']" else [arguments]
    check("train_ppo", given, PLUGINS[arguments].format(tmp_path), tmp_path, run_here)


@pytest.mark.parametrize("value", TERMS)
def test_a_reward_term_that_fails_is_told_before_anything_is_trained(
    value: str, tmp_path: Path, run_here: RunHere
) -> None:
    source = HEAD.format("mine") + f"    def value(self, transition): return {value}\n"
    (tmp_path / "mine.py").write_text(source)
    message = TERMS[value].replace("{}", str(tmp_path))
    sys.modules.pop("mine", None)
    before = dict(reward_terms._factories)
    try:
        check("train_ppo", ["plugins=[mine]", "+reward.terms.mine=1"], message, tmp_path, run_here)
    finally:
        sys.modules.pop("mine", None)
        reward_terms._factories = before
