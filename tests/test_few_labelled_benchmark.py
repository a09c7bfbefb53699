"""``python -m benchmarks.few_labelled``: what is run, and what is pooled over sets of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.cases import Case
from benchmarks.few_labelled import cases_of, datasets_of, main, parser
from benchmarks.scripts import composed
from detectors.metrics import image_AUROC
from detectors.metrics.intervals import over_sets
from latent_common.artifacts import write_json
from latent_common.errors import UserError
from latent_env.training.evaluation import save_scores
from latent_env.worlds.store import COMPLETE

LABELS = np.repeat([0, 1], [30, 20])
STRENGTH = {"scores": 2.0, "scores_gaussian": 0.5, "scores_probe": 1.5}
"""By how much anomalies stand out to a detector."""


def finished(folder: Path) -> Path:
    """What a run leaves of its scores and figures."""
    seed = sum(map(ord, folder.name))
    noise = np.random.default_rng(seed).normal(size=50)
    scores = {name: strength * LABELS + noise for name, strength in STRENGTH.items()}
    folder.mkdir(parents=True)
    save_scores(folder, LABELS, **scores)
    figures = {}
    for name, own in scores.items():
        prefix = name.removeprefix("scores").removeprefix("_")
        figures[f"{prefix}_image_AUROC".removeprefix("_")] = image_AUROC(own, LABELS)
        figures[f"{prefix}_pixel_AUPRO".removeprefix("_")] = STRENGTH[name] / 4
    write_json(folder / COMPLETE, figures)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path / "data"


def asked(data: Path, *more: str) -> list[str]:
    own = ["--datasets", "first=one", "second=two", "--seeds", "3", "--methods", "default"]
    return ["--data", str(data), "--backbone", "net", "--out", str(data.parent / "out"), *own, *more]


def pooled(printed: str, count: str) -> dict[str, list[str]]:
    """The rows of the table over both sets for a number of labelled anomalies, by what they compare."""
    rows = [line.split(" | ") for line in printed.splitlines() if " - " in line]
    return {row[1].strip(): row for row in rows if row[0].strip() == f"| {count}" and row[2].strip() == "2"}


def test_the_default_stands_beside_its_members_and_those_that_ignore_labels(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = data.parent / "out"

    def script(case: Case) -> Path:
        return finished(out / case.name)

    assert main(asked(data, "--counts", "0", "5"), {"train_detector": script}) == 0
    of_all = pooled(capsys.readouterr().out, "5")
    assert set(of_all) == {"default - gaussian", "default - probe"}
    assert of_all["default - gaussian"][-3].startswith("**+")
    assert of_all["default - gaussian"][-1].startswith("**+0.3750 (+0.3750 to +0.3750)**")
    assert (out / "RESULTS.md").is_file()


def test_copies_are_compared_with_the_default_and_all_that_stand_beside_it(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = data.parent / "out"

    def detector(case: Case) -> Path:
        return finished(out / case.name)

    def agent(case: Case) -> Path:
        assert {"autoencoder.weights=tiny", "detector.backbone=net"} <= set(case.arguments)
        folder = out / case.name
        folder.mkdir(parents=True)
        scores = {"with": 3.0 * LABELS + np.random.default_rng(case.seed).normal(size=50)}
        save_scores(folder, LABELS, **scores)
        figures = {"image_AUROC": image_AUROC(scores["with"], LABELS), "pixel_AUPRO": 0.75}
        write_json(folder / COMPLETE, figures | {"gain_pixel_AUPRO": 0.25})
        return folder

    keys = ["--methods", "default", "copies", "--weights", "tiny", "--counts", "0", "5"]
    assert main(asked(data, *keys), {"train_detector": detector, "train_ppo": agent}) == 0
    printed = capsys.readouterr().out
    of_all = pooled(printed, "5")
    assert set(of_all) == {
        *("default - gaussian", "default - probe", "copies - default", "copies - gaussian", "copies - probe")
    }
    assert of_all["copies - default"][-1].startswith("**+0.2500 (+0.2500 to +0.2500)**")
    assert set(pooled(printed, "0")) == {"default - gaussian", "default - probe"}


def test_copies_need_a_generator(data: Path) -> None:
    with pytest.raises(UserError, match="--methods copies needs --weights"):
        cases_of(parser().parse_args(asked(data, "--methods", "copies")))
    named = ["--data", str(data), "--backbone", "net", "--out", "out", "--datasets", "first=one"]
    usual = parser().parse_args(named)
    assert {case.method for case in cases_of(usual)} == {"default", "supersimple", "transformer"}
    usual.weights = "tiny"
    config = composed(next(case for case in cases_of(usual) if case.method == "copies"))
    assert (config.agent.name, config.env.edits, config.detector.name) == ("random", "pastes", "panel")


def test_every_run_composes_and_counts_share_one_test_split(data: Path) -> None:
    options = parser().parse_args(asked(data))
    cases = cases_of(options)
    assert len(cases) == 3 * 4 * 2
    assert len({case.name for case in cases}) == len(cases)
    config = composed(cases[-1])
    assert config.detector.name == "panel"
    assert (config.track, config.labelled.count, config.labelled.seed) == ("few_labelled", 10, 2)
    assert {case.arguments[1] for case in cases} == {"dataset.root=one", "dataset.root=two"}


@pytest.mark.parametrize("name", ["=one", "mine=", "oracle"])
def test_data_sets_that_can_not_be(name: str) -> None:
    with pytest.raises(UserError, match="--datasets"):
        datasets_of([name])


def test_a_pooled_interval_grows_with_what_sets_differ_by() -> None:
    alike = [np.full(5, 0.1)] * 4
    assert (over_sets(alike).low, over_sets(alike).high) == pytest.approx((0.1, 0.1))
    varied = [np.full(5, value) for value in (0.0, 0.1, 0.1, 0.2)]
    estimate = over_sets(varied)
    assert estimate.mean == pytest.approx(0.1)
    assert estimate.low is not None
    assert estimate.high is not None
    assert 0 <= estimate.low < 0.06 < 0.14 < estimate.high <= 0.2
    noisy = np.random.default_rng(0).normal(0.1, 0.5, (5, 1000))
    wider = over_sets(alike, [noisy] * 4)
    assert wider.low is not None
    assert wider.low < 0
