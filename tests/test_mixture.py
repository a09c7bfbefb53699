"""What a retrained detector learns from: mixtures of samples, the choice among them, and the report of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composed_runs import Composed, compose_run
from conftest import TINY_AGENT, RunHere, later_wins
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import train_ppo
from agents.rollout import Augmented
from detectors.training.samples import Samples, SampleSource, make_mixture
from latent_common.errors import UserError
from latent_env.data import Split
from latent_env.training.run_folder import Run
from stages.augmentation.candidates import Candidate, choose_candidate, sample_sources, train_candidates
from stages.augmentation.comparison import listed
from stages.augmentation.mixtures import AGENT, RANDOM, Mixtures, mixtures_of, plan_mixtures
from stages.detector.labelled_split import split_labelled
from stages.detector.trained import plan_trained_detector
from stages.detector.trainers.base import DetectorTrainer

SEEDS = st.integers(0, 2**31)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- mixtures ---


def samples(normal: int, anomalous: int, value: int = 0, marked: bool = True) -> Samples:
    """Images that are all ``value``, normal ones first."""
    count = normal + anomalous
    labels = (torch.arange(count) >= normal).long()
    images = torch.full((count, 1, 2, 2), value, dtype=torch.uint8)
    masks = (labels == 1).view(-1, 1, 1, 1).expand(count, 1, 2, 2)
    return Samples(images, masks, labels, torch.arange(count), torch.full((count,), marked))


COUNTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.floats(0, 0.4)), min_size=1, max_size=4)


@settings(max_examples=40)
@given(COUNTS, SEEDS)
def test_sources_are_drawn_as_often_as_their_shares_say(
    counts: list[tuple[int, int, float]], seed: int
) -> None:
    half = 4000
    given = [
        SampleSource(samples(normal, anomalous, value), share)
        for value, (normal, anomalous, share) in enumerate(counts)
    ]
    made = make_mixture(given)
    found: dict[int, Any] = {0: np.zeros(len(given)), 1: np.zeros(len(given))}
    for first, label, rows, drawn in made.draw(half, seeded(seed)) if made else ():
        assert first == (half if label else 0)
        assert len(rows) == len(drawn.labels) <= half
        assert (drawn.labels == label).all()
        assert made is not None
        assert torch.equal(made.by_label[label].at(rows).sources, drawn.sources)
        found[label] = np.bincount(drawn.images.flatten(1)[:, 0].numpy(), minlength=len(given))
    for label in (0, 1):
        there = np.array([each[label] > 0 for each in counts])
        # No normal sample is drawn more often than an anomaly of its source.
        parts = [1.0 if label else min(normal / max(anomalous, 1), 0.5) for normal, anomalous, _ in counts]
        wanted = np.array([part * share for part, (*_, share) in zip(parts, counts, strict=True)]) * there
        total = min(wanted.sum(), 1.0)
        assert found[label].sum() == round(total * half)
        if found[label].sum():
            expected = wanted / wanted.sum() * found[label].sum()
            assert (np.abs(found[label] - expected) <= 6 * np.sqrt(expected) + 2).all()


@given(st.integers(1, 9), st.integers(1, 9))
def test_samples_of_a_source_are_equally_likely(normal: int, anomalous: int) -> None:
    made = make_mixture([SampleSource(samples(normal, anomalous), 0.4), SampleSource(samples(0, 3, 1), 0.2)])
    assert made is not None
    share = min(0.2, 0.4 * normal / anomalous)
    torch.testing.assert_close(made.weights[0], torch.full((normal,), share / normal))
    assert made.weights[1].sum() == pytest.approx(0.6)
    assert made.weights[1].unique().numel() <= 2
    assert made.shares == pytest.approx((share, 0.6))


def test_mixtures_keep_which_samples_have_masks() -> None:
    made = make_mixture([SampleSource(samples(2, 3), 0.3), SampleSource(samples(0, 4, 1, marked=False), 0.3)])
    assert made is not None
    for _, _, _, drawn in made.draw(200, seeded()):
        assert torch.equal(drawn.marked, drawn.images.flatten(1)[:, 0] == 0)


def test_no_samples_make_no_mixture() -> None:
    assert make_mixture([]) is None
    assert make_mixture([SampleSource(samples(3, 3), 0.0)]) is None
    empty = make_mixture([SampleSource(samples(0, 0), 0.5)])
    assert empty is None or not list(empty.draw(100, seeded()))
    beside = make_mixture([SampleSource(samples(0, 0), 0.5), SampleSource(samples(2, 2, 1), 0.1)])
    assert beside is not None
    assert beside.shares == pytest.approx((0.05, 0.1))  # an empty source takes no room
    crowded = make_mixture([SampleSource(samples(2, 2), 0.8), SampleSource(samples(2, 2, 1), 0.8)])
    assert crowded is not None
    assert crowded.shares == pytest.approx((0.8, 1.0))


# --- candidates ---


@given(st.lists(st.floats(0, 1), max_size=4), st.lists(st.sampled_from([AGENT, RANDOM]), unique=True))
def test_candidates(shares: list[float], sources: list[str]) -> None:
    found = mixtures_of(shares, sources)
    some = {share for share in shares if share > 0}
    assert len(found) == len(some) * (len(sources) + (len(sources) > 1)) * bool(sources)
    assert len({tuple(sorted(each.items())) for each in found}) == len(found)
    totals = [sum(each.values()) for each in found]
    assert totals == pytest.approx(sorted(totals))
    for each in found:
        assert set(each) <= set(sources)
        assert any(sum(each.values()) == pytest.approx(share) for share in some)
        assert len(set(each.values())) == 1


# --- the choice ---


class Made:
    """A command with its trained detector, and folders for what comes after that."""

    def __init__(self, folder: Path) -> None:
        small = [argument for argument in TINY_AGENT if not argument.startswith("detector.steps")]
        learning = ["detector.steps=100", "detector.learning_rate=3e-3", "detector.batch_size=16"]
        learning += ["labelled.train=0", "detector.baselines=[]"]
        run = compose_run(folder, *small, *learning, "mixture.shares=[0.5]", "share=null", "agent=random")
        self.context, self.dataset = run.context, run.data.dataset
        self.baseline = plan_trained_detector(*run).train()
        self.world, self.trainer = self.baseline.world, self.baseline.trainer

    def run(self, name: str) -> Run:
        run = self.context.run_folder(self.dataset.name, "agent", "test", {"name": name})
        run.begin()
        return run

    def choose(
        self, name: str, sets: Mapping[str, Augmented], **changes: Any
    ) -> tuple[dict[str, float], list[Candidate]]:
        kept, candidates = self.outcome(name, sets, **changes)
        return kept.shares, candidates

    def outcome(
        self,
        name: str,
        sets: Mapping[str, Augmented],
        share: float | None = None,
        margin: float = 0.5,
        trainer: DetectorTrainer | None = None,
    ) -> tuple[Candidate, list[Candidate]]:
        run, mixtures = self.run(name), Mixtures(share, [0.5], margin, can_choose=True)
        trainer = trainer or self.trainer
        trained = train_candidates(trainer, run, run, self.world, sets, mixtures)
        return choose_candidate(trainer, trained, mixtures)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("mixture"))


def as_augmented(split: Split, label: int, chosen: int, shape: tuple[int, ...]) -> Augmented:
    """Images of a split with one label, as if an agent had made them, all ``label``."""
    rows = np.flatnonzero(split.labels == chosen)
    images = torch.from_numpy(split.images[rows])
    count = len(images)
    bright = (images > 64).any(1, keepdim=True)
    tokens = torch.ones(count, 1, 1, 1, dtype=torch.bool)
    labels, zeros = torch.full((count,), label), torch.zeros(count)
    return Augmented(
        images,
        bright & (label == 1),
        tokens,
        labels,
        zeros.long(),
        torch.zeros(count, *shape),
        zeros,
        zeros.long() - 1,
        torch.zeros(count, 0, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def helpful(made: Made) -> Augmented:
    """What really is anomalous, though not the images that choices are made by."""
    return as_augmented(made.dataset.test, 1, 1, made.world.autoencoder.latent_shape)


@pytest.fixture(scope="module")
def harmful(made: Made) -> Augmented:
    """What really is normal, called anomalous."""
    return as_augmented(made.dataset.train, 1, 0, made.world.autoencoder.latent_shape)


@pytest.mark.slow
def test_what_helps_is_taken(made: Made, helpful: Augmented, harmful: Augmented) -> None:
    shares, candidates = made.choose("helpful", {AGENT: helpful, RANDOM: harmful})
    assert [each.shares for each in candidates] == [{}, *mixtures_of([0.5], [AGENT, RANDOM])]
    assert shares == {AGENT: 0.5}
    by_hand = {tuple(each.shares): each.image_AUROC for each in candidates}
    assert by_hand[(AGENT,)] > by_hand[()] + 0.05
    assert by_hand[(AGENT,)] > by_hand[(RANDOM,)]
    assert candidates[0].margin == 0
    assert all(each.margin > 0 for each in candidates[1:])


@given(st.floats(0, 1), st.floats(0, 1))
def test_where_masks_are_known_both_figures_count(images: float, pixels: float) -> None:
    world: Any = None
    assert Candidate({}, world, images).merit == images
    both = Candidate({}, world, images, pixels)
    assert both.merit == pytest.approx((images + pixels) / 2)
    assert both.facts()["pixel_AUPRO"] == pixels
    assert "pixel_AUPRO" not in Candidate({}, world, images).facts()


def test_what_does_harm_is_left_out(made: Made, harmful: Augmented) -> None:
    kept, candidates = made.outcome("harmful", {AGENT: harmful})
    assert [each.shares for each in candidates] == [{}, {AGENT: 0.5}]
    assert candidates[1].image_AUROC < candidates[0].image_AUROC + candidates[1].margin
    assert candidates[1].merit < candidates[0].merit + candidates[1].margin
    assert kept.world is made.world


def test_the_margin_decides(
    made: Made, helpful: Augmented, harmful: Augmented, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {AGENT: helpful, RANDOM: harmful}
    first, candidates = made.choose("helpful", sets)
    monkeypatch.setattr(type(made.trainer), "train", forbidden)  # all candidates are known
    again, found = made.choose("helpful", sets)
    assert again == first
    assert [each.facts() for each in found] == [each.facts() for each in candidates]
    assert made.choose("helpful", sets, margin=1000.0)[0] == {}


def forbidden(*_: object) -> None:
    raise AssertionError("nothing is to be trained here")


def test_a_fixed_share_is_not_questioned(
    made: Made, harmful: Augmented, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(
        type(made.trainer), "train", lambda *arguments: given.append(arguments[-1]) or made.world.detector
    )
    for share in (0.0, 0.3, 1.0):
        found = made.choose("fixed", {AGENT: harmful}, share=share)
        assert found == ({AGENT: share} if share else {}, [])
    assert [source.share for sources in given for source in sources] == [0.3, 1.0]
    monkeypatch.setattr(type(made.trainer), "train", forbidden)
    nothing = as_augmented(made.dataset.test, 0, 0, made.world.autoencoder.latent_shape)
    for either in (0.3, None):  # without an anomaly there is nothing to learn from
        assert made.choose("fixed", {AGENT: nothing}, share=either) == ({}, [])
        assert made.choose("fixed", {}, share=either) == ({}, [])


def test_a_detector_is_retrained_on_what_was_chosen(made: Made, helpful: Augmented) -> None:
    sets = {AGENT: helpful}
    after, again = (
        made.outcome("retrained", sets, share=0.5)[0].world for _ in range(2)
    )  # then from its file

    def scores(of: Any) -> Tensor:
        images = torch.from_numpy(made.dataset.test.images[:20]).float() / 255
        return of.detect(images).score

    assert torch.equal(scores(after), scores(again))
    assert not torch.equal(scores(after), scores(made.world))
    assert after.reference_set is made.world.reference_set
    chosen = sample_sources(made.trainer, made.world, sets, {AGENT: 0.5, RANDOM: 0.0})
    assert [source.share for source in chosen] == [0.5]
    assert torch.equal(chosen[0].samples.images, helpful.images)


def test_shares_as_text() -> None:
    assert listed({AGENT: 0.25, RANDOM: 0.1}) == "25% by the agent, 10% by random actions"
    assert listed({AGENT: 0.0}) == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["share=-0.1"], "share=-0.1 must lie from 0 to 1"),
        (["mixture.shares=[]"], "mixture.shares=[] must be shares"),
        (["mixture.shares=[0.5,2]"], "each must lie from 0 to 1"),
        (["share=0.9", "labelled.weight=0.2"], "leave room beside the share"),
        (["mixture.shares=[0.9]", "labelled.weight=0.2"], "leave room beside the share"),
        (["labelled.weight=-1"], "labelled.weight=-1 must lie from 0 to 1"),
        (["labelled.train=1.5"], "labelled.train=1.5 must be a share"),
    ],
    ids=str,
)
def test_impossible_shares_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        planned(tmp_path, *arguments)
    assert message in str(refused.value)


def planned(folder: Path, *arguments: str) -> Mixtures:
    run: Composed = compose_run(folder, "dataset=digits", "threads=1", *arguments)
    dataset = run.data.dataset
    return plan_mixtures(run.config, dataset, split_labelled(dataset.valid, run.config.labelled))


@pytest.mark.parametrize(
    ("arguments", "share"),
    [
        (["labelled.count=5"], 0.5),
        (["labelled.count=11", "mixture.few_share=0.4"], 0.4),
        (["labelled.count=5", "share=0.1"], 0.1),
        (["labelled.count=12"], None),
        (["labelled.count=5", "labelled.few=0"], None),
        (["labelled.count=0"], None),
    ],
    ids=str,
)
def test_a_share_is_fixed_where_labelled_anomalies_are_few(
    arguments: list[str], share: float | None, tmp_path: Path
) -> None:
    assert planned(tmp_path, *arguments).share == share


def test_few_labelled_anomalies_are_all_learned_from(tmp_path: Path) -> None:
    run: Composed = compose_run(tmp_path, "dataset=digits", "threads=1", "labelled.count=5")
    split = split_labelled(run.data.dataset.valid, run.config.labelled)
    assert [len(part) for part in split] == [5, 0, 0]
    run = compose_run(tmp_path, "dataset=digits", "threads=1", "labelled.count=5", "labelled.few=5")
    split = split_labelled(run.data.dataset.valid, run.config.labelled)
    assert [len(part) for part in split] == [2, 1, 2]


@pytest.mark.parametrize(("train", "parts"), [(3, [3, 1, 1]), (0, [0, 1, 4]), (1, [1, 1, 3])])
def test_a_number_of_a_few_is_taken_as_it_is(train: int, parts: list[int], tmp_path: Path) -> None:
    keys = ["dataset=digits", "threads=1", "labelled.count=5", f"labelled.train={train}"]
    run: Composed = compose_run(tmp_path, *keys)
    split = split_labelled(run.data.dataset.valid, run.config.labelled)
    assert [len(part) for part in split] == parts
    assert plan_mixtures(run.config, run.data.dataset, split).share is None


def test_shares_that_labelled_anomalies_leave_no_room_for_are_no_candidates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["mixture.shares=[0.25,0.5]", "labelled.weight=0.6"]
    assert planned(tmp_path, *arguments).shares == [0.25]
    assert (
        "mixture.shares: 0.5 is no candidate, as labelled.weight=0.6 leaves no room for it"
        in capsys.readouterr().err
    )
    planned(tmp_path, *arguments, "share=0.25")
    assert "is no candidate" not in capsys.readouterr().err
    assert planned(tmp_path, *arguments, "labelled.weight=0.5").shares == [0.25, 0.5]


def test_impossible_shares_show_before_anything_is_trained(tmp_path: Path, run_here: RunHere) -> None:
    arguments = ["dataset=digits", "mixture.shares=[2]"]
    code, _, log = run_here(train_ppo.main, "train_ppo", *arguments, cwd=tmp_path)
    assert code == 2
    assert "mixture.shares=[2.0]: each must lie" in log.splitlines()[-1]
    assert not (tmp_path / "runs/digits/autoencoder").exists()


def test_that_nothing_will_be_added_is_said_beforehand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, told in (
        (["track=one_class"], True),
        ([], False),
        (["track=one_class", "share=0.25"], False),
        (["track=one_class", "agent=none"], False),
    ):
        planned(tmp_path, *arguments)
        assert ("detectors won't learn from what the agent makes" in capsys.readouterr().err) == told


def test_where_nothing_is_labelled_it_takes_no_room(tmp_path: Path) -> None:
    for free in (["track=one_class"], ["labelled.train=0"]):
        planned(tmp_path, "share=1", *free)
    with pytest.raises(UserError, match="leave room"):
        planned(tmp_path, "share=1")


# --- whole commands ---

QUICK = [*TINY_AGENT, "agent=random", "detector.baselines=[]", "mixture.shares=[0.5]"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder, so that the autoencoder is trained once."""
    return tmp_path_factory.mktemp("commands")


def finished(here: Path, run_here: RunHere, *arguments: str) -> Path:
    """The folder of a whole command."""
    before = set((here / "runs/digits/agent").glob("*"))
    code, _, log = run_here(train_ppo.main, "train_ppo", *later_wins(*arguments), cwd=here)
    assert code == 0, log
    (run,) = set((here / "runs/digits/agent").glob("*")) - before
    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def scores(run: Path) -> dict[str, Any]:
    with np.load(run / "scores.npz") as held:
        return dict(held)


def test_nothing_chosen_leaves_the_detector_as_it_was(here: Path, run_here: RunHere) -> None:
    run = finished(here, run_here, *QUICK, "agent=untrained", "mixture.margin=1000")
    held = scores(run)
    assert np.array_equal(held["with"], held["without"])
    report = read(run / "report.json")
    assert [each["shares"] for each in report["candidates"]] == [
        {},
        *mixtures_of([0.5], [AGENT, RANDOM]),
    ]
    assert report["share_agent"] == report["share_random"] == 0
    assert {"coverage", "duplicates", "effective_rank"} <= report.keys()
    assert report["coverage"] > 0
    assert report["effective_rank"] > 1
    assert all(row["difference"] == 0 for row in report["metrics"].values())
    assert "Nothing was added" in (run / "report.md").read_text()
    assert not list(run.rglob("with_*/detector.*"))  # only the chosen one is kept
    assert not list(run.rglob("round_*/augmented.npz"))
    assert not list(run.rglob("reward_ensemble.json"))  # nothing that such an agent makes depends on one


@pytest.mark.slow
def test_synthetic_anomalies_choose_only_where_they_can_stand_in_for_real_ones(
    here: Path, run_here: RunHere
) -> None:
    unlabelled = [*QUICK, "agent=untrained", "track=one_class"]
    run = finished(here, run_here, *unlabelled)
    assert read(run / "report.json")["candidates"] == []
    assert not list(run.rglob("with_*"))
    assert "mixture.by_synthetic=true lets synthetic anomalies choose" in (run / "report.md").read_text()
    assert np.array_equal(scores(run)["with"], scores(run)["without"])

    run = finished(here, run_here, *unlabelled, "mixture.by_synthetic=true")
    shares = [each["shares"] for each in read(run / "report.json")["candidates"]]
    assert shares == [{}, *mixtures_of([0.5], [AGENT, RANDOM])]

    run = finished(here, run_here, *unlabelled, "share=0.5")
    assert read(run / "report.json")["share_agent"] == 0.5
