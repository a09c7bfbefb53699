"""The whole page of a run: its title, what was found in a few sentences, and all sections."""

from __future__ import annotations

from dataclasses import dataclass

from agents.rollout import Augmented
from latent_env.data import Dataset
from latent_env.training.evaluation import Evaluation
from latent_env.training.run_folder import Run
from latent_env.worlds.world import World
from stages.augmentation.page.cases import cases_part
from stages.augmentation.page.comparison import MAIN, changes, comparison_part
from stages.augmentation.page.data import data_part
from stages.augmentation.page.decision import decision_part
from stages.augmentation.page.made import made_part
from stages.augmentation.page.usage import facts_part, usage_part
from stages.augmentation.pictures.sheets import Examples
from stages.augmentation.report import Report
from stages.detector.labelled_split import LabelledSplit
from stages.detector.thresholds import ThresholdReport
from stages.report.events import logged
from stages.report.markup import Markup, paragraph
from stages.report.page import KeyFigure, write_page
from stages.report.words import counted, figure, headline, metric_name, percent, sentence

REWARD = "reward/total"


@dataclass(frozen=True)
class Outcome:
    """What a finished run has, as its page shows it."""

    report: Report
    added: str
    """A sentence: what the second detector learned from beside synthetic anomalies."""
    dataset: Dataset
    labelled: LabelledSplit
    before: Evaluation
    after: Evaluation
    world: World
    """With the detector that learned from samples."""
    samples: Augmented
    examples: Examples | None
    """Real anomalies to compare samples with."""


def write_report_page(run: Run, found: Outcome) -> None:
    """Write ``report.html`` into the folder of ``run``."""
    report, facts = found.report, found.report.facts
    parts = [
        data_part(found.dataset, found.labelled),
        comparison_part(report, found.before, found.after),
        decision_part(report.thresholds, found.after),
        cases_part(found.after, found.world, report.thresholds),
        made_part(
            found.added, facts, found.samples, found.world.images, found.examples, logged(run.path, REWARD)
        ),
        usage_part(run.path, report.thresholds is not None),
        facts_part(facts),
    ]
    title = f"{found.dataset.name}: {concluded(report)}"
    about = f"agent {facts['agent']}, {counted(facts['rounds'], 'round')}, seed {facts['seed']}"
    lead = [*changes(report.rows), *decided(report.thresholds), paragraph(sentence(found.added))]
    write_page(
        run.path,
        title,
        about,
        lead,
        key_figures(report),
        parts,
    )


def concluded(report: Report) -> str:
    """What may be concluded, for the title."""
    if not report.facts["share_agent"] + report.facts["share_random"]:
        return "nothing was added"
    interval = next((row.interval for row in report.rows if row.metric == "image_AUROC"), None)
    return "no anomalies to test on" if interval is None else headline(*interval)


def decided(thresholds: ThresholdReport | None) -> list[Markup]:
    """What the threshold makes of the test images, in a sentence."""
    if thresholds is None:
        return []
    threshold = thresholds.decision.for_false_alarms()
    came = thresholds.confusion(threshold)
    normal, anomalous = came.false_positives + came.true_negatives, came.true_positives + came.false_negatives
    assert threshold.promised is not None
    anomalies = counted(anomalous, "anomaly", "anomalies")
    found = f"{came.true_positives} of {anomalies} were found in the test images, and "
    return [
        paragraph(
            f"With a threshold that promises at most {percent(threshold.promised)} false alarms, "
            f"{found if anomalous else ''}{came.false_positives} of "
            f"{counted(normal, 'normal image' if anomalous else 'normal test image')} were false alarms.",
            class_="lead",
        )
    ]


def key_figures(report: Report) -> list[KeyFigure]:
    """The numbers that stand out."""
    wanted = {row.metric: row for row in report.rows if row.metric in MAIN}
    found = [
        KeyFigure(figure(row.after), f"{metric_name(name)}, with augmentation")
        for name, row in wanted.items()
    ]
    if report.thresholds is not None:
        came = report.thresholds.confusion(report.thresholds.decision.for_false_alarms())
        normal, anomalous = (
            came.false_positives + came.true_negatives,
            came.true_positives + came.false_negatives,
        )
        if anomalous:
            found.append(KeyFigure(percent(came.true_positives / anomalous), "anomalous test images found"))
        if normal:
            found.append(
                KeyFigure(percent(came.false_positives / normal), "false alarms among normal test images")
            )
    return found
