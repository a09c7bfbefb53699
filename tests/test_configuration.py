"""The configuration: each default stands once, in YAML; what depends on another choice is filled in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from omegaconf import OmegaConf

from conf.schema import agents, autoencoders, datasets, detectors, envs, runs
from conf.schema.fields import Limits
from conf.schema.runs import AutoencoderRun
from latent_common import machine
from latent_common.errors import UserError
from stages.cli.checks import check_values
from stages.cli.choices import GROUPS, choices
from stages.cli.compose import compose
from stages.cli.defaults import EXCEPTIONS, SOURCES
from stages.cli.renamed import (
    GONE_CHOICES,
    GONE_KEYS,
    RENAMED_CHOICES,
    RENAMED_KEYS,
    refuse_former_names,
)
from stages.context import start

SCHEMAS = [
    kind
    for module in (agents, autoencoders, datasets, detectors, envs, runs)
    for kind in vars(module).values()
    if dataclasses.is_dataclass(kind) and isinstance(kind, type)
]


def settings_of(*arguments: str, script: str = "train_ppo") -> dict[str, Any]:
    """The complete configuration of a command, by dotted keys."""
    config = OmegaConf.to_object(compose(script, arguments))
    assert dataclasses.is_dataclass(config)
    assert not isinstance(config, type)
    return dict(flat(dataclasses.asdict(config)))


def flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield f"{above}{key}", value
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")


@pytest.mark.parametrize("kind", SCHEMAS, ids=lambda kind: kind.__name__)
def test_no_default_stands_in_the_schema(kind: type) -> None:
    for field in dataclasses.fields(kind):
        stated = (field.default, field.default_factory)
        assert stated == (dataclasses.MISSING, dataclasses.MISSING), field.name


def nulls(config: Any, above: str = "") -> Iterator[str]:
    """Keys that are null although whoever reads them counts on a value."""
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{above}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from nulls(value, f"{key}.")
        elif value is None and "None" not in str(field.type) and field.type != "Any":
            yield key


@pytest.mark.slow
def test_every_choice_is_complete() -> None:
    """All choices of all groups, in as few commands as there are data sets."""
    others = [cycle([f"{group}={name}" for name in choices(group)]) for group in GROUPS if group != "dataset"]
    for name in choices("dataset"):
        arguments = [f"dataset={name}", *map(next, others)]
        config: Any = OmegaConf.to_object(compose("train_ppo", arguments))
        assert not list(nulls(config)), arguments
        assert None not in config.reward.terms.values(), arguments


def test_sources_exist() -> None:
    found = settings_of() | settings_of("env=latent_denoise")
    for sources in (SOURCES, *EXCEPTIONS.values()):
        assert set(sources.values()) <= found.keys()


CONV = {"detector.input": "image", "detector.batch_size": 32, "detector.learning_rate": 1e-3}
PRETRAINED = {
    "detector.input": "latent",
    "detector.steps": 100,
    "detector.batch_size": 16,
    "detector.learning_rate": 3e-4,
    "detector.baselines": ["knn", "positional_knn", "gaussian"],
    "labelled.step_multiplier": 3.0,
    "mixture.shares": [0.25, 0.5],
}
PANEL = ["segmenter", "probe", "positional_knn", "supersimple"]
PPO = {"agent.n_steps": 16, "agent.n_epochs": 8, "agent.gamma": 0.9, "agent.mean_bias_lr_scale": 30.0}
DENOISE = {"agent.n_steps": 16, "agent.n_epochs": 6, "agent.gamma": 0.95, "agent.min_std": 0.05}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["detector=transformer"],
            {"autoencoder.steps": 150, "autoencoder.latent_size": 4, "detector.steps": 400} | CONV | PPO,
        ),
        ([], {"detector.input": "latent", "detector.steps": 300, "detector.members": PANEL}),
        ([], {"agent.total_steps": 6144, "env.perturbation": "auto", "mixture.by_synthetic": True}),
        (
            ["dataset=mnist", "detector=transformer"],
            {"autoencoder.latent": "flat", "detector.steps": 600, "mixture.by_synthetic": False},
        ),
        (["dataset=bmad_liver"], {"autoencoder.steps": 400, "agent.total_steps": 16384, "dataset.size": 64}),
        (["dataset=bmad_liver"], {"dataset.augment.rotation": 5, "dataset.augment.flip_horizontal": False}),
        (["dataset=digits", "autoencoder=memae"], {"autoencoder.items": 8192, "autoencoder.steps": 2000}),
        (["autoencoder=vae"], {"autoencoder.items": 0, "autoencoder.kl": 1.0, "autoencoder.join": "average"}),
        (["autoencoder=pretrained", "detector=transformer"], PRETRAINED | {"autoencoder.steps": 300}),
        (
            ["autoencoder=taesd", "detector=transformer"],
            {"autoencoder.steps": 0, "detector.input": "image", "detector.steps": 400},
        ),
        (["autoencoder=diffusers", "reward=balanced"], {"reward.terms.realism": 0.0}),
        (["autoencoder=pretrained", "detector=rdna"], {"detector.steps": 400, "detector.input": "image"}),
        (["autoencoder=pretrained", "detector=ensemble"], {"detector.steps": 100, "detector.baselines": []}),
        (["autoencoder=pretrained", "reward=balanced"], {"reward.terms.realism": 0.0}),
        (["reward=balanced"], {"reward.terms.realism": 0.5}),
        (["dataset=mnist", "detector=reconstruction"], {"detector.pooling": "relative"}),
        (["env=latent_denoise"], DENOISE | {"agent.total_steps": 122880, "reward.terms.critic": 1.0}),
        (
            ["agent=decision_transformer"],
            {"agent.total_steps": 6144, "agent.demonstrations": ["random", "self"]},
        ),
        (["env=latent_denoise", "agent=decision_transformer"], {"agent.total_steps": 131072}),
        (["agent=mpo"], {"agent.n_steps": 4, "agent.learning_rate": 2e-3, "agent.init_std": 1.0}),
        (["agent=glass"], {"env.perturbation": "dense", "agent.keep_fraction": 1.0}),
        (["agent=glass", "env.perturbation=brush"], {"env.perturbation": "brush"}),
        (["precision=bfloat16"], {"env.precision": "bfloat16"}),
    ],
    ids=str,
)
def test_what_is_filled_in(arguments: list[str], expected: dict[str, Any]) -> None:
    found = settings_of(*arguments)
    assert {key: found[key] for key in expected} == expected


def test_a_users_value_comes_first_then_the_autoencoders_then_the_data_sets() -> None:
    data = "dataset.recommended.detector_steps=7"
    autoencoder = "autoencoder.recommended.detector_steps=8"
    chosen = "detector=transformer", data
    assert settings_of(*chosen)["detector.steps"] == 7
    assert settings_of(*chosen, autoencoder)["detector.steps"] == 8
    assert settings_of(*chosen, autoencoder, "detector.steps=9")["detector.steps"] == 9


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("detector.steps=0", "detector.steps=0 must be above 0"),
        ("agent.learning_rate=-1", "agent.learning_rate=-1 must be above 0"),
        ("agent.learning_rate=inf", "agent.learning_rate=inf must be above 0 and finite"),
        ("threads=0", "threads=0 must be above 0 and at most 1024"),
        ("detector.batch_size=1", "detector.batch_size=1 must lie from 2 to 1048576"),
        ("labelled.step_multiplier=0", "labelled.step_multiplier=0 must be above 0"),
        ("share=2", "share=2 must lie from 0 to 1"),
        ("agent.keep_fraction=0", "agent.keep_fraction=0 must be above 0 and at most 1"),
        ("reward_ensemble.effort=nan", "reward_ensemble.effort=nan must be above 0 and at most 1"),
        ("reward_ensemble.count=-1", "reward_ensemble.count=-1 must lie from 0 to 100"),
        ("labelled.weight=-1", "labelled.weight=-1 must lie from 0 to 1"),
        ("dataset.seed=-1", "dataset.seed=-1 must lie from 0 to 4294967295"),
        ("seed=4294967296", "seed=4294967296 must lie from 0 to 4294967295"),
    ],
)
def test_numbers_outside_their_limits_are_refused(argument: str, message: str) -> None:
    config = OmegaConf.to_object(compose("train_ppo", [argument]))
    with pytest.raises(UserError, match=f"^{message}$"):
        check_values(config)


def test_limits_are_marked_beside_their_key() -> None:
    marks = get_type_hints(detectors.TransformerConfig, include_extras=True)
    assert marks["heads"].__metadata__ == (Limits(above=0),)


FORMER_KEYS = [(f"{old}=1", f"{old}= is now {new}=") for old, new in RENAMED_KEYS.items()]
FORMER_CHOICES = [(old, f"{old} is now {new}") for old, new in RENAMED_CHOICES.items()]
GONE = [
    *((f"{key}=1", f"{key}= is gone: ") for key in GONE_KEYS),
    *((choice, f"{choice} is gone: ") for choice in GONE_CHOICES),
]
BELOW = [
    ("judges.count=0", "judges.count= is now reward_ensemble.count="),
    ("dataset.suits.agent_steps=3", "dataset.suits.agent_steps= is now dataset.recommended.agent_steps="),
    ("+synthesis.latent.noise=1", "synthesis.latent.noise= is gone: "),
    ("agent=ppo,cem", "agent=cem is gone: "),
    ("~agent.wish", "agent.wish= is now agent.target_return="),
]


@pytest.mark.parametrize(("argument", "message"), [*FORMER_KEYS, *FORMER_CHOICES, *GONE, *BELOW])
def test_a_former_name_is_answered_with_the_new_one(argument: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        refuse_former_names(["seed=3", argument])
    assert str(refused.value).startswith(message)


def test_new_names_exist() -> None:
    names = {field.name for kind in SCHEMAS for field in dataclasses.fields(kind)}
    for new in RENAMED_KEYS.values():
        assert new.startswith("reward.terms.") or set(new.split(".")) <= names | GROUPS.keys(), new
    for choice in RENAMED_CHOICES.values():
        group, _, name = choice.partition("=")
        assert group not in GROUPS or name in choices(group), choice
    refuse_former_names([f"{key}=1" for key in RENAMED_KEYS.values()])
    refuse_former_names([*RENAMED_CHOICES.values(), "agent=ppo", "dataset.normal=[1,2]"])


@pytest.mark.parametrize("cores", [1, 64])
def test_the_number_of_threads_is_fixed_whatever_the_machine(
    cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their number decides the last digits of figures: a busy or a larger machine must not change it."""
    monkeypatch.setattr(machine, "cores", lambda: cores)
    before = torch.get_num_threads()
    try:
        start(compose("train_ae", ["dataset=digits", f"runs={tmp_path}"]), AutoencoderRun)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("given", "meant"), [("1", True), ("on", True), ("0", False), ("No", False)])
def test_what_else_is_true_or_false(given: str, meant: bool) -> None:
    assert settings_of(f"mixture.by_synthetic={given}")["mixture.by_synthetic"] is meant
