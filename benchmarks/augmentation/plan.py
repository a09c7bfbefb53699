"""All runs that follow from what was chosen, and what was left out and why."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.augmentation.choices import (
    AGENTS,
    DETECTOR,
    GENERATOR,
    PRETRAINED,
    SETTINGS,
    STUDY_DATASETS,
    TOO_SMALL,
    TRACKS,
    VARIANTS,
)
from benchmarks.cases import Case
from benchmarks.command import choose
from benchmarks.datasets import Data
from latent_common.errors import UserError


@dataclass(frozen=True)
class Plan:
    """All runs, and what was left out and why."""

    cases: Sequence[Case]
    remarks: Sequence[str]


def make_plan(options: argparse.Namespace) -> Plan:
    """Expand what was chosen, without those parts for which something is missing."""
    datasets = {**STUDY_DATASETS, **dict(user_data(text) for text in options.also)}
    settings = choose("--settings", options.settings, SETTINGS)
    tracks = choose("--tracks", options.tracks, dict.fromkeys(TRACKS))
    names = choose("--datasets", options.datasets or list(datasets), datasets)
    agents = choose("--agents", options.agents, AGENTS)
    variants = choose("--variants", options.variants, VARIANTS)
    remarks = []
    if PRETRAINED in settings and options.backbone is None:
        settings.remove(PRETRAINED)
        remarks.append(f"setting {PRETRAINED} is left out: --backbone names no network")
    if GENERATOR in settings and (options.backbone is None or options.weights is None):
        settings.remove(GENERATOR)
        remarks.append(f"setting {GENERATOR} is left out: --weights and --backbone name no networks")
    for name in list(names):
        needs = datasets[name].needs
        if needs is not None and not (options.data / needs).exists():
            names.remove(name)
            remarks.append(f"data set {name} is left out: {options.data / needs} isn't there")
    cases = [
        new_case(options, datasets, (setting, track, name, variant), agent, seed)
        for setting in settings
        for track in tracks
        for name in names
        if setting not in (PRETRAINED, GENERATOR) or name not in TOO_SMALL
        for variant in variants
        for seed in range(options.seeds)
        for agent in agents
        if VARIANTS[variant].runs_in(setting, track, name, agent)
    ]
    if not cases:
        raise UserError(
            f"nothing is left to run ({'; '.join(remarks) or 'no variant applies'}): see --help for what "
            "there is, and name where it lies with --data"
        )
    return Plan(cases, remarks)


def user_data(text: str) -> tuple[str, Data]:
    """A data set of the user's, from ``name=key=value …``."""
    name, _, rest = text.partition("=")
    keys = tuple(shlex.split(rest))
    if not name.isidentifier() or not keys or not all("=" in key for key in keys):
        raise UserError(f'--also {text!r} must look like "liver=dataset=bmad_liver dataset.size=128"')
    if name in STUDY_DATASETS:
        raise UserError(f"--also {name}=…: there is a data set of that name, choose another")
    has_root = any(key.startswith("data_root=") for key in keys)
    return name, Data(keys, root=None if has_root else ".")


def new_case(
    options: argparse.Namespace,
    datasets: Mapping[str, Data],
    place: tuple[str, str, str, str],
    agent: str,
    seed: int,
) -> Case:
    """One run with all its keys; of two that name the same key, Hydra takes the later."""
    setting, track, name, variant = place
    arguments = [
        DETECTOR,
        *SETTINGS[setting],
        *datasets[name].keys_below(options.data),
        f"track={track}",
        *AGENTS[agent],
        *VARIANTS[variant].keys,
        f"runs={options.out / 'runs'}",
        *networks(options, setting),
        *options.set,
        f"seed={seed}",
    ]
    return Case(place, agent, seed, "train_ppo", tuple(arguments))


def networks(options: argparse.Namespace, setting: str) -> list[str]:
    """The keys that name pretrained networks."""
    if setting == GENERATOR:
        return [f"autoencoder.weights={options.weights}", f"detector.backbone={options.backbone}"]
    return [f"autoencoder.backbone={options.backbone}"] if setting == PRETRAINED else []
