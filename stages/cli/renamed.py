"""Keys and choices of earlier versions: each is answered with what stands in its place."""

from __future__ import annotations

from collections.abc import Iterable

from latent_common.errors import UserError

RENAMED_KEYS = {
    "normals": "max_train_images",
    "judges": "reward_ensemble",
    "labelled.trial": "labelled.reference_set",
    "labelled.longer": "labelled.step_multiplier",
    "detector.second": "detector.members",
    "detector.rivals": "detector.baselines",
    "detector.starts": "detector.num_start_images",
    "detector.remembered": "detector.memory_size",
    "detector.by_place": "detector.position_wise",
    "detector.adversarial": "detector.adversarial_weight",
    "detector.pooled": "detector.pooling",
    "autoencoder.pooled": "autoencoder.pooling",
    "agent.keep": "agent.keep_fraction",
    "agent.teachers": "agent.demonstrations",
    "agent.wish": "agent.target_return",
    "agent.remembered": "agent.memory_size",
    "agent.first_deviation": "agent.init_std",
    "agent.least_deviation": "agent.min_std",
    "agent.shared_speed": "agent.mean_bias_lr_scale",
    "agent.epsilon_deviation": "agent.epsilon_std",
    "reward.terms.resemblance": "reward.terms.similarity",
    "dataset.suits": "dataset.recommended",
    "dataset.suits.pooled": "dataset.recommended.pooling",
    "autoencoder.suits": "autoencoder.recommended",
    "autoencoder.suits.labelled_longer": "autoencoder.recommended.labelled_step_multiplier",
    "autoencoder.suits.rivals": "autoencoder.recommended.baselines",
    "env.suits": "env.recommended",
    "env.suits.teachers": "env.recommended.demonstrations",
    "env.suits.batch_size": "agent.batch_size",
    "env.suits.first_deviation": "env.recommended.init_std",
    "env.suits.least_deviation": "env.recommended.min_std",
    "env.suits.shared_speed": "env.recommended.mean_bias_lr_scale",
}
"""Keys by their new names; those below a key that is renamed move with it."""

RENAMED_CHOICES = {
    "track=labelled_validation": "track=few_labelled",
    "track=normal_only": "track=one_class",
    "detector=knn_by_place": "detector=positional_knn",
    "reward=alike": "reward=similarity",
    "env.perturbation=graft": "env.perturbation=copy_paste",
    "agent.perturbation=graft": "agent.perturbation=copy_paste",
}

GONE_KEYS = {
    "curves": "the test split is scored once, at the end",
    "reward.terms.alignment": "reward.terms.similarity= and reward.terms.matching= remain",
    "synthesis.latent": "synthetic anomalies are made of images alone",
}

GONE_CHOICES = {
    "agent=cem": "agent=gradient and agents that learn, such as ppo, remain",
    "agent=smallest": "agent=none and agent=random remain as baselines",
    "agent=random_matched": "agent=random and agent=random_useful remain",
}


def refuse_former_names(arguments: Iterable[str]) -> None:
    """Complain, with the new name, about the first argument that an earlier version understood."""
    for argument in arguments:
        key, given, value = argument.lstrip("+~").partition("=")
        for choice in [f"{key}={each}" for each in value.split(",")] if given else []:
            if choice in RENAMED_CHOICES:
                raise UserError(f"{choice} is now {RENAMED_CHOICES[choice]}")
            if choice in GONE_CHOICES:
                raise UserError(f"{choice} is gone: {GONE_CHOICES[choice]}")
        parts = key.split(".")
        for end in range(len(parts), 0, -1):  # the most particular name first
            former, rest = ".".join(parts[:end]), "".join(f".{part}" for part in parts[end:])
            if former in RENAMED_KEYS:
                raise UserError(f"{key}= is now {RENAMED_KEYS[former]}{rest}=")
            if former in GONE_KEYS:
                raise UserError(f"{key}= is gone: {GONE_KEYS[former]}")
