"""Reward terms that ask what a detector learns from a sample, on labelled images it was not trained on.

They need a *trial*, such images that lie beside the world (``train_detector.py`` puts them there): labelled
anomalies where there are some, synthetic ones of kinds that no detector trains on where not. What is
measured happens in the detector's last layer, :mod:`detectors.heads`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detectors.errors import UserError
from detectors.heads import HeadTrial, Reading
from detectors.training import as_numbers
from latent_env.rewards import Latest, RewardTerm, agreed, reward_terms
from latent_env.shell import ANOMALY, UNDECIDED
from latent_env.transition import Transition
from latent_env.worlds import World


class Tried(RewardTerm):
    """A term that puts the judges' last layers before the world's trial."""

    judged = True
    needs = ("readings", "label", "truth")

    def __init__(self) -> None:
        self._of: World | None = None
        self._trials: list[HeadTrial] = []

    def trials(self, world: World) -> list[HeadTrial]:
        """One a judge; made when they are first asked for."""
        known = self._of
        if (
            known is None
            or known.trial is not world.trial
            or (known.judges, known.detector) != (world.judges, world.detector)
        ):
            heads, labels = zip(world.heads, trial_readings(world), strict=True), labels_of(world)
            self._trials = [HeadTrial(judge, reading, labels) for judge, reading in heads]
            self._of = world
        return self._trials


def labels_of(world: World) -> Tensor:
    """The labels ``(R,)`` of the world's trial."""
    if world.trial is None:
        raise UserError(
            "the reward terms usefulness, alignment and resemblance need labelled images beside the world: "
            "`python train_detector.py` puts them there, this folder has none (trial.json)"
        )
    return world.trial.labels


@torch.no_grad()
def trial_readings(world: World) -> list[Reading]:
    """What the last layer of every judge reads of the world's trial."""
    labels_of(world)
    assert world.trial is not None
    inputs = as_numbers(world.trial.inputs)
    seen = (inputs,) if world.judges_latents else (inputs, world.autoencoder(inputs))
    return [judge.reading(*seen) for judge in world.heads]


@reward_terms.register("usefulness")
class Usefulness(Tried):
    """How much better a copy of the detector's last layer does on the trial after learning the sample.

    Every world has copies of its own, one a judge. They begin an episode as the judges are and learn each of
    its samples in turn: so an episode is paid for what all its samples teach together, and what a copy has
    learned already is worth less in the end. 1 is as much as one step of learning could gain at best, and
    negative means that the sample does harm. Undecided samples teach nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._copies: list[Tensor] = []
        self._fresh: Tensor | None = None
        self._last: tuple[Transition, list[Tensor], list[Tensor]] | None = None

    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)``."""
        _, gains, _ = self._learn(transition)
        return agreed(torch.stack(gains))

    def begin(self, worlds: Tensor) -> None:
        """The copies of ``worlds (N,)`` bool are the judges' again."""
        self._fresh = worlds if self._fresh is None else self._fresh | worlds

    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Keep what the copies of ``worlds (N,)`` bool have learned."""
        _, _, after = self._learn(transition)
        before = self._before(self.trials(transition.world), len(worlds))
        self._copies = [torch.where(worlds[:, None], a, b) for a, b in zip(after, before, strict=True)]
        self._fresh, self._last = None, None

    def _before(self, trials: list[HeadTrial], worlds: int) -> list[Tensor]:
        starts = [trial.start.expand(worlds, -1) for trial in trials]
        if len(self._copies) != len(trials) or len(self._copies[0]) != worlds:
            return starts
        if self._fresh is None:
            return self._copies
        fresh = self._fresh[:, None]
        return [torch.where(fresh, a, b) for a, b in zip(starts, self._copies, strict=True)]

    @torch.no_grad()
    def _learn(self, transition: Transition) -> tuple[Transition, list[Tensor], list[Tensor]]:
        """What each judge's copies gain, and what becomes of them; computed once a transition."""
        if self._last is not None and self._last[0] is transition:
            return self._last
        trials, decided = self.trials(transition.world), transition.label != UNDECIDED
        gains, after = [], []
        copies = self._before(trials, len(decided))
        for trial, reading, own in zip(trials, transition.readings, copies, strict=True):
            moved = own + trial.step(trial.lessons(reading, transition.truth, own)) * decided[:, None]
            gains.append((trial.loss(own) - trial.loss(moved)) / trial.best)
            after.append(moved)
        self._last = transition, gains, after
        return self._last


@reward_terms.register("alignment")
class Alignment(Tried):
    """How much the sample's gradient points where the loss on the trial falls: a cosine.

    In the last layer, measured as :class:`Usefulness` measures a step, without taking it.
    """

    @torch.no_grad()
    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [-1, 1]; 0 for undecided samples."""
        found = []
        for trial, reading in zip(self.trials(transition.world), transition.readings, strict=True):
            copies = trial.start.expand(len(reading.features), -1)
            found.append(trial.alignment(trial.lessons(reading, transition.truth, copies)))
        return agreed(torch.stack(found)) * (transition.label != UNDECIDED)


@reward_terms.register("resemblance")
class Resemblance(Tried):
    """How much a sample looks to the detector like the anomalies of the trial.

    How densely these lie around it, in what the last layer reads where each is most suspicious: 1 is where
    all of them lie, and 0 far from any. What is no anomaly resembles none.
    """

    @torch.no_grad()
    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [0, 1]."""
        pairs = zip(self.trials(transition.world), transition.readings, strict=True)
        found = agreed(torch.stack([trial.likeness(trial.place(reading)) for trial, reading in pairs]))
        return found * (transition.label == ANOMALY)


@reward_terms.register("matching")
class Matching(Tried):
    """How much more densely the trial's anomalies lie around a sample than the last 512 that any world made.

    Both as in :class:`Resemblance`. What resembles real anomalies pays less the more of its like there is, so
    what is made becomes as varied as they are: to first order, a sample is paid for how much it lowers the
    maximum mean discrepancy between both sets. It depends on the worlds beside it. What is no anomaly costs
    as much as half of a whole crowd.
    """

    NOTHING = -0.5

    def __init__(self) -> None:
        super().__init__()
        self._made = Latest(512)
        self._sizes: list[int] = []
        self._last: tuple[Transition, list[tuple[HeadTrial, Tensor]]] | None = None

    @torch.no_grad()
    def value(self, transition: Transition) -> Tensor:
        """The term, ``(N,)`` in [-1, 1]."""
        found = []
        for number, (trial, places) in enumerate(self._places(transition)):
            likeness = trial.likeness(places)
            if self._made.values is not None and self._made.held is not None:
                others = self._made.values.split(self._sizes, 1)[number]
                crowd = trial.closeness(places, others) * self._made.held
                likeness = likeness - crowd.sum(1) / self._made.held.sum().clamp_min(1)
            found.append(likeness)
        return agreed(torch.stack(found)).where(transition.label == ANOMALY, self.NOTHING)

    @torch.no_grad()
    def remember(self, transition: Transition, worlds: Tensor) -> None:
        """Keep the anomalies of ``worlds (N,)`` bool, in place of the oldest."""
        places = [places for _, places in self._places(transition)]
        self._sizes = [each.shape[1] for each in places]
        self._made.add(torch.cat(places, 1), worlds & (transition.label == ANOMALY))
        self._last = None

    def forget(self, worlds: Tensor) -> None:
        """Drop what ``worlds (N,)`` bool made."""
        self._made.drop(worlds)

    def _places(self, transition: Transition) -> list[tuple[HeadTrial, Tensor]]:
        """Every judge's trial, and where it sees the samples; computed once a transition."""
        if self._last is None or self._last[0] is not transition:
            pairs = zip(self.trials(transition.world), transition.readings, strict=True)
            self._last = transition, [(trial, trial.place(reading)) for trial, reading in pairs]
        return self._last[1]
