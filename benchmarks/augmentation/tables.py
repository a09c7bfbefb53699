"""What the study can be made of: settings, tracks, data sets, agents, variants and curves."""

from __future__ import annotations

from dataclasses import dataclass

SCRATCH, PRETRAINED = "scratch", "pretrained"
NORMAL_ONLY, LABELLED = "one_class", "few_labelled"

BUDGET = ("samples=1024", "rounds=1")
SETTINGS: dict[str, tuple[str, ...]] = {
    SCRATCH: (
        *("autoencoder=conv", "autoencoder.latent=spatial", "dataset.size=32"),
        *("detector.width=32", "detector.steps=600", "dataset.recommended.agent_steps=24576", *BUDGET),
    ),
    # What trains there is the decoder alone, which detectors of latents have no use for.
    PRETRAINED: (
        *("autoencoder=pretrained", "autoencoder.steps=60", "dataset.size=224", *BUDGET),
        "dataset.recommended.agent_steps=6144",
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
    "long training": ablation("detector.steps=2400", "reward_ensemble.effort=0.0625"),
    "short learning": ablation("dataset.recommended.agent_steps=6144", agents=(FOCUS,)),
    "fewer labelled": ablation("labelled.weight=0.25"),
    "all kept": ablation("agent.keep_fraction=1"),
    "one judge": ablation("reward_ensemble.count=0"),
    "two rounds": ablation("rounds=2"),
    "four strokes": ablation("env.horizon=4"),
    "half of all": ablation("share=0.5"),
    "slow mean": ablation("agent.mean_bias_lr_scale=1", agents=(FOCUS,)),
    "likeness alone": ablation("reward.terms.matching=0", "+reward.terms.similarity=3.0", agents=(FOCUS,)),
    "second opinion": Variant(("detector=ensemble",), ("none", FOCUS)),
    "max_train_images=40": Variant(("max_train_images=40",), COMPARED, ("phantom",)),
    "max_train_images=160": Variant(("max_train_images=160",), COMPARED, ("phantom",)),
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
    "max_train_images": Curve("normal training images", "all", default_first=False),
    "labelled": Curve("labelled anomalies to learn from", "half of valid", default_first=False),
}
