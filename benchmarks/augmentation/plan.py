"""What is run: settings, tracks, data sets, agents and variants as tables, and all runs that follow."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectors.errors import UserError

SCRATCH, PRETRAINED = "scratch", "pretrained"
NORMAL_ONLY, LABELLED = "normal_only", "labelled_validation"

BUDGET = ("samples=1024", "rounds=1")
SETTINGS: dict[str, tuple[str, ...]] = {
    SCRATCH: (
        *("autoencoder=conv", "autoencoder.latent=spatial", "dataset.size=32"),
        *("detector.width=32", "detector.steps=600", "dataset.suits.agent_steps=24576", *BUDGET),
    ),
    # What trains there is the decoder alone, which detectors of latents have no use for.
    PRETRAINED: (
        *("autoencoder=pretrained", "autoencoder.steps=60", "dataset.size=224", *BUDGET),
        "dataset.suits.agent_steps=6144",
    ),
}
"""What the eyes are, and a budget with which some hundred runs fit into hours on two cores: small images and
small models where all is trained from scratch. With ``--set`` it can be made larger."""

ALWAYS = ("curves=true",)
"""What every run is asked for: the report draws how its detectors learn."""

TRACKS = (NORMAL_ONLY, LABELLED)


@dataclass(frozen=True)
class Data:
    """A data set: how it is asked for, where it lies below ``--data``, and what it takes part in."""

    overrides: tuple[str, ...]
    needs: str | None = None
    """What must be there; None where nothing is needed."""
    root: str | None = None
    """The folder that ``data_root`` names; None leaves it alone."""
    settings: tuple[str, ...] = (SCRATCH, PRETRAINED)
    tracks: tuple[str, ...] = TRACKS


MNIST = ("dataset=mnist", "dataset.limit=500")
"""Of 10,000 test images, so many normal and so many others say enough."""

DATASETS: dict[str, Data] = {
    "phantom": Data(("dataset=phantom",), settings=(SCRATCH,)),
    "bottle": Data(("dataset=mvtec", "dataset.category=bottle"), "mvtec/bottle", "mvtec"),
    "magnetic_tile": Data(
        ("dataset=folder", "dataset.root=folder/magnetic_tile"), "folder/magnetic_tile", "."
    ),
    "busi": Data(("dataset=bmad_custom", "dataset.name=BUSI"), "bmad/BUSI", "bmad"),
    "mnist_0": Data((*MNIST, "dataset.normal=0"), "mnist", ".", (SCRATCH,)),
    "mnist_3": Data((*MNIST, "dataset.normal=3"), "mnist", ".", (SCRATCH,)),
    "mnist_8": Data((*MNIST, "dataset.normal=8"), "mnist", ".", (SCRATCH,)),
}

AGENTS: dict[str, tuple[str, ...]] = {
    "none": ("agent=none",),
    "none (cutpaste)": ("agent=none", "synthesis=cutpaste"),
    "none (perlin)": ("agent=none", "synthesis=perlin"),
    **{
        name: (f"agent={name}",)
        for name in (
            *("random", "gradient", "ppo", "random_useful", "random_matched", "untrained", "mixup"),
            *("smallest", "cem", "glass", "feature_noise"),
            *("reinforce", "actor_critic", "mpo", "decision_transformer"),
        )
    },
}
"""What makes the additional samples: an agent, or image-space synthesis alone."""

SHORT = {"cutpaste": "none (cutpaste)", "perlin": "none (perlin)"}
"""What is easier to type."""

USUAL_AGENTS = ("none", "none (cutpaste)", "none (perlin)", "random", "gradient", "ppo")
FOCUS = "ppo"
"""The agent that the verdict is about."""


@dataclass(frozen=True)
class Variant:
    """Further keys, and where they are tried; None means everywhere."""

    overrides: tuple[str, ...]
    agents: tuple[str, ...] | None = None
    datasets: tuple[str, ...] | None = None
    settings: tuple[str, ...] | None = None
    tracks: tuple[str, ...] | None = None

    def tried(self, setting: str, track: str, dataset: str, agent: str) -> bool:
        """Whether it takes part in this combination."""
        wanted = (self.settings, self.tracks, self.datasets, self.agents)
        given = (setting, track, dataset, agent)
        return all(allowed is None or value in allowed for value, allowed in zip(given, wanted, strict=True))


DEFAULT = "default"
COMPARED = ("none", "random", "ppo")


def ablation(*overrides: str, agents: tuple[str, ...] = COMPARED) -> Variant:
    """The agent in question with other keys, and those it is compared with."""
    return Variant(overrides, agents, ("mnist_3", "busi"), (SCRATCH,), (LABELLED,))


VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant(()),
    "strokes alone": ablation("agent.perturbation=brush"),
    "usefulness": ablation("reward=useful"),
    "long training": ablation("detector.steps=2400", "judges.effort=0.0625"),
    "short learning": ablation("dataset.suits.agent_steps=6144", agents=(FOCUS,)),
    "fewer labelled": ablation("labelled.weight=0.25"),
    "all kept": ablation("agent.keep=1"),
    "one judge": ablation("judges.count=0"),
    "two rounds": ablation("rounds=2"),
    "four strokes": ablation("env.horizon=4"),
    "half of all": ablation("share=0.5"),
    "slow mean": ablation("agent.shared_speed=1", agents=(FOCUS,)),
    "likeness alone": ablation("reward.terms.matching=0", "+reward.terms.resemblance=3.0", agents=(FOCUS,)),
    "second opinion": Variant(("detector=ensemble",), ("none", FOCUS)),
    "normals=40": Variant(("normals=40",), COMPARED, ("phantom",)),
    "normals=160": Variant(("normals=160",), COMPARED, ("phantom",)),
    "labelled=5": Variant(("labelled.train=5",), COMPARED, ("phantom", "busi"), (SCRATCH,), (LABELLED,)),
    "labelled=20": Variant(("labelled.train=20",), COMPARED, ("phantom",), tracks=(LABELLED,)),
}
"""Ablations and curves. Those called ``<curve>=<number>`` are points of a curve, see :data:`CURVES`."""


@dataclass(frozen=True)
class Curve:
    """Variants over a number: what the axis says, and where the default stands on it."""

    axis: str
    default: str
    default_first: bool


CURVES: dict[str, Curve] = {
    "normals": Curve("normal training images", "all", default_first=False),
    "labelled": Curve("labelled anomalies to learn from", "half of valid", default_first=False),
}


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
