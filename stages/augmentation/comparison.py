"""How a run of `train_ppo.py` ends: both detectors are scored on the test split, and compared."""

from __future__ import annotations

from collections.abc import Mapping

from agents.diversity import describe_set
from agents.rollout import Augmented
from conf.schema.envs import AugmentEnvConfig
from conf.schema.runs import AgentRun
from detectors.metrics import image_AP, image_AUROC, paired_bootstrap
from latent_env.data import Dataset
from latent_env.training.evaluation import (
    Evaluation,
    evaluate_test,
    log_curves,
    log_evaluation,
    save_scores,
)
from latent_env.training.run_folder import Run
from latent_env.worlds.artifacts import BACKBONE
from latent_env.worlds.store import read_manifest
from latent_env.worlds.world import World
from stages.augmentation.candidates import Candidate
from stages.augmentation.dynamics import make_shell
from stages.augmentation.mixtures import AGENT, NOTHING_CHOOSES, Mixtures, Shares
from stages.augmentation.page.document import Outcome, write_report_page
from stages.augmentation.pictures.changes import show_changes
from stages.augmentation.pictures.figures import show_embedding
from stages.augmentation.pictures.sheets import real_anomalies
from stages.augmentation.report import Report, Row, write_report
from stages.detector.normal_only import FALSE_ALARMS, LABELLED_AUROC, figures
from stages.detector.thresholds import ThresholdReport, report_of
from stages.detector.trained import TrainedDetector, show_labelled

BEFORE, AFTER = "without augmentation", "with augmentation"
DIGITS = 12
"""So many digits of a digest tell one artifact from another."""

BOOTSTRAPPED = {"image_AUROC": image_AUROC, "image_AP": image_AP}


def write_comparison(
    config: AgentRun,
    env: AugmentEnvConfig,
    mixtures: Mixtures,
    baseline: TrainedDetector,
    run: Run,
    samples: Augmented,
    chosen: Candidate,
    candidates: list[Candidate],
    beside: Candidate | None = None,
) -> None:
    """Score the test split with the ``baseline`` and with the ``chosen`` detector, and write the report.

    Nothing of an agent's run reads the test split before. The report tells of ``candidates`` with their
    figures on the validation split alone. ``beside`` learned from samples of random actions.
    """
    baseline.evaluate()
    trainer, features = baseline.trainer, baseline.features
    dataset, after = trainer.data.dataset, chosen.world
    steps = trainer.steps, trainer.steps_with(sum(chosen.shares.values()))
    evaluations = {BEFORE: evaluate_test(baseline.world, features), AFTER: evaluate_test(after, features)}
    log_evaluation(run, evaluations[AFTER], after.detect_and_reconstruct, trainer.context.device, steps[1])
    log_curves(run, evaluations, steps[1])
    show_embedding(run, after, features, dataset, samples)
    scores = {"without": evaluations[BEFORE].scores, "with": evaluations[AFTER].scores}
    save_scores(run.path, evaluations[BEFORE].split.labels, **scores)
    pair = evaluations[BEFORE], evaluations[AFTER]
    thresholds = [
        report_of(folder, each.split.labels, each.scores)
        for folder, each in zip((baseline.run.path, run.path), pair, strict=True)
    ]
    if dataset.test.measurable:
        random = None if beside is None else evaluate_test(beside.world, features)
        rows = compare(*pair, random)
        show_changes(run, *pair, random)
    else:
        rows = compare_normal_only(len(dataset.test), *thresholds)
        show_labelled(trainer, run, after)
    digests = read_manifest(run.path)
    facts = {
        "dataset": dataset.name,
        "autoencoder": f"{config.autoencoder.name}, {digests['autoencoder'][:DIGITS]}",
        "detector": detector_facts(config, after, digests),
        "agent": config.agent.name,
        "seed": config.seed,
        "rounds": config.rounds,
        "samples": len(samples),
        "anomalous_samples": int(samples.labels.sum()),
        **describe_set(samples, make_shell(env, after).inner),
        "share_agent": chosen.shares.get(AGENT, 0.0),
        "share_random": sum(chosen.shares.values()) - chosen.shares.get(AGENT, 0.0),
        "detector_steps": steps[0],
        "detector_steps_with_samples": steps[1],
        "detector_before": str(baseline.run.path),
    }
    report = Report(
        headline(config, dataset, steps, mixtures, samples, chosen.shares),
        rows,
        thresholds[1],
        [each.facts() for each in candidates],
        other_detectors(baseline.run.metrics),
        facts,
    )
    write_report(run.path, report)
    labelled = trainer.labelled_split
    outcome = Outcome(
        report,
        learned_from(config, mixtures, samples, chosen.shares),
        dataset,
        labelled,
        evaluations[BEFORE],
        evaluations[AFTER],
        after,
        samples,
        real_anomalies(baseline.world, dataset.valid, labelled.train),
    )
    write_report_page(run, outcome)
    gains = {f"gain_{row.metric}": row.difference for row in rows}
    run.finish({row.metric: row.after for row in rows} | gains)


def detector_facts(config: AgentRun, world: World, digests: Mapping[str, str]) -> str:
    """What the detector is and reads, with the first digits of what its artifacts were."""
    found = f"{config.detector.name}, {digests['detector'][:DIGITS]}, reads {world.detector.input}"
    if world.backbone is None:
        return found
    kind = world.backbone.backbone.description.get("model_type")
    return f"{found} of the backbone {kind}, {digests[BACKBONE][:DIGITS]}"


def compare(before: Evaluation, after: Evaluation, random: Evaluation | None = None) -> list[Row]:
    """A row for every metric, from the scores of these detectors on the same images."""
    rows = []
    for name, value in before.metrics.items():
        interval = None
        if name in BOOTSTRAPPED:
            labels = before.split.labels
            _, low, high = paired_bootstrap(BOOTSTRAPPED[name], labels, before.scores, after.scores)
            interval = (low, high)
        beside = None if random is None else random.metrics[name]
        rows.append(Row(name, value, after.metrics[name], interval, beside))
    return rows


def compare_normal_only(
    normal: int, before: ThresholdReport | None, after: ThresholdReport | None
) -> list[Row]:
    """A row for what is measured of both detectors where all test images are normal, see :func:`figures`."""
    without, found = figures(normal, before), figures(normal, after)
    return [
        Row(name, without[name], found[name], None)
        for name in (LABELLED_AUROC, FALSE_ALARMS)
        if name in without and name in found
    ]


def other_detectors(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of the other detectors of a detector's run, as ``<detector>_<metric>``."""
    return {name: value for name, value in metrics.items() if "_image_" in name or "_pixel_" in name}


def headline(
    config: AgentRun,
    dataset: Dataset,
    steps: tuple[int, int],
    mixtures: Mixtures,
    samples: Augmented,
    shares: Shares,
) -> str:
    """What was compared, in a few lines; ``steps`` are those of training without and with samples."""
    rounds = f"{config.rounds} round{'' if config.rounds == 1 else 's'}"
    without, longer = steps
    trained = (
        f"both detectors were trained for {without} steps"
        if without == longer
        else f"the detector was trained for {without} steps, with samples for {longer}"
    )
    return (
        f"{dataset.summary()}\n"
        f"agent {config.agent.name}, {rounds}, seed {config.seed}; {trained}\n"
        f"{added(config, mixtures, samples, shares)}"
    )


def added(config: AgentRun, mixtures: Mixtures, samples: Augmented, shares: Shares) -> str:
    """What the second detector learned from beside synthetic anomalies, or why from nothing else."""
    if any(shares.values()):
        how = "" if mixtures.share is None else "; the share was fixed, nothing was chosen"
        return (
            f"anomalies that the second one learned from: {listed(shares)}, the others as for the first{how}"
        )
    if not len(samples):
        return (
            f"Nothing was added: none of the {config.rounds * config.samples} samples lay clearly beyond "
            "normal variation or within it. Try another env.max_delta or env.shell_quantile."
        )
    if config.agent.name == "none" or mixtures.share is not None:
        return "Nothing was added."
    if not mixtures.can_choose:
        return f"Nothing was added: {NOTHING_CHOOSES}"
    return "Nothing was added: no mixture with samples was clearly better on the validation split."


def learned_from(config: AgentRun, mixtures: Mixtures, samples: Augmented, shares: Shares) -> str:
    """What the detector with augmentation learned from, in words that name both detectors."""
    if not any(shares.values()):
        return added(config, mixtures, samples, shares)
    return (
        f"Anomalies that the detector with augmentation learned from: {listed(shares)}, the others as for "
        "the detector without."
    )


def listed(shares: Shares) -> str:
    """The sources of samples and their shares, as text."""
    names = {AGENT: "by the agent", "random": "by random actions"}
    return ", ".join(f"{100 * share:.3g}% {names[source]}" for source, share in shares.items() if share)
