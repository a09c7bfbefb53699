"""Which mixtures of samples a retrained detector may learn from, and whether the best can be chosen."""

from __future__ import annotations

from dataclasses import dataclass

from conf.schema.runs import AgentRun
from latent_common.errors import UserError
from latent_common.progress import say
from latent_env.data import Dataset
from stages.detector.labelled_split import LabelledSplit, are_few

AGENT, RANDOM = "agent", "random"
"""Sources of samples: the agent, and random actions. The other anomalies of a batch are synthetic."""

FULL = 1 + 1e-9
"""The anomalies of a batch, up to rounding."""

Shares = dict[str, float]
"""What part of a batch's anomalies comes from each source."""

NOTHING_CHOOSES = (
    "no labelled anomaly tells which share would help, and synthetic ones mislead where real anomalies are "
    "of another kind. share=0.25 takes a quarter of a batch's anomalies from the agent, "
    "mixture.by_synthetic=true lets synthetic anomalies choose."
)
"""Why nothing is added where nothing can choose."""


@dataclass(frozen=True)
class Mixtures:
    """The mixtures that detectors are trained on."""

    share: float | None
    """The one share of the agent's samples, where it is fixed: nothing is chosen then."""
    shares: list[float]
    """The shares to choose among: those of ``mixture.shares`` for which a batch has room."""
    margin: float
    """By how many standard errors a mixture must be better than no samples at all."""
    can_choose: bool
    """Whether the share is fixed, or the validation split tells which is best."""
    compare_random: bool = False
    """Whether, where the share is fixed, a detector learns from random samples, to compare with."""

    def candidates(self, sources: list[str]) -> list[Shares]:
        """The mixtures of ``sources`` to train detectors on."""
        if self.share is not None:
            return [{source: self.share} for source in sources] if self.share else []
        return mixtures_of(self.shares, sources) if sources else []


def mixtures_of(shares: list[float], sources: list[str]) -> list[Shares]:
    """Every share of every source alone, and of all in equal parts, in ascending order."""
    found: list[Shares] = []
    for share in sorted({share for share in shares if share > 0}):
        found += [{source: share} for source in sources]
        if len(sources) > 1:
            found.append({source: share / len(sources) for source in sources})
    return found


def plan_mixtures(config: AgentRun, dataset: Dataset, split: LabelledSplit) -> Mixtures:
    """The mixtures of ``config``; impossible shares are refused, and it is told if nothing will be added.

    :param split: what each labelled anomaly of the data set's validation split is used for.
    """
    shares = config.mixture.shares
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise UserError(f"mixture.shares={shares} must be shares from 0 to 1")
    weight = config.labelled.weight if len(split.train) else 0.0
    share = config.share
    if share is None and are_few(dataset.valid, config.labelled):
        share = config.mixture.few_share
    smallest = min(shares) if share is None else share
    if smallest + weight > FULL:
        raise UserError(
            f"labelled.weight={config.labelled.weight:g} must leave room beside the share {smallest:g} of an "
            "agent's samples: together at most 1"
        )
    mixture, fixed = config.mixture, share is not None
    fitting = [share for share in mixture.shares if share + weight <= FULL]
    can_choose = fixed or mixture.by_synthetic or len(split.choice) > 0
    if not fixed and config.agent.name != "none":
        _check_choice(config, dataset, fitting, can_choose)
    return Mixtures(share, fitting, mixture.margin, can_choose, fixed and mixture.compare_random)


def _check_choice(config: AgentRun, dataset: Dataset, fitting: list[float], can_choose: bool) -> None:
    """Refuse a validation split by which no mixture can be chosen, and tell which are no candidates."""
    if dataset.valid.labels.all():
        raise UserError(
            f"{dataset.name}: the valid split needs normal images, or nothing tells how much of an agent's "
            "samples a detector should learn from: add some, or fix a share, such as share=0.5"
        )
    if not can_choose:
        say(f"detectors won't learn from what the agent makes: {NOTHING_CHOOSES}")
        return
    large = [f"{share:g}" for share in config.mixture.shares if share not in fitting]
    if large:
        weight = f"labelled.weight={config.labelled.weight:g}"
        say(f"mixture.shares: {', '.join(large)} is no candidate, as {weight} leaves no room for it")
