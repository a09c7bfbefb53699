"""How a run of `train_ppo.py` ends: the comparison of before with after, and all that is told of it."""

from __future__ import annotations

from collections.abc import Mapping

from agents.diversity import describe_set
from agents.rollout import Augmented
from conf.schema.detectors import TrainedConfig
from conf.schema.runs import AgentRun
from latent_env.shell import Shell
from latent_env.training.evaluation import evaluate_test, log_curves, log_evaluation, save_scores
from latent_env.training.feature_cache import FeatureCache
from latent_env.training.run_folder import Run
from stages.augmentation.agent_factory import augment_env
from stages.augmentation.figures import show_embedding
from stages.augmentation.mixture import LEARNED, UNTOLD, Candidate, can_choose
from stages.augmentation.report import AFTER, BEFORE, compare, write_report
from stages.context import Job
from stages.job_of import training_steps


def conclude(
    job: Job[AgentRun],
    run: Run,
    detector_run: Run,
    outcome: tuple[Candidate, Candidate],
    features: FeatureCache,
    pool: Augmented,
    candidates: list[Candidate],
) -> None:
    """Score the test split with the detectors of an ``outcome``, before and after, and write it all down."""
    config, (first, chosen) = job.config, outcome
    before, after, shares = first.world, chosen.world, chosen.shares
    assert isinstance(config.detector, TrainedConfig)
    steps = training_steps(job)
    evaluations = {BEFORE: evaluate_test(before, features), AFTER: evaluate_test(after, features)}
    log_evaluation(run, evaluations[AFTER], after.detect_and_reconstruct, job.device, steps)
    log_curves(run, evaluations, steps)
    show_embedding(run, after, features, job.dataset, pool)
    save_scores(
        run.path,
        evaluations[BEFORE].split.labels,
        **{"without": evaluations[BEFORE].scores, "with": evaluations[AFTER].scores},
    )
    rows = compare(evaluations[BEFORE], evaluations[AFTER])
    env = augment_env(job)
    around = (env.shell_quantile, env.shell_ratio, env.shell_band)
    shell = Shell.around_normals(after.autoencoder, *around)
    made = describe_set(pool, shell.inner)
    facts = {
        "dataset": job.dataset.name,
        "agent": config.agent.name,
        "seed": config.seed,
        "rounds": config.rounds,
        "samples": len(pool),
        "anomalous_samples": int(pool.labels.sum()),
        **made,
        "share_learned": shares.get(LEARNED, 0.0),
        "share_random": sum(shares.values()) - shares.get(LEARNED, 0.0),
        "mixtures_tried": [each.facts() for each in candidates],
        "detector_steps": steps,
        "detector_before": str(detector_run.path),
    }
    others = (key for key in detector_run.metrics if not key.startswith(("image_", "pixel_", "weight_")))
    opinions = {key: detector_run.metrics[key] for key in others}
    write_report(run.path, rows, headline(job, pool, shares), facts, opinions)
    gains = {f"gain_{row.metric}": row.difference for row in rows}
    run.finish({row.metric: row.after for row in rows} | gains)


def headline(job: Job[AgentRun], pool: Augmented, shares: Mapping[str, float]) -> str:
    """What was compared, in a few lines."""
    config = job.config
    assert isinstance(config.detector, TrainedConfig)
    rounds = f"{config.rounds} round{'' if config.rounds == 1 else 's'}"
    text = (
        f"{job.dataset.summary()}\nagent {config.agent.name}, {rounds}, seed {config.seed}; "
        f"both detectors took {training_steps(job)} steps\n"
    )
    if not len(pool):
        return text + (
            f"None of the {config.rounds * config.samples} samples was decided: all lay between normal and "
            "anomaly, so nothing was added. Try another env.max_delta or env.shell_quantile."
        )
    if not any(shares.values()):
        if config.agent.name == "none" or config.share is not None:
            return text + "Nothing was added."
        if not can_choose(job):
            return f"{text}Nothing was added: {UNTOLD}"
        return (
            text
            + "Nothing was added: no mixture with samples did better without doubt on the validation split."
        )
    return text + "of the second one's anomalies: " + mixed(shares)


def mixed(shares: Mapping[str, float]) -> str:
    """Shares as text."""
    names = {LEARNED: "the agent's", "random": "of random actions"}
    return ", ".join(f"{share:.0%} {names[source]}" for source, share in shares.items() if share)
