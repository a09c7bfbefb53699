"""Values for keys that are null in the YAML files because the best one depends on another choice."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

LATENT, FEATURES = "latent", "features"
ONLY_TOKENS = ("probe", "segmenter", "supersimple", "panel", "knn", "positional_knn", "gaussian")
"""Detectors that can't read images."""

QUICK, FOLDS = ("probe", "segmenter", "supersimple", "panel"), 5
"""Detectors that learn in seconds, and how often they do to judge labelled anomalies that they learn from."""

SOURCES = {
    # What a choice recommends may itself be as another recommends.
    "autoencoder.recommended.detector_steps": "dataset.recommended.detector_steps",
    "autoencoder.recommended.agent_steps": "dataset.recommended.agent_steps",
    "env.recommended.total_steps": "autoencoder.recommended.agent_steps",
    "env.recommended.recorded_steps": "autoencoder.recommended.agent_steps",
    "samples": "autoencoder.recommended.samples",
    "labelled.seed": "dataset.seed",
    "autoencoder.latent": "dataset.recommended.latent",
    "autoencoder.latent_size": "dataset.recommended.latent_size",
    "autoencoder.steps": "dataset.recommended.autoencoder_steps",
    "autoencoder.items": "dataset.recommended.prototypes",
    "autoencoder.pooling": "dataset.recommended.pooling",
    "detector.steps": "autoencoder.recommended.detector_steps",
    "detector.batch_size": "autoencoder.recommended.detector_batch_size",
    "detector.learning_rate": "autoencoder.recommended.detector_learning_rate",
    "detector.baselines": "autoencoder.recommended.baselines",
    "detector.pooling": "dataset.recommended.pooling",
    "labelled.step_multiplier": "autoencoder.recommended.labelled_step_multiplier",
    "mixture.shares": "autoencoder.recommended.shares",
    "mixture.few_share": "autoencoder.recommended.few_share",
    "detector.sample_step_multiplier": "autoencoder.recommended.sample_step_multiplier",
    "mixture.by_synthetic": "dataset.recommended.local",
    "reward.terms.realism": "autoencoder.recommended.realism",
    "env.perturbation": "agent.perturbation",
    "env.precision": "precision",
    "agent.total_steps": "env.recommended.total_steps",
    "agent.n_steps": "env.recommended.n_steps",
    "agent.n_epochs": "env.recommended.n_epochs",
    "agent.learning_rate": "env.recommended.learning_rate",
    "agent.gamma": "env.recommended.gamma",
    "agent.ent_coef": "env.recommended.ent_coef",
    "agent.init_std": "env.recommended.init_std",
    "agent.min_std": "env.recommended.min_std",
    "agent.mean_bias_lr_scale": "env.recommended.mean_bias_lr_scale",
    "agent.demonstrations": "env.recommended.demonstrations",
}
"""Keys that are filled in where they are null, in this order, and the key whose value each gets."""

OF_FEATURES = {
    "detector.steps": "for_features.detector_steps",
    "detector.batch_size": "for_features.detector_batch_size",
    "detector.learning_rate": "for_features.detector_learning_rate",
    "detector.baselines": "for_features.baselines",
    "labelled.step_multiplier": "for_features.labelled_step_multiplier",
    "mixture.shares": "for_features.shares",
    "mixture.few_share": "for_features.few_share",
    "detector.sample_step_multiplier": "for_features.sample_step_multiplier",
    "reward.terms.realism": "for_features.realism",
}
"""Other sources, for detectors that read the features of a backbone of their own."""

EXCEPTIONS = {
    # It reads images: how long others learn from an autoencoder's features doesn't matter to it.
    "rdna": {"detector.steps": "dataset.recommended.detector_steps"},
    # It only records its steps, which costs less than learning from each.
    "decision_transformer": {"agent.total_steps": "env.recommended.recorded_steps"},
}
"""Other sources, for one detector or agent."""


def fill_defaults(cfg: DictConfig) -> None:
    """Give every key that is null the value that another choice recommends; what a user set stays."""
    _fill_input(cfg)
    _fill_folds(cfg)
    sources = dict(SOURCES)
    if OmegaConf.select(cfg, "detector.input") == FEATURES:
        sources |= OF_FEATURES
    for group in ("detector", "agent"):
        sources |= EXCEPTIONS.get(OmegaConf.select(cfg, f"{group}.name"), {})
    for key, source in sources.items():
        above, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, above)
        if isinstance(node, DictConfig) and name in node and node[name] is None:
            node[name] = OmegaConf.select(cfg, source)


def _fill_input(cfg: DictConfig) -> None:
    """Let a detector that names a backbone read its features, if nothing else is said."""
    detector = OmegaConf.select(cfg, "detector")
    if detector is not None and "input" in detector and detector.input is None:
        own = OmegaConf.select(cfg, "autoencoder.recommended.input")
        without = LATENT if detector.name in ONLY_TOKENS else own
        detector.input = FEATURES if detector.backbone else without


def _fill_folds(cfg: DictConfig) -> None:
    """Judge labelled anomalies by detectors that learned from the others, where that takes seconds."""
    labelled = OmegaConf.select(cfg, "labelled")
    if labelled is not None and "folds" in labelled and labelled.folds is None:
        labelled.folds = FOLDS if cfg.detector.name in QUICK else 0
