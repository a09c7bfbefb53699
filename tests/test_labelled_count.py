"""Labelled anomalies where people put them, and as many of them as are asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dataset_sources import folder, parts
from hypothesis import given
from hypothesis import strategies as st
from small_datasets import SmallDataset, make_bmad, make_parts, read

from conf.schema.runs import DetectorRun
from latent_common.errors import UserError
from latent_env.data import Problems, Splitting, folder_source, make_phantom_dataset
from latent_env.data.labelled import pick_labelled
from latent_env.data.layouts.folder import Parts
from latent_env.data.samples import FileSample
from stages.cli.checks import read_config
from stages.cli.compose import compose
from stages.datasets import load_dataset


def configuration(*arguments: str) -> DetectorRun:
    return read_config(compose("train_detector", arguments), DetectorRun)


def anomalies(counts: dict[str, int], form: str = "{kind}/{i:03d}.png") -> list[FileSample]:
    return [
        FileSample(Path("/x"), 1, form.format(kind=kind, i=i), kind=kind)
        for kind, count in counts.items()
        for i in range(count)
    ]


@given(
    counts=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 6), min_size=1),
    count=st.integers(0, 12),
    seed=st.integers(0, 99),
)
def test_kinds_are_taken_in_turn(counts: dict[str, int], count: int, seed: int) -> None:
    samples = anomalies(counts)
    chosen, siblings, rest = pick_labelled(samples, count, seed)
    assert sorted(s.name for s in [*chosen, *siblings, *rest]) == sorted(s.name for s in samples)
    assert siblings == []
    assert len(chosen) == min(count, len(samples))
    taken = Counter(sample.kind for sample in chosen)
    for kind, number in counts.items():  # a kind has as many as any other, or all of its own
        assert taken[kind] == number or taken[kind] >= max(taken.values(), default=0) - 1
    assert pick_labelled(samples, count, seed) == (chosen, siblings, rest)


def test_the_seed_chooses() -> None:
    samples = anomalies({"crack": 20, "hole": 20})
    assert len({tuple(s.name for s in pick_labelled(samples, 5, seed)[0]) for seed in range(5)}) == 5


def twins() -> list[FileSample]:
    names = [f"crack/part{i // 3:02d}_{i % 3}.png" for i in range(24)]
    return [FileSample(Path("/x"), 1, name, kind="crack") for name in names]


def test_labelled_anomalies_are_of_different_parts() -> None:
    chosen, siblings, rest = pick_labelled(twins(), 4, 0)
    parts_of = {sample.name[:12] for sample in chosen}
    assert len(parts_of) == 4
    assert {sample.name[:12] for sample in siblings} == parts_of
    assert len(siblings) == 8
    assert not {sample.name[:12] for sample in rest} & parts_of
    assert pick_labelled(anomalies({"crack": 24}), 5, 0)[1] == []  # names that have no groups


@pytest.mark.parametrize(
    ("count", "tested", "remark"),
    [
        (4, 12, "8 anomalies of the same groups were left out of test"),
        (5, 19, "10 anomalies of test are of the same groups as labelled ones"),  # else most would go
    ],
)
def test_siblings_of_labelled_anomalies_are_not_tested_on(count: int, tested: int, remark: str) -> None:
    good = [FileSample(Path("/x"), 0, f"good/{i}.png", kind="good") for i in range(10)]
    splits, remarks = Splitting(labelled=count).divide(good[1:], good[:1], twins())
    assert sum(sample.label for sample in splits["test"]) == tested
    assert remarks[-1] == remark


def test_anomalies_beside_good_ones_are_learned_from(tmp_path: Path, widget: SmallDataset) -> None:
    for i in range(3):
        widget.add("labelled", f"train/dent/new{i}.png", 1, f"ground_truth/dent/new{i}_mask.png")
    widget.add("labelled", "train/stain/000.png", 1, "ground_truth/stain/000_mask.png")
    before = read(folder(widget.root), tmp_path / "all")
    found = {name for name, label in zip(before.valid.names, before.valid.labels, strict=True) if label}
    assert found == {"train/stain/000.png", *(f"train/dent/new{i}.png" for i in range(3))}
    assert before.valid.masks is not None
    assert before.valid.masks[before.valid.labels == 1].any((1, 2)).all()
    assert len(before.test) == 6  # all of it
    assert before.remarks == ()
    two = read(folder_source(widget.root, "", Parts(), Splitting(labelled=2), Problems()), tmp_path / "two")
    kinds = {name.split("/")[1] for name in two.valid.names}
    assert kinds == {"good", "dent", "stain"}
    assert int(two.valid.labels.sum()) == 2
    assert two.remarks == ("2 labelled anomalies were left out (labelled.count=2)",)
    assert len(two.test) == 6


def test_a_folder_of_labelled_anomalies_may_be_named(tmp_path: Path) -> None:
    written = make_parts(tmp_path / "data")
    (written.root / "known").mkdir()
    first = sorted((written.root / "bad").glob("*.png"))[0]
    first.rename(written.root / "known" / first.name)
    named = {"normal_dir": "ok", "abnormal_dir": "bad", "normal_test_dir": "ok_test", "mask_dir": "truth"}
    dataset = read(parts(written.root, **named, labelled_dir="known"), tmp_path)
    assert [name for name in dataset.valid.names if name.startswith("known/")] == [f"known/{first.name}"]
    assert dataset.valid.masks is not None
    assert dataset.valid.masks[-1].any()
    assert not any(name.endswith(first.name) and "bad" in name for name in dataset.test.names)


def test_an_official_split_gives_up_what_is_not_asked_for(tmp_path: Path) -> None:
    make_bmad(tmp_path / "Liver")
    where = [f"data_root={tmp_path}", f"prepared={tmp_path}/prepared", "dataset.size=16"]
    whole, one = (
        load_dataset(configuration("dataset=bmad_liver", *where, *count))
        for count in ([], ["labelled.count=1"])
    )
    assert int(whole.valid.labels.sum()) > int(one.valid.labels.sum()) == 1
    assert len(one.test) == len(whole.test)


def test_the_phantom_has_as_many_as_are_asked_for() -> None:
    drawn = make_phantom_dataset(32, train=4, valid=12, test=4)
    five = drawn.with_labelled(5, seed=0)
    assert int(five.valid.labels.sum()) == 5
    assert int((five.valid.labels == 0).sum()) == 6
    assert five.valid.names != drawn.with_labelled(5, seed=1).valid.names
    assert five.fingerprint() != drawn.fingerprint()
    assert np.array_equal(drawn.with_labelled(6, seed=3).valid.images, drawn.valid.images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["labelled.count=61"], "labelled.count=61 is more than can be had"),
        (["track=one_class", "labelled.count=5"], "track=one_class has no labelled"),
        (["labelled.count=-1"], "labelled.count=-1 must"),
    ],
)
def test_impossible_numbers_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_dataset(configuration("dataset=phantom", *arguments))


def test_test_keeps_an_anomaly(widget: SmallDataset) -> None:
    with pytest.raises(UserError, match=r"labelled\.count=4 is more than can be had: test must keep one"):
        folder_source(widget.root, "", Parts(), Splitting(labelled=4), Problems())


def test_with_a_track_the_rest_is_left_out_and_test_stays_the_same() -> None:
    """Figures of one, five and ten labelled anomalies, and of other draws, are then of the same images."""
    pool = anomalies({"crack": 20, "hole": 20})
    normal = [FileSample(Path("/x"), 0, f"good/{i:03d}.png", kind="good") for i in range(20)]

    def divided(count: int, seed: int) -> dict[str, list[FileSample]]:
        splitting = Splitting("few_labelled", 0, 0.3, labelled=count, labelled_seed=seed)
        return splitting.divide(normal, normal, pool)[0]

    splits = {(count, seed): divided(count, seed) for count in (0, 1, 5, 10) for seed in (0, 1)}
    assert len({tuple(s.name for s in each["test"]) for each in splits.values()}) == 1
    assert len([s for s in splits[5, 0]["test"] if s.label]) == 28
    labelled = {key: {s.name for s in each["valid"] if s.label} for key, each in splits.items()}
    assert {key: len(names) for key, names in labelled.items()} == {key: key[0] for key in splits}
    assert labelled[5, 0] != labelled[5, 1]
