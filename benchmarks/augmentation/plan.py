"""What is run: what was chosen of the tables, and all runs that follow."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.augmentation.tables import (
    AGENTS,
    ALWAYS,
    DATASETS,
    PRETRAINED,
    SETTINGS,
    SHORT,
    TRACKS,
    USUAL_AGENTS,
    VARIANTS,
    Data,
)
from latent_common.errors import UserError


@dataclass(frozen=True)
class Planned:
    """One run of train_ppo.py."""

    setting: str
    track: str
    dataset: str
    agent: str
    seed: int
    variant: str
    overrides: tuple[str, ...]
    """All that decides the outcome."""
    place: tuple[str, ...] = ()
    """Where things lie, and on what it runs: the same run elsewhere is the same."""

    @property
    def key(self) -> str:
        """A name that no other run of the plan has."""
        parts = (self.setting, self.track, self.dataset, self.variant, self.agent, f"seed-{self.seed}")
        return "/".join(parts)

    @property
    def file_name(self) -> str:
        """The same, fit for a file."""
        return "".join(letter if letter.isalnum() or letter in "-_=." else "-" for letter in self.key)

    @property
    def arguments(self) -> list[str]:
        """What train_ppo.py is called with."""
        return [*self.overrides, *self.place]

    @property
    def before(self) -> tuple[str, ...]:
        """What runs have in common that start from the same detectors, one a seed."""
        synthesis = AGENTS[self.agent][1:]
        return (self.setting, self.track, self.dataset, self.variant, *synthesis)


@dataclass(frozen=True)
class Choice:
    """What a user chose of the tables, and where things lie."""

    settings: Sequence[str] = tuple(SETTINGS)
    tracks: Sequence[str] = TRACKS
    datasets: Sequence[str] | None = None
    agents: Sequence[str] = USUAL_AGENTS
    variants: Sequence[str] = tuple(VARIANTS)
    seeds: int = 5
    also: Sequence[str] = ()
    extra: Sequence[str] = ()
    """Keys for every run."""
    data: Path = Path("data")
    runs: Path = Path("runs/study")
    backbone: str | None = None
    place: Sequence[str] = ()
    """Keys for every run that don't decide its outcome."""


@dataclass(frozen=True)
class Plan:
    """All runs, and what was left out and why."""

    runs: tuple[Planned, ...]
    remarks: tuple[str, ...]


def make_plan(choice: Choice) -> Plan:
    """Expand what was chosen, without those parts for which something is missing."""
    tables = {**DATASETS, **dict(further(text) for text in choice.also)}
    agents = [SHORT.get(name, name) for name in choice.agents]
    datasets = list(tables) if choice.datasets is None else choice.datasets
    check("settings", choice.settings, SETTINGS)
    check("tracks", choice.tracks, TRACKS)
    check("datasets", datasets, tables)
    check("agents", agents, AGENTS)
    check("variants", choice.variants, VARIANTS)
    if choice.seeds < 1:
        raise UserError(f"--seeds {choice.seeds} must be at least 1")

    remarks = []
    settings = list(choice.settings)
    if PRETRAINED in settings and choice.backbone is None:
        settings.remove(PRETRAINED)
        remarks.append(f"setting {PRETRAINED} is left out: --backbone names no network")
    present = {}
    for name in datasets:
        needs = tables[name].needs
        if needs is None or (choice.data / needs).exists():
            present[name] = tables[name]
        else:
            remarks.append(f"data set {name} is left out: {choice.data / needs} isn't there")
    runs = tuple(
        planned(choice, setting, track, name, data, agent, seed, variant)
        for setting in settings
        for name, data in present.items()
        if setting in data.settings
        for seed in range(choice.seeds)
        for track in choice.tracks
        if track in data.tracks
        for variant in choice.variants
        for agent in agents
        if VARIANTS[variant].tried(setting, track, name, agent)
    )
    return Plan(runs, tuple(remarks))


def further(text: str) -> tuple[str, Data]:
    """A data set of the user's, from ``name=override override …``."""
    name, _, rest = text.partition("=")
    overrides = tuple(shlex.split(rest))
    if not name.isidentifier() or not overrides or not all("=" in each for each in overrides):
        raise UserError(f'--also {text!r} must look like "liver=dataset=bmad_liver dataset.size=128"')
    if name in DATASETS:
        raise UserError(f"--also {name}=…: there is a data set of that name, choose another")
    has_root = any(override.startswith("data_root=") for override in overrides)
    return name, Data(overrides, root=None if has_root else ".")


def check(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Complain about a name that no table holds."""
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(f"--{what} {name} is unknown: choose among {', '.join(known)}")


def planned(
    choice: Choice,
    setting: str,
    track: str,
    name: str,
    data: Data,
    agent: str,
    seed: int,
    variant: str,
) -> Planned:
    """One run with all its keys; of two that name the same key, Hydra takes the later."""
    overrides = (
        *SETTINGS[setting],
        *data.overrides,
        *ALWAYS,
        f"track={track}",
        *AGENTS[agent],
        *VARIANTS[variant].overrides,
        *choice.extra,
        f"seed={seed}",
    )
    place = [f"runs={choice.runs}"]
    if data.root is not None:
        place.append(f"data_root={choice.data / data.root}")
    if setting == PRETRAINED:
        place.append(f"autoencoder.backbone={choice.backbone}")
    return Planned(setting, track, name, agent, seed, variant, overrides, (*place, *choice.place))


def commands(runs: Iterable[Planned]) -> Iterator[str]:
    """The runs as calls of train_ppo.py: one with ``-m`` for all that differ by agent and seed alone."""
    together: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    for run in runs:
        swept = (AGENTS[run.agent][0], f"seed={run.seed}")
        shared = tuple(argument for argument in run.arguments if argument not in swept)
        for values, argument in zip(together.setdefault(shared, ([], [])), swept, strict=True):
            value = argument.partition("=")[2]
            if value not in values:
                values.append(value)
    for shared, (agents, seeds) in together.items():
        sweep = ["-m"] if len(agents) * len(seeds) > 1 else []
        arguments = [*sweep, *shared, f"agent={','.join(agents)}", f"seed={','.join(seeds)}"]
        yield f"python train_ppo.py {shlex.join(arguments)}"
