from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latent_common.errors import UserError
from latent_env.data import Splitting
from latent_env.data.samples import FileSample
from latent_env.data.splitting import evenly_spaced_samples, group_finder, set_aside, set_aside_anomalies

SHARES = st.floats(0.01, 0.99)
SEEDS = st.integers(0, 2**32 - 1)


def named(names: Sequence[str], label: int = 0, kind: str = "") -> list[FileSample]:
    return [FileSample(Path("/data") / name, label, name, kind=kind) for name in names]


def plain(count: int, folder: str = "train/good", label: int = 0, kind: str = "good") -> list[FileSample]:
    return named([f"{folder}/{i:03d}.png" for i in range(count)], label, kind)


def patients(sizes: Sequence[int]) -> list[FileSample]:
    """As many slices of each patient; the slices of all patients alternate."""
    slices = [(i, patient) for patient, size in enumerate(sizes) for i in range(size)]
    return named([f"patient{patient:02d}_slice{i:03d}.png" for i, patient in sorted(slices)])


def patient(sample: FileSample) -> str:
    return sample.name.split("_")[0]


def group(name: str, pattern: str | None = None, kind: str = "") -> str:
    return group_finder(pattern)(named([name], kind=kind)[0])


def wanted(share: float, count: int) -> int:
    return min(max(round(share * count), 1), count - 1)


def check_parts(samples: Sequence[FileSample], stay: list[FileSample], aside: list[FileSample]) -> None:
    """Nothing is lost or in both, neither is empty, and both keep the order."""
    assert stay
    assert aside
    assert len(stay) + len(aside) == len(samples)
    chosen = {sample.name for sample in aside}
    assert aside == [sample for sample in samples if sample.name in chosen]
    assert stay == [sample for sample in samples if sample.name not in chosen]


# --- groups ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("patient07_slice012.png", "patient07"),
        ("patient07-slice-012.png", "patient07"),
        ("Patient 07 Slice 012.tif", "Patient 07"),
        ("patient07_series2_slice005.png", "patient07"),
        ("volume-3/45.png", "volume-3"),
        ("volume-3/slice45", "volume-3"),
        ("BraTS20_001_T1.5_88.png", "BraTS20"),
        ("a/b/case12/img_0003.jpg", "a/b/case12"),
        ("00012_7.png", "00012"),
    ],
)
def test_patients_and_volumes_are_found_in_names(name: str, expected: str) -> None:
    assert group(name) == expected


@pytest.mark.parametrize(
    "name", ["000.png", "IMG_0001.png", "train/good/000.png", "patient07.png", "scan.png", "", ".", "/", ".."]
)
def test_other_names_are_groups_of_their_own(name: str) -> None:
    assert group(name) == name


def test_folders_down_to_the_kind_are_no_groups() -> None:
    assert group("good/patient07/slice3.png", kind="good") == "patient07"
    assert group("train1/good/000.png", kind="good") == "train1/good/000.png"
    assert group("test/Ungood/img/12_3.png", kind="Ungood") == "img/12"
    assert group("dent/12_3.png", kind="dent") == group("scratch/12_4.png", kind="scratch")


def test_a_pattern_says_what_the_group_is() -> None:
    assert group("scan-A-front.png", "scan-([A-Z])") == "A"
    assert group("scan-A-front.png", "scan-[A-Z]") == "scan-A"
    assert group("patient07_slice012.png", "") == "patient07_slice012.png"
    for unmatched in ("case", "(case)|scan", "x*"):  # nothing, not the parenthesis, or only an empty text
        assert group("scan-A-front.png", unmatched) == "scan-A-front.png"


@pytest.mark.parametrize(
    ("form", "numbers"),
    [("BraTS20_{:03}_T1.5_{}.png", 6), ("2021-01-{:02}_{}.png", 9), ("set1/patient{}/series2_{}.png", 4)],
)
def test_a_number_that_all_share_is_no_group(form: str, numbers: int) -> None:
    samples = named([form.format(patient, image) for patient in range(numbers) for image in range(5)])
    stay, aside, remark = set_aside(samples, 0.3, 0)
    check_parts(samples, stay, aside)
    assert f"of {numbers} groups" in remark
    assert len(aside) % 5 == 0


@pytest.mark.parametrize("pattern", ["case", "scan"])
def test_a_pattern_that_finds_no_groups_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match=f"dataset.group={pattern} finds fewer than 3 groups"):
        set_aside(named([f"scan_{i}.png" for i in range(9)]), 0.3, 0, pattern)


@pytest.mark.parametrize("pattern", ["(", "[a", "*"])
def test_a_bad_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match=r"dataset\.group=.* is not a regular expression"):
        Splitting(group=pattern)


@given(st.text("aZ1é \0./_-\\", max_size=12), st.sampled_from(["", "good", "a"]))
def test_any_name_has_a_group(name: str, kind: str) -> None:
    assert isinstance(group(name, kind=kind), str)


# --- setting aside ---


@given(st.integers(2, 60), SHARES, SEEDS)
def test_single_images_are_set_aside_exactly(count: int, share: float, seed: int) -> None:
    samples = plain(count)
    stay, aside, remark = set_aside(samples, share, seed)
    check_parts(samples, stay, aside)
    assert len(aside) == wanted(share, count)
    assert not remark
    assert set_aside(samples, share, seed) == (stay, aside, remark)


@given(st.lists(st.integers(1, 9), min_size=3, max_size=12).filter(lambda s: max(s) > 1), SHARES, SEEDS)
def test_groups_stay_whole(sizes: list[int], share: float, seed: int) -> None:
    samples = patients(sizes)
    stay, aside, remark = set_aside(samples, share, seed)
    check_parts(samples, stay, aside)
    held = {patient(sample) for sample in aside}
    assert not held & {patient(sample) for sample in stay}
    assert remark == f"{len(held)} of {len(sizes)} groups such as patient00"
    assert len(aside) <= max(wanted(share, len(samples)), min(sizes))
    assert set_aside(samples, share, seed) == (stay, aside, remark)


@given(st.integers(3, 20), st.integers(2, 8), SHARES, SEEDS)
def test_groups_come_close_to_the_share(groups: int, size: int, share: float, seed: int) -> None:
    samples = patients([size] * groups)
    _, aside, _ = set_aside(samples, share, seed)
    target = wanted(share, len(samples))
    assert len(aside) == max(min(target // size, groups - 1), 1) * size


@pytest.mark.parametrize("seed", range(8))
def test_a_huge_group_is_not_what_is_set_aside(seed: int) -> None:
    stay, aside, _ = set_aside(patients([90, 5, 3, 2]), 0.15, seed)
    assert {patient(sample) for sample in stay} == {"patient00"}
    assert len(aside) == 10


def test_the_seed_chooses() -> None:
    for samples in (plain(20), patients([4] * 10)):
        chosen = {tuple(sample.name for sample in set_aside(samples, 0.2, seed)[1]) for seed in range(6)}
        assert len(chosen) > 3


def test_too_few_groups_are_split_by_image() -> None:
    samples = patients([10, 10])
    stay, aside, remark = set_aside(samples, 0.2, 0)
    check_parts(samples, stay, aside)
    assert (len(aside), remark) == (4, "")


def test_a_pattern_or_none_decides_what_stays_together() -> None:
    samples = named([f"{place}{i}-{side}.png" for place in "abcd" for i in range(3) for side in ("l", "r")])
    _, aside, remark = set_aside(samples, 0.3, 0, "^[a-d]")
    assert len(aside) == 6
    assert remark.endswith("of 4 groups such as a")
    assert set_aside(patients([4] * 5), 0.2, 0, "")[2] == ""


# --- anomalies ---


@given(
    st.dictionaries(st.sampled_from(["dent", "hole", "scratch", "stain"]), st.integers(1, 12), min_size=1),
    SHARES,
    SEEDS,
)
def test_every_kind_of_anomaly_is_set_aside(counts: dict[str, int], share: float, seed: int) -> None:
    samples = [s for kind, count in counts.items() for s in plain(count, f"test/{kind}", 1, kind)]
    stay, aside = set_aside_anomalies(samples, share, seed)
    for kind, count in counts.items():
        parts = [[sample for sample in part if sample.kind == kind] for part in (samples, stay, aside)]
        if count > 1:
            check_parts(*parts)
            assert len(parts[2]) == wanted(share, count)
        else:  # test must not lose a kind
            assert parts[1:] == [parts[0], []]
    assert (stay, aside) == set_aside_anomalies(samples, share, seed)


@given(SEEDS)
def test_a_patient_with_several_kinds_of_anomaly_stays_on_one_side(seed: int) -> None:
    samples = [
        FileSample(Path("x"), 1, f"test/{kind}/patient{p}_{i}.png", kind=kind)
        for kind in ("dent", "hole")
        for p in range(5)
        for i in range(3)
    ]
    stay, aside = set_aside_anomalies(samples, 0.4, seed)
    check_parts(samples, stay, aside)
    sides = [{sample.name.split("/")[-1].split("_")[0] for sample in part} for part in (stay, aside)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == 2


# --- limits ---


@given(st.integers(0, 50), st.none() | st.integers(2, 60))
def test_a_limit_spreads_over_all(count: int, limit: int | None) -> None:
    samples = plain(count)
    kept = evenly_spaced_samples(samples, limit)
    assert len(kept) == (count if limit is None else min(count, limit))
    assert len({sample.name for sample in kept}) == len(kept)
    assert kept == [sample for sample in samples if sample in kept]
    if kept:
        assert (kept[0], kept[-1]) == (samples[0], samples[-1])
        steps = [samples.index(b) - samples.index(a) for a, b in pairwise(kept)]
        assert max(steps, default=0) - min(steps, default=0) <= 1


# --- train, valid and test ---


def divide(splitting: Splitting) -> tuple[dict[str, list[FileSample]], list[str]]:
    anomalous = [*plain(10, "test/dent", 1, "dent"), *plain(6, "test/hole", 1, "hole")]
    return splitting.divide(plain(40), plain(8, "test/good"), [*anomalous, *plain(1, "test/one", 1, "one")])


@pytest.mark.parametrize("track", ["auto", "one_class"])
def test_test_is_left_alone(track: str) -> None:
    splits, remarks = divide(Splitting(track, valid_fraction=0.2))
    assert list(splits) == ["train", "valid", "test"]
    check_parts(plain(40), splits["train"], splits["valid"])
    assert len(splits["valid"]) == 8
    assert [sample.label for sample in splits["test"]] == [0] * 8 + [1] * 17
    assert remarks == []


def test_labelled_validation_moves_anomalies_of_every_kind() -> None:
    splits, remarks = divide(Splitting("few_labelled", valid_fraction=0.2))
    before, _ = divide(Splitting(valid_fraction=0.2))
    moved = splits["valid"][8:]
    assert splits["train"] == before["train"]
    assert splits["valid"][:8] == before["valid"]
    assert [sample.kind for sample in moved] == ["dent", "dent", "hole"]
    assert splits["test"] == [sample for sample in before["test"] if sample not in moved]
    assert [sample.label for sample in splits["test"]] == [0] * 8 + [1] * 14
    (remark,) = remarks
    assert remark.startswith("3 anomalies were moved from test to valid (track=few_labelled)")


def test_groups_are_remarked_on() -> None:
    splits, remarks = Splitting().divide(patients([5] * 8), plain(3), plain(3, "test/dent", 1, "dent"))
    assert remarks == ["valid is 1 of 8 groups such as patient00 of the training images"]
    assert len({patient(sample) for sample in splits["valid"]}) == 1
    splits, remarks = Splitting(group="").divide(patients([5] * 8), plain(3), plain(3, "x", 1))
    assert remarks == []
    assert len(splits["valid"]) == 6


def test_a_limit_counts_normal_and_anomalous_images() -> None:
    splits, _ = divide(Splitting(limit=5))
    assert len(splits["train"]) + len(splits["valid"]) == 5
    assert [sample.label for sample in splits["test"]] == [0] * 5 + [1] * 5
    assert {sample.kind for sample in splits["test"]} == {"good", "dent", "hole", "one"}
    assert divide(Splitting(limit=1000)) == divide(Splitting())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 1}, "limit=1"),
        ({"limit": -3}, "limit=-3"),
        ({"valid_fraction": 0.0}, "valid_fraction=0.0"),
        ({"valid_fraction": 1.0}, "valid_fraction=1.0"),
        ({"valid_fraction": float("nan")}, "valid_fraction=nan"),
        ({"track": "nonsense"}, "track=nonsense is unknown: choose one of auto, few_labelled"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Splitting(**arguments)  # type: ignore[arg-type]


def test_settings_tell_splittings_apart() -> None:
    different = [
        Splitting(),
        Splitting("few_labelled"),
        Splitting(seed=1),
        Splitting(valid_fraction=0.2),
        Splitting(group="x"),
        Splitting(limit=9),
    ]
    assert len({json.dumps(splitting.settings()) for splitting in different}) == len(different)
    assert Splitting("one_class").settings() == Splitting("auto").settings()
