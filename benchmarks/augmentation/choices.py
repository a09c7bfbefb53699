"""What the study can be made of: settings, tracks, data sets, agents and variants."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.datasets import DATASETS, digit

SCRATCH, PRETRAINED, GENERATOR = "scratch", "pretrained", "generator"
ONE_CLASS, FEW_LABELLED = "one_class", "few_labelled"

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
    # A published generator draws, a backbone of the detector's own sees, and five anomalies are labelled: no
    # other label serves the reward or a choice.
    GENERATOR: (
        *("autoencoder=taesd", "dataset.size=128", "labelled.train=5", "labelled.reference_set=0"),
        *("share=0.25", "samples=512", "rounds=1", "autoencoder.recommended.agent_steps=2048"),
    ),
}
"""Who draws and who sees, and a budget with which many runs fit into hours on two cores: see ``--set``."""

DETECTOR = "detector=transformer"
"""What the study is about learns from samples step by step; a variant may name another."""

TRACKS = (ONE_CLASS, FEW_LABELLED)

STUDY_DATASETS = {
    **DATASETS,
    # Of 10,000 test images, so many normal and so many others say enough.
    **{f"mnist_{normal}": digit(normal, "dataset.limit=500") for normal in (0, 3, 8)},
}
TOO_SMALL = ("phantom", "mnist_0", "mnist_3", "mnist_8")
"""Data sets whose images are too small to be worth a pretrained network."""

AGENTS: dict[str, tuple[str, ...]] = {
    "none": ("agent=none",),
    "cutpaste": ("agent=none", "synthesis=cutpaste"),
    "perlin": ("agent=none", "synthesis=perlin"),
    "pastes": ("agent=random", "env.edits=pastes"),
    "pastes_decoded": ("agent=random", "env.edits=pastes", "env.blending=decoded"),
    "strokes": ("agent=random", "env.edits=strokes"),
    **{
        name: (f"agent={name}",)
        for name in (
            *("random", "gradient", "ppo", "random_useful", "untrained", "mixup", "glass", "feature_noise"),
            *("reinforce", "actor_critic", "mpo", "decision_transformer"),
        )
    },
}
"""What makes the additional samples. ``cutpaste`` and ``perlin`` add none, and their detectors learn from one
kind of image-space anomaly alone. ``pastes`` are labelled anomalies pasted in pixels, ``pastes_decoded`` what
the generator makes of them, ``strokes`` random changes of its latent: these are for setting ``generator``."""

FOCUS, REFERENCE = "ppo", "none"
COMPARED = (REFERENCE, "random", FOCUS)
USUAL_AGENTS = (REFERENCE, "random", "gradient", FOCUS)


@dataclass(frozen=True)
class Variant:
    """Further keys, and where they are run; None means everywhere."""

    keys: tuple[str, ...]
    agents: tuple[str, ...] | None = None
    datasets: tuple[str, ...] | None = None
    settings: tuple[str, ...] | None = None
    tracks: tuple[str, ...] | None = None

    def runs_in(self, setting: str, track: str, dataset: str, agent: str) -> bool:
        """Whether it takes part in this combination."""
        wanted = (self.settings, self.tracks, self.datasets, self.agents)
        given = (setting, track, dataset, agent)
        return all(allowed is None or value in allowed for value, allowed in zip(given, wanted, strict=True))


def ablation(*keys: str, agents: tuple[str, ...] = COMPARED) -> Variant:
    """The agent in question with other keys, and those it is compared with."""
    return Variant(keys, agents, ("mnist_3", "busi"), (SCRATCH,), (FEW_LABELLED,))


DEFAULT = "default"
VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant(()),
    "local_perturbations_only": ablation("agent.perturbation=brush"),
    "usefulness_reward": ablation("reward=useful"),
    "similarity_reward": ablation("reward.terms.matching=0", "+reward.terms.similarity=3.0", agents=(FOCUS,)),
    "no_reward_ensemble": ablation("reward_ensemble.count=0"),
    "long_training": ablation("detector.steps=2400", "reward_ensemble.effort=0.0625"),
    "short_agent_training": ablation("dataset.recommended.agent_steps=6144", agents=(FOCUS,)),
    "less_labelled_weight": ablation("labelled.weight=0.25"),
    "all_samples_kept": ablation("agent.keep_fraction=1"),
    "fixed_share": ablation("share=0.5"),
    "two_rounds": ablation("rounds=2"),
    "four_steps_an_episode": ablation("env.horizon=4"),
    "one_learning_rate": ablation("agent.mean_bias_lr_scale=1", agents=(FOCUS,)),
    "ensemble": Variant(("detector=ensemble",), (REFERENCE, FOCUS)),
    "max_train_images=40": Variant(("max_train_images=40",), COMPARED, ("phantom",)),
    "max_train_images=160": Variant(("max_train_images=160",), COMPARED, ("phantom",)),
    "labelled=5": Variant(("labelled.train=5",), COMPARED, ("phantom", "busi"), (SCRATCH,), (FEW_LABELLED,)),
    "labelled=20": Variant(("labelled.train=20",), COMPARED, ("phantom",), tracks=(FEW_LABELLED,)),
}
"""Ablations. Those called ``<name>=<number>`` are points of a curve, see :data:`CURVES`."""


CURVES = {
    "max_train_images": ("normal training images", "all"),
    "labelled": ("labelled anomalies to learn from", "half of valid"),
}
"""Variants over a number: what the axis says, and what the default is called at its end."""
