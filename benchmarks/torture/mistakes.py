"""Mistakes on the command line: each must be refused in one line before anything is made."""

from __future__ import annotations

import random
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from benchmarks.torture.children import Ended, command, run
from benchmarks.torture.scenarios import AGENT, AUTOENCODER, DATA, DETECTOR, PPO, Stage
from benchmarks.torture.tally import Tally, Turns
from conf.schema import agents, autoencoders, datasets, detectors, envs, runs
from conf.schema.fields import FileName, Limits
from stages.cli.mistakes import MISTAKE

LIMIT = 60.0

USUAL = {
    "train_ppo.py": (*AGENT, *PPO),
    "train_detector.py": DETECTOR,
    "train_ae.py": AUTOENCODER,
    "-m stages.prepare": DATA,
}
"""What each command is called with beside the mistake."""

KINDS: tuple[tuple[str, type, tuple[str, ...]], ...] = (
    ("", runs.AgentRun, ()),
    ("dataset.", datasets.FolderConfig, ()),
    ("autoencoder.", autoencoders.ConvConfig, ()),
    ("detector.", detectors.TransformerConfig, ()),
    ("synthesis.", detectors.SynthesisConfig, ()),
    ("env.", envs.AugmentEnvConfig, ()),
    ("agent.", agents.PPOConfig, ()),
    ("agent.", agents.MpoConfig, ("agent=mpo",)),
    ("detector.", detectors.RdnaConfig, ("detector=rdna",)),
    ("autoencoder.", autoencoders.MemoryAutoencoderConfig, ("autoencoder=memae",)),
)
"""Classes whose keys are given values that they can't have, where these keys stand, and what chooses them."""

WRONG: dict[Any, tuple[str, ...]] = {
    int: ("x", "1.5", "nan", "[1]", "{a: 1}", "1e400", "''"),
    float: ("x", "nan", "[1]", "{a: 1}", "'1,5'"),
    bool: ("perhaps", "3.7", "7", "'-1'", "[true]"),
    list: ("x", "3", "{a: 1}"),
    str: ("[1]", "{a: 1}"),
}
"""Values that no key of a type can have."""

BY_HAND = (
    ("train_ppo.py", "agent=ppo agent=random"),
    ("train_ppo.py", "seed=1 seed=2"),
    ("train_ppo.py", "agent=genius"),
    ("train_ppo.py", "agent="),
    ("train_ppo.py", "agent=[ppo]"),
    ("train_ppo.py", "reward=nothing"),
    ("train_ppo.py", "env=chess"),
    ("train_ppo.py", "synthesis=magic"),
    ("train_ppo.py", "+reward.terms.beauty=1"),
    ("train_ppo.py", "reward.terms.coverage=nan"),
    ("train_ppo.py", "reward.terms.coverage=x"),
    ("train_ppo.py", "env.perturbation=paint"),
    ("train_ppo.py", "env.observation=smell"),
    ("train_ppo.py", "env.place=moon"),
    ("train_ppo.py", "env.blending=hard"),
    ("train_ppo.py", "plugins=[no_such_module]"),
    ("train_ppo.py", "plugins=['../x']"),
    ("train_ppo.py", "mixture.shares=[2]"),
    ("train_ppo.py", "share=2"),
    ("train_ppo.py", "labelled.weight=2"),
    ("train_ppo.py", "agent.hidden=[]"),
    ("train_ppo.py", "agent.hidden=[0]"),
    ("train_ppo.py", "agent.batch_size=7"),
    ("train_ppo.py", "agent=decision_transformer agent.demonstrations=[../x]"),
    ("train_ppo.py", "export=/proc/nowhere"),
    ("train_ppo.py", "env=latent_denoise agent=gradient"),
    ("train_ppo.py", "env=latent_denoise env.space=audio"),
    ("train_ppo.py", "env=latent_denoise env.artifacts=nowhere"),
    ("train_ppo.py", "env=latent_denoise reward=boundary"),
    ("train_detector.py", "agent=ppo"),
    ("train_detector.py", "detector=oracle"),
    ("train_detector.py", "detector=ensemble detector.members=[knn,knn]"),
    ("train_detector.py", "detector=ensemble detector.members=[oracle]"),
    ("train_detector.py", "detector.baselines=[oracle]"),
    ("train_detector.py", "detector=transformer detector.width=17"),
    ("train_detector.py", "detector=transformer detector.heads=3"),
    ("train_detector.py", "detector=transformer detector.patch=5"),
    ("train_detector.py", "detector.backbone=nowhere"),
    ("train_detector.py", "detector.input=smell"),
    ("train_detector.py", "texture_root=nowhere"),
    ("train_detector.py", "labelled.train=1e9"),
    ("train_detector.py", "precision=int4"),
    ("train_detector.py", "detector=ensemble detector=knn"),
    ("train_ae.py", "detector=knn"),
    ("train_ae.py", "autoencoder=gpt"),
    ("train_ae.py", "autoencoder=pretrained"),
    ("train_ae.py", "autoencoder=pretrained autoencoder.backbone=nowhere"),
    ("train_ae.py", "autoencoder=taesd"),
    ("train_ae.py", "autoencoder=taesd autoencoder.weights=nowhere"),
    ("train_ae.py", "autoencoder.latent=round"),
    ("train_ae.py", "autoencoder.name=../x"),
    ("train_ae.py", "autoencoder.name=''"),
    ("train_ae.py", "device=abacus"),
    ("train_ae.py", "threads=0"),
    ("train_ae.py", "runs=''"),
    ("train_ae.py", "runs=/proc/nowhere"),
    ("train_ae.py", "runs=~/x"),
    ("train_ae.py", "runs=${oc.env:NOPE}"),
    ("train_ae.py", "runs=${nope}"),
    ("train_ae.py", "prepared=/proc/nowhere"),
    ("train_ae.py", "=digits"),
    ("train_ae.py", "seed"),
    ("train_ae.py", "~seed"),
    ("train_ae.py", "~dataset"),
    ("train_ae.py", "+dataset=digits"),
    ("train_ae.py", "seed=1,2"),
    ("train_ae.py", "++foo=1"),
    ("train_ae.py", "--frobnicate"),
    ("train_ae.py", "--cfg nonsense"),
    ("train_ae.py", "--config-name=x"),
    ("train_ae.py", "-x"),
    ("train_ae.py", "normals=40"),
    ("train_ae.py", "datset=digits"),
    ("train_ae.py", "autoencoder.widht=3"),
    ("-m stages.prepare", "dataset=unheard_of"),
    ("-m stages.prepare", "dataset.root=nowhere"),
    ("-m stages.prepare", "dataset.size=60"),
    ("-m stages.prepare", "dataset.size=100000000"),
    ("-m stages.prepare", "dataset.on_error=ignore"),
    ("-m stages.prepare", "dataset.group='('"),
    ("-m stages.prepare", "dataset.limit=1"),
    ("-m stages.prepare", "dataset.valid_fraction=2"),
    ("-m stages.prepare", "dataset.channels=4"),
    ("-m stages.prepare", "dataset.name=../x"),
    ("-m stages.prepare", "dataset.normal_dir=good"),
    ("-m stages.prepare", "track=both"),
    ("-m stages.prepare", "dataset=cifar10 data_root=/proc/nowhere"),
    ("-m stages.prepare", "dataset=mnist"),
    ("-m stages.prepare", "dataset=visa"),
    ("-m stages.prepare", "dataset=npz dataset.root=nowhere"),
    ("-m stages.prepare", "dataset=mvtec dataset.category=nowhere"),
    ("-m stages.prepare", "agent=ppo"),
)
"""Mistakes of other kinds, by the script that they are made with."""


@dataclass(frozen=True)
class Mistake:
    """A command with something in it that can't be meant."""

    script: str
    arguments: tuple[str, ...]

    def words(self) -> tuple[str, ...]:
        """What stands behind ``python``."""
        own = {argument.lstrip("+~").partition("=")[0] for argument in self.arguments}
        groups = {key for key in own if "." not in key}
        usual = [
            each
            for each in USUAL[self.script]
            if (key := each.partition("=")[0]) not in own and key.partition(".")[0] not in groups
        ]
        return (*self.script.split(), *usual, *self.arguments)

    def make(self, stage: Stage) -> Ended:
        """Make it, in the folder of ``stage``."""
        return run(command(*self.words()), stage.work, limit=LIMIT)


def torture_with_mistakes(
    stages: Mapping[str, Stage], tally: Tally, rng: random.Random, count: int, deadline: float
) -> None:
    """Make ``count`` mistakes; every one must be told in one line, and nothing be made."""
    stage = stages["autoencoder"]
    stage.fresh()
    every = list(mistakes())
    rng.shuffle(every)
    for number in Turns("mistakes", min(count, len(every)), deadline):
        mistake = every[number]
        ended = mistake.make(stage)
        tally.tried[mistake.script] += 1
        if wrong := complaint(ended):
            tally.fail(f"{mistake.script} {' '.join(mistake.arguments)}: {wrong}")
        if (stage.work / "runs").exists():
            stage.fresh()


def complaint(ended: Ended) -> str:
    """What is wrong with how a mistake was told; empty if nothing is."""
    if ended.hung:
        return f"nothing was said in {LIMIT:.0f} s"
    if ended.traceback:
        return f"traceback: {ended.err.strip()[-600:]}"
    if ended.code == 0:
        return "it passed in silence"
    heads = [line for line in ended.err.splitlines() if line.startswith(("train_", "stages.prepare: "))]
    if ended.code != MISTAKE or len(heads) != 1:
        return f"not one line, {ended.told()}"
    return ""


def mistakes() -> Iterator[Mistake]:
    """Every mistake that is known: those by hand, and those that follow from the types of all keys."""
    for script, text in BY_HAND:
        yield Mistake(script, tuple(text.split()) if "{" not in text else (text,))
    for above, kind, chosen in KINDS:
        for key, own in leaves(kind, above):
            for value in wrong_values(own):
                yield Mistake("train_ppo.py", (*chosen, f"{key}={value}"))
            if not chosen:
                yield Mistake("train_ppo.py", (f"{key}s=1",))
                yield Mistake("train_ppo.py", (f"{key}.x=1",))


def leaves(kind: type, above: str) -> Iterator[tuple[str, Any]]:
    """The keys of a class of configuration with their types; groups of their own are left out."""
    for name, own in get_type_hints(kind, include_extras=True).items():
        plain = get_args(own)[0] if hasattr(own, "__metadata__") else own
        if is_dataclass(plain):
            if above or plain in (runs.LabelledConfig, runs.MixtureConfig):
                yield from leaves(plain, f"{above}{name}.")  # type: ignore[arg-type]
        elif "recommended" not in above:
            yield f"{above}{name}", own


def wrong_values(own: Any) -> tuple[str, ...]:
    """Values that a key of this type, with these limits, can't have."""
    marks = getattr(own, "__metadata__", ())
    plain = get_args(own)[0] if marks else own
    if get_origin(plain) in (Union, types.UnionType):
        (plain,) = (each for each in get_args(plain) if each is not type(None))
        inner = getattr(plain, "__metadata__", ())
        marks, plain = (*marks, *inner), get_args(plain)[0] if inner else plain
    values = WRONG.get(get_origin(plain) or plain, ())
    for mark in marks:
        if isinstance(mark, FileName):
            values = (*values, "../x", "/x", "'a/b'")
        if isinstance(mark, Limits) and plain in (int, float):
            if mark.least > -1:
                values = (*values, "-1")
            values = (*values, *(("1e30",) if mark.most < 1e30 and plain is float else ()))
    return values
