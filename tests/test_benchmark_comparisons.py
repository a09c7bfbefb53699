"""What all comparisons share: differences, tables, the loop over runs, the report, and the command line."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import detectors
from benchmarks.cases import Case, Outcome, find_outcome, make_all
from benchmarks.command import choose, run_command
from benchmarks.detectors import STUDIES
from benchmarks.differences import Result, Results
from benchmarks.report import GENERATED
from benchmarks.scripts import composed
from benchmarks.tables import csv_table, difference, mean_and_deviation
from detectors.metrics import image_AUROC
from detectors.metrics.intervals import Estimate
from latent_common.artifacts import write_json
from latent_common.errors import UserError
from latent_common.tables import markdown_table
from latent_env.training.evaluation import SCORES
from latent_env.worlds.store import COMPLETE

LABELS = np.repeat([0, 1], [30, 20])
HERE = ("phantom",)


def scored(method: str, seed: int, scores: Any, place: tuple[str, ...] = HERE, **metrics: float) -> Result:
    """A result with the scores of all test images."""
    metrics["image_AUROC"] = image_AUROC(scores, LABELS)
    return Result(place, method, seed, metrics, LABELS, np.asarray(scores, np.float64))


# --- differences ---


@given(seed=st.integers(0, 1000), seeds=st.integers(1, 6), ties=st.booleans())
def test_differences_turned_round_change_their_sign(seed: int, seeds: int, ties: bool) -> None:
    values = np.random.default_rng(seed).normal(size=(2, seeds, 50)) + LABELS
    values = values.round() if ties else values
    results = Results(
        scored(name, number, scores)
        for name, own in zip("ab", values, strict=True)
        for number, scores in enumerate(own)
    )
    there = results.difference(((HERE, "a"), (HERE, "b")), "image_AUROC")
    back = results.difference(((HERE, "b"), (HERE, "a")), "image_AUROC")
    assert there is not None
    assert back is not None
    ends = (there.mean, there.low, there.high)
    assert ends == pytest.approx((-back.mean, -(back.high or 0), -(back.low or 0)), abs=1e-9)


def test_differences_are_paired_by_seed_and_place() -> None:
    noise = np.random.default_rng(0).normal(size=(4, 50))
    there = ("phantom, other keys",)
    results = Results(
        [
            *(scored("a", seed, 3 * LABELS + noise[seed], pixel_AUPRO=seed / 10) for seed in (0, 1, 2)),
            *(
                scored("a", seed, LABELS + noise[seed], there, pixel_AUPRO=seed / 10 - 0.5)
                for seed in (1, 2, 3)
            ),
            scored("a", 1, noise[0]),  # of two of the same run the first counts
        ]
    )
    pair = ((there, "a"), (HERE, "a"))
    found = results.difference(pair, "image_AUROC")
    expected = [image_AUROC(k * LABELS + noise[seed], LABELS) for k in (1, 3) for seed in (1, 2)]
    assert found is not None
    assert found.mean == pytest.approx((sum(expected[:2]) - sum(expected[2:])) / 2)
    assert found.mean < 0
    assert results.difference(pair, "pixel_AUPRO") == Estimate(-0.5)  # two seeds give no interval
    assert results.difference(pair, "pixel_AP") is None
    assert results.difference(((HERE, "a"), (HERE, "b")), "image_AUROC") is None


def test_without_all_scores_intervals_are_over_seeds_alone() -> None:
    noise = np.random.default_rng(0).normal(size=(3, 50))
    full = [scored("a", seed, LABELS + noise[seed]) for seed in range(3)]
    bare = [Result(HERE, "b", seed, {"image_AUROC": 0.5}) for seed in range(3)]
    found = Results([*full, *bare]).difference(((HERE, "a"), (HERE, "b")), "image_AUROC")
    values = np.array([each.metrics["image_AUROC"] for each in full]) - 0.5
    reach = 4.302653 * values.std(ddof=1) / 3**0.5
    assert found is not None
    assert (found.low, found.high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=1e-6)


def test_means_over_places_need_all_of_them() -> None:
    of = [(("0",), 0, 0.5), (("1",), 0, 0.7), (("0",), 1, 0.1)]
    results = Results(Result(place, "a", seed, {"image_AUROC": value}) for place, seed, value in of)
    results.add_means()
    assert results.values((("mean of 2",), "a"), "image_AUROC") == pytest.approx([0.6])


# --- tables ---


def test_cells() -> None:
    assert difference(Estimate(0.0125, 0.01, 0.015)) == "**+0.0125 (+0.0100 to +0.0150)**"
    assert difference(Estimate(-0.5)) == "-0.5000"
    assert difference(None) == ""
    assert mean_and_deviation([0.5, 0.7]) == "0.6000 ± 0.1414"
    assert mean_and_deviation([-160.25]) == "-160.2"
    assert mean_and_deviation([]) == ""
    assert markdown_table(["a", "b"], [["the moon | was\nfull", 1]]).splitlines()[2] == (
        r"| the moon \| was full | 1 |"
    )
    assert csv_table([{"a": 1.5, "b": None}, {"c": float("nan"), "a": "x,y"}]) == 'a,b,c\n1.5,,\n"x,y",,\n'


# --- the loop over runs ---


def cases(out: Path, *keys: str) -> list[Case]:
    """Runs of two methods and two seeds."""
    return [
        Case(
            HERE, method, seed, "train_detector", (f"runs={out}", *keys, f"seed={seed}", f"detector={method}")
        )
        for seed in (0, 1)
        for method in ("knn", "gaussian")
    ]


class Made:
    """A script that makes folders in no time and remembers what it was called for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[str] = []
        self.before: Callable[[Case], object] = lambda _: None

    def __call__(self, case: Case) -> Path:
        self.calls.append(case.name)
        print("at work")
        self.before(case)
        folder = self.root / case.name
        found = {"image_AUROC": 0.5 + 0.1 * (case.method == "knn"), "knn_image_AUROC": 0.1}
        np.savez(_made(folder) / SCORES, labels=LABELS, scores=np.zeros(50, np.float32))
        write_json(folder / COMPLETE, found)
        return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_what_is_finished_is_found_again(tmp_path: Path) -> None:
    script = Made(tmp_path / "runs")
    first = make_all(cases(tmp_path), tmp_path, {"train_detector": script})
    assert [outcome.state for outcome in first] == ["complete"] * 4
    assert all(outcome.seconds is not None and outcome.commit for outcome in first)
    assert "at work" in next((tmp_path / "logs").iterdir()).read_text()
    again = make_all(cases(tmp_path), tmp_path, {"train_detector": script})
    assert again == first
    assert len(script.calls) == 4
    elsewhere = [replace(case, arguments=(*case.arguments, "device=cpu")) for case in cases(tmp_path)]
    assert all(find_outcome(case, tmp_path).folder for case in elsewhere)
    others = cases(tmp_path, "samples=7")
    assert not any(find_outcome(case, tmp_path).folder for case in others)
    (script.root / first[1].case.name / COMPLETE).unlink()  # what is no longer whole is made again
    make_all(cases(tmp_path), tmp_path, {"train_detector": script})
    assert script.calls[4:] == [first[1].case.name]


def test_a_run_that_was_there_before_has_no_commit(tmp_path: Path) -> None:
    script = Made(tmp_path / "runs")
    case = cases(tmp_path)[0]
    folder = script(case)
    (outcome,) = make_all([case], tmp_path, {"train_detector": lambda _: folder})
    assert outcome == Outcome(case, folder)


def test_what_fails_is_noted_and_the_others_go_on(tmp_path: Path) -> None:
    script = Made(tmp_path / "runs")

    def fail(case: Case) -> None:
        if case.name == "phantom-gaussian-0":
            raise UserError("the moon was full")
        if case.name == "phantom-knn-1":
            raise ValueError("oh")

    script.before = fail
    found = make_all(cases(tmp_path), tmp_path, {"train_detector": script})
    assert [(outcome.state, outcome.error) for outcome in found] == [
        ("complete", ""),
        ("failed", "the moon was full"),
        ("failed", "ValueError: oh"),
        ("complete", ""),
    ]
    assert "Traceback" in (tmp_path / "logs" / "phantom-knn-1.log").read_text()
    script.before = lambda _: None  # asked for once more, what failed is tried again
    assert {o.state for o in make_all(cases(tmp_path), tmp_path, {"train_detector": script})} == {"complete"}


def test_ctrl_c_loses_nothing(tmp_path: Path) -> None:
    script = Made(tmp_path / "runs")

    def stop(case: Case) -> None:
        if case.name == "phantom-knn-1":
            raise KeyboardInterrupt

    script.before = stop
    with pytest.raises(KeyboardInterrupt):
        make_all(cases(tmp_path), tmp_path, {"train_detector": script})
    assert [find_outcome(case, tmp_path).state for case in cases(tmp_path)] == [
        *("complete", "complete", "missing", "missing")
    ]


# --- the command ---


def compare(out: Path, script: Made, *arguments: str) -> int:
    """The comparison of distances on the phantom, made in no time."""
    asked = ["pretrained", "--datasets", "phantom", "--methods", "transformer", "gaussian", "knn, coreset"]
    asked += ["--seeds", "2", "--out", str(out), "--set", "autoencoder.backbone=/models/net", *arguments]
    return detectors.main(asked, {"train_detector": script})


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, out = Made(tmp_path / "runs"), tmp_path / "out"
    assert compare(out, script, "--report-only") == 0
    assert not script.calls
    assert "phantom-gaussian-1: missing" in (out / "RESULTS.md").read_text()

    script.before = lambda case: 1 / (case.name != "phantom-gaussian-1")
    assert compare(out, script) == 1
    printed = capsys.readouterr()
    assert "| transformer - gaussian " in printed.out
    assert str(out / "RESULTS.md") in printed.out
    assert "phantom-gaussian-1 failed: ZeroDivisionError" in printed.err
    text = (out / "RESULTS.md").read_text()
    parts = [
        GENERATED,
        "# Does a trained detector",
        "| transformer - knn, coreset ",
        "## Method",
        "--seeds 2",
    ]
    parts += ["## Limits", "phantom-gaussian-1: failed (ZeroDivisionError"]
    places = [text.find(part) for part in parts]
    assert -1 not in places, parts[places.index(-1)]
    assert places == sorted(places)
    with (out / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows].count("failed") == 1
    assert len(rows) == 6
    assert rows[0]["image_AUROC"] == "0.5"
    assert "knn_image_AUROC" not in rows[0]  # of a detector that stands beside it

    (out / "RESULTS.md").write_text("By hand: *it depends*.\n")
    script.before = lambda _: None
    assert compare(out, script) == 0
    assert (out / "RESULTS.md").read_text() == "By hand: *it depends*.\n"
    assert "| gaussian " in (out / "RESULTS.new.md").read_text()
    assert "failed" in (out / "runs.csv").read_text()  # as it was when the text was written
    assert "failed" not in (out / "runs.new.csv").read_text()


def test_list_prints_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = Made(tmp_path)
    assert compare(tmp_path, script, "--list", "--set", "device=cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("python train_detector.py dataset=phantom") for line in lines)
    assert lines[1].endswith("device=cpu detector=gaussian seed=0")
    assert not script.calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rdna", "--datasets", "moon"], "--datasets moon is unknown: choose among phantom, bottle"),
        (["rdna", "--datasets", "bottle", "--data", "nowhere"], "bottle: nowhere/mvtec/bottle is missing"),
        (["rdna", "--datasets", "phantom", "--seeds", "0"], "--seeds 0 must be at least 1"),
        (
            ["rdna", "--datasets", "phantom", "--set", "detector.depth"],
            "--set detector.depth: write it as key",
        ),
        (
            ["rdna", "--datasets", "phantom", "--set", "detector.stepz=3"],
            "detector.stepz=3 is an unknown key",
        ),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        return detectors.main([*arguments, "--out", str(tmp_path)], {"train_detector": Made(tmp_path)})

    with pytest.raises(SystemExit) as stopped:
        run_command("detectors", main)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmarks.detectors: ")
    assert message in line


def test_a_full_disk_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise OSError(28, "No space left on device", "study/RESULTS.md")

    with pytest.raises(SystemExit) as left:
        run_command("detectors", main)
    assert left.value.code == 2
    told = "the system refused: [Errno 28] No space left on device: 'study/RESULTS.md'"
    assert capsys.readouterr().err == f"benchmarks.detectors: {told}\n"


def test_ctrl_c_is_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        run_command("detectors", main)
    assert stopped.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_name_stands_for_its_classes() -> None:
    known = dict.fromkeys(["mnist_0", "mnist_1", "mnist", "digits_0", "digits_1"])
    assert choose("--datasets", ["mnist", "digits", "digits_1"], known) == ["mnist", "digits_0", "digits_1"]


# --- comparisons of detectors ---


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_key_of_the_comparisons_exists(name: str, tmp_path: Path) -> None:
    study = STUDIES[name]
    for data in study.datasets.values():
        _made(tmp_path / (data.needs or ""))
    kinds = {data.partition("_")[0]: data for data in study.datasets}
    asked = [name, "--data", str(tmp_path), "--seeds", "1", "--datasets", *kinds.values()]
    options = detectors.parse(detectors.parser(), asked)
    made = detectors.cases_of(study, options)
    assert len({case.name for case in made}) == len(made) == len(kinds) * len(study.methods)
    assert {name for pair in study.differences for name in pair} <= study.methods.keys()
    met: set[str] = set()
    for case in made:  # a composition takes a tenth of a second, and keys don't depend on others
        if not {*case.place, case.method} <= met:
            composed(case)
            met |= {*case.place, case.method}


def test_a_methods_own_keys_come_last(tmp_path: Path) -> None:
    asked = [
        "rdna",
        "--datasets",
        "phantom",
        "--out",
        str(tmp_path),
        "--set",
        "detector.adversarial_weight=0.3",
    ]
    options = detectors.parse(detectors.parser(), asked)
    for case in detectors.cases_of(STUDIES["rdna"], options):
        weights = [key for key in case.arguments if key.startswith("detector.adversarial_weight=")]
        assert weights[-1].endswith("=0" if case.method == detectors.PLAIN else "=0.3")


@pytest.mark.slow
def test_a_real_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["rdna", "--datasets", "phantom", "--seeds", "1", "--out", str(tmp_path / "out"), "--set"]
    asked += [
        "dataset.train=24",
        "dataset.valid=16",
        "dataset.test=12",
        "dataset.size=32",
        "detector.steps=2",
    ]
    asked += [
        "detector.batch_size=4",
        "autoencoder.steps=2",
        "autoencoder.width=8",
        "threads=1",
        "device=cpu",
    ]
    assert detectors.main(asked) == 0
    first = capsys.readouterr().out
    assert "| rdna - without discriminators | 1 " in first
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/runs/phantom/*/*/metrics.json")}
    assert len(runs) == 4  # they share an autoencoder
    assert detectors.main(asked) == 0
    assert capsys.readouterr().out == first
    assert runs == {
        path: path.stat().st_mtime_ns for path in tmp_path.glob("out/runs/phantom/*/*/metrics.json")
    }
