"""`report.html`: one whole page, its figures those of report.json, and nothing in it that isn't escaped."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_PPO, RunHere, make_world
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

import train_ppo
from agents.rollout import Augmented
from latent_env.data import Dataset, Split
from latent_env.data.groups import kind_of
from latent_env.training.evaluation import Evaluation, evaluate
from latent_env.training.run_folder import Run
from latent_env.worlds.thresholds import Decision
from stages.augmentation.comparison import compare, compare_normal_only
from stages.augmentation.page.document import Outcome, write_report_page
from stages.augmentation.pictures.sheets import Examples
from stages.augmentation.report import Report, write_report
from stages.detector.labelled_split import LabelledSplit
from stages.detector.thresholds import ThresholdReport
from stages.report.events import logged
from stages.report.words import change, counted, figure, headline, interval, percent, signed

SIZE = 32
HOSTILE = '<script>alert("&")</script>'
VOID = {"br", "img", "meta"}
LOADS = {"src", "href", "data", "action", "poster", "srcset", "background", "xlink:href"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    section: str
    text: str = ""


class Page(HTMLParser):
    """The elements of a page in order, each with all text inside it; every one must be closed in turn."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        around = self.open[-1].section if self.open else ""
        found = Element(tag, attributes, (attributes["id"] or "") if tag == "section" else around)
        self.elements.append(found)
        if tag not in VOID:
            self.open.append(found)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for each in self.open:
            each.text += data

    def all(self, tag: str, section: str | None = None) -> list[Element]:
        return [each for each in self.elements if each.tag == tag and section in (None, each.section)]

    def section(self, identifier: str) -> str:
        (found,) = self.all("section", identifier)
        return found.text

    def row(self, section: str, heading: str) -> str:
        """The row of a table that begins with ``heading``."""
        return next(each.text for each in self.all("tr", section) if each.text.startswith(heading))


def split_of(labels: list[int], kinds: list[str], seed: int) -> Split:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (len(labels), 1, SIZE, SIZE), dtype=np.uint8)
    masks = np.zeros((len(labels), SIZE, SIZE), np.bool_)
    masks[np.array(labels) == 1, 8:14, 8:14] = True
    names = tuple(f"test/{kind}/{number}.png" for number, kind in enumerate(kinds))
    return Split(images, np.array(labels), masks, names)


def samples_of(count: int) -> Augmented:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([1, 1, 0] * count, dtype=torch.int64)
    masks = torch.zeros(len(labels), 1, SIZE, SIZE, dtype=torch.bool)
    masks[labels == 1, :, 4:9, 4:9] = True
    zeros = torch.zeros(len(labels), 1, 1, 1)
    return Augmented(
        torch.randint(0, 256, masks.shape, generator=generator).byte(),
        masks,
        zeros.bool(),
        labels,
        torch.arange(len(labels)) % 3,
        zeros,
        torch.rand(len(labels), generator=generator),
        torch.tensor([0, -1, -1] * count, dtype=torch.int64),
        torch.tensor([[True], [False], [False]] * count).view(-1, 1),
    )


@dataclass
class Made:
    """A run with a page."""

    path: Path
    dataset: Dataset
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def page(self) -> Page:
        return Page(self.path / "report.html")


def make_run(
    folder: Path,
    hostile: bool = False,
    thresholds: bool = True,
    maps: bool = True,
    samples: int = 5,
    normal_only: bool = False,
) -> Made:
    """A page of detectors that were never trained, on noise."""
    kinds = [HOSTILE.replace("/", "|"), "dent"] if hostile else ["scratch", "dent"]
    test = split_of([0, 0, 0, 1, 1, 1], ["good"] * 3 + [kinds[0], kinds[1], kinds[1]], 1)
    if normal_only:
        test = test.normal()
    train, valid = split_of([0] * 5, ["good"] * 5, 2), split_of([0, 0, 1, 1], ["good"] * 2 + kinds, 3)
    remarks = (f"{HOSTILE} was left out", "so was a\udcffb.png") if hostile else ()
    name = HOSTILE if hostile else "parts"
    dataset = Dataset(name, train, valid, test, native=((640, 480), (800, 480)), remarks=remarks)
    world = make_world()
    after = evaluate(world, test)
    before = Evaluation(test, after.scores[::-1].copy(), after.maps)
    if not maps:
        after = Evaluation(test, after.scores, None)
    normal = np.sort(after.scores[:3]) - 0.01
    anomalous = normal[1:] + 1 if normal_only else np.sort(after.scores[3:5])
    decision = Decision(normal, np.sort(normal), anomalous, name)
    made = samples_of(samples)
    facts = {
        **{
            "dataset": name,
            "agent": HOSTILE if hostile else "ppo",
            "seed": 3,
            "rounds": 2,
            "samples": len(made),
        },
        **{"anomalous_samples": int(made.labels.sum()), "coverage": 0.25, "duplicates": 0.125},
        **{"effective_rank": 7.4, "share_agent": 0.25, "share_random": 0.0},
        **{"detector_steps": 300, "detector_steps_with_samples": 900},
    }
    found = ThresholdReport(decision, test.labels, after.scores) if thresholds else None
    rows = compare(before, Evaluation(test, after.scores, before.maps))
    report = Report(
        "",
        compare_normal_only(len(test), found, found) if normal_only else rows,
        found,
        [
            {"shares": {}, "image_AUROC": 0.91, "margin": 0.02},
            {"shares": {"agent": 0.25}, "image_AUROC": 0.9277, "margin": 0.02},
        ],
        {} if normal_only else {"knn_image_AUROC": 0.8765, "knn_pixel_AUPRO": 0.5432},
        facts,
    )
    run = Run(folder, "parts", "agent", "ppo", {})
    with SummaryWriter(str(run.path)) as writer:
        for step in range(4):
            writer.add_scalar("reward/total", step * 0.5, 100 * step)
    write_report(run.path, report)
    examples = Examples(torch.from_numpy(valid.images[2:]), torch.from_numpy(valid.masks[2:])[:, None], True)  # type: ignore[index]
    labelled = LabelledSplit(np.array([2]), np.array([3]), np.array([], np.int64))
    outcome = Outcome(
        report, "learned from 25% by the agent", dataset, labelled, before, after, world, made, examples
    )
    write_report_page(run, outcome)
    return Made(run.path, dataset, json.loads((run.path / "report.json").read_text()))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_run(tmp_path_factory.mktemp("page"))


def test_nothing_is_loaded_from_anywhere(made: Made) -> None:
    page = made.page
    for each in page.elements:
        assert each.tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name, value in each.attributes.items():
            assert not name.startswith("on")
            if name in LOADS:
                assert value is not None
                assert value.startswith(("#", "data:image/"))
    assert "default-src 'none'" in page.source
    assert not re.search(r"url\(|@import|https?://", page.source)
    assert len(page.source) < 5 * 2**20


def test_everybody_can_read_it(made: Made) -> None:
    page = made.page
    assert page.source.startswith("<!DOCTYPE html>")
    assert page.all("html")[0].attributes["lang"] == "en"
    assert len(page.all("h1")) == 1
    identifiers = [each.attributes["id"] for each in page.elements if "id" in each.attributes]
    assert len(set(identifiers)) == len(identifiers)
    assert [each.attributes["href"] for each in page.all("a")] == [
        f"#{each.section}" for each in page.all("section")
    ]
    assert {each.attributes["aria-labelledby"] for each in page.all("section")} <= set(identifiers)
    for table in page.all("table"):
        assert table.attributes["role"] == "table"
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(each.text for each in page.all("caption"))
    assert all(each.attributes["alt"] for each in page.all("img"))
    assert len(page.all("title")) == 1 + len(page.all("svg"))
    for each in page.all("img"):
        kind, _, content = (each.attributes["src"] or "").partition(";base64,")
        with Image.open(BytesIO(base64.b64decode(content))) as image:
            assert kind == f"data:image/{(image.format or '').lower()}"
            assert image.size == (int(each.attributes["width"] or 0), int(each.attributes["height"] or 0))


def test_it_says_what_is_in_the_data(made: Made) -> None:
    page = made.page
    text = page.section("data")
    assert "32 × 32 pixels, in grey, with masks" in text
    assert "640 × 480 to 800 × 480" in text
    assert page.row("data", "train").startswith("train50")
    assert page.row("data", "valid").startswith("valid22")
    assert page.row("data", "test").startswith("test33")
    assert page.row("data", "dent") == "dent12"
    assert page.row("data", "scratch") == "scratch11"
    assert "detectors learned from 1" in text
    assert len(page.all("img", "data")) == 3


def test_before_and_after_are_those_of_the_report(made: Made) -> None:
    page = made.page
    names = {"image_AUROC": "Image AUROC", "image_AP": "Image AP", "pixel_AUPRO": "Pixel AUPRO"}
    for metric, name in names.items():
        found = made.report["metrics"][metric]
        row = page.row("comparison", name)
        between = [] if found["interval"] is None else [interval(*found["interval"])]
        for value in (figure(found["without"]), figure(found["with"]), signed(found["difference"]), *between):
            assert value in row
    main = made.report["metrics"]["image_AUROC"]
    told = change("image_AUROC", main["without"], main["with"], tuple(main["interval"]))
    assert told in page.all("header")[0].text
    assert page.row("comparison", "knn") == "knn.876.543"
    assert page.row("comparison", "25 % by the agent") == "25 % by the agent.928.020"


def test_thresholds_are_those_of_the_report(made: Made) -> None:
    page, found = made.page, made.report["thresholds"]
    for name, heading in (("false_alarms", "for 1"), ("best_f1", "best F1")):
        facts, test = found[name], found[name]["test"]
        row = page.row("threshold", heading)
        if facts["promised"] is not None:
            assert percent(facts["promised"]) in row
        assert f"{percent(facts['false_alarms_on_test'])} ({test['false_positives']} of 3)" in row
        assert f"({test['true_positives']} of 3)" in row
    counts = [
        each.text for each in page.all("tr", "threshold") if each.text.startswith(("normal", "anomalous"))
    ]
    tests = [found[name]["test"] for name in ("false_alarms", "best_f1")]
    for at, test in enumerate(tests):
        assert counts[2 * at] == f"normal{test['true_negatives']}{test['false_positives']}"
        assert counts[2 * at + 1] == f"anomalous{test['false_negatives']}{test['true_positives']}"
    assert "can't promise" in page.section("threshold")


def test_the_worst_cases_come_first(made: Made) -> None:
    page, test = made.page, made.dataset.test
    shown = [each.text for each in page.all("h4", "cases")]
    world_scores = evaluate(make_world(), test).scores
    anomalies = [test.names[row] for row in 3 + np.argsort(world_scores[3:], kind="stable")]
    normals = [test.names[row] for row in np.argsort(world_scores[:3], kind="stable")[::-1]]
    assert shown == anomalies + normals
    assert len(page.all("img", "cases")) == 2 * len(shown)
    assert page.section("cases").count("verdict: ") == len(shown)


def test_it_shows_what_the_agent_made(made: Made) -> None:
    page, text = made.page, made.page.section("samples")
    assert counted(made.report["samples"], "sample") in text
    for kind in ("Copies of labelled anomalies", "Perturbations", "Normal variations"):
        assert page.row("samples", kind)[len(kind) :].rpartition(".")[0].endswith("5")
    assert percent(made.report["duplicates"]) in text
    assert len(page.all("img", "samples")) == 4 * 6 + 4 * 6 + 2 * 3
    assert len(page.all("svg", "samples")) == 1


def test_commands_can_be_copied(made: Made) -> None:
    commands = [each.text for each in made.page.all("pre", "use")]
    assert f"latent-aug predict {made.path} photos/ --out checked" in commands
    python = next(each for each in commands if "load_detector" in each)
    compile(python, "page", "exec")
    assert repr(str(made.path)) in python


def test_names_are_escaped(tmp_path: Path) -> None:
    made = make_run(tmp_path, hostile=True)
    page = made.page
    assert not page.all("script")
    assert "<script" not in page.source
    assert page.all("h1")[0].text.startswith(f"{HOSTILE}: ")
    assert HOSTILE.replace("/", "|") in page.section("data")
    assert f"{HOSTILE} was left out" in page.section("data")
    assert "so was a\\udcffb.png" in page.section("data")
    assert any(HOSTILE.replace("/", "|") in (each.attributes["alt"] or "") for each in page.all("img"))


def test_without_thresholds_and_maps(tmp_path: Path) -> None:
    page = make_run(tmp_path, thresholds=False, maps=False).page
    assert "No threshold" in page.section("threshold")
    assert "raw score" in page.section("cases")
    assert "predict" not in page.section("use").replace("gym.make", "")


@pytest.mark.parametrize("thresholds", [True, False])
def test_without_anomalies_to_test_on(tmp_path: Path, thresholds: bool) -> None:
    made = make_run(tmp_path, thresholds=thresholds, normal_only=True)
    page = made.page
    assert page.all("h1")[0].text == "parts: no anomalies to test on"
    assert "All test images are normal" in page.section("comparison")
    assert not page.all("svg", "comparison")
    assert "Normal images with the highest scores" in page.section("cases")
    assert "nomalies with" not in page.section("cases")
    assert "anomalous ones downwards" not in page.section("threshold")
    assert not re.search(r"\bnan\b|undefined|0 of 0", page.source)
    rows = {"labelled_AUROC", "false_alarms"} if thresholds else set()
    assert set(made.report["metrics"]) == rows
    if thresholds:
        area = figure(made.report["metrics"]["labelled_AUROC"]["with"])
        assert page.row("comparison", "AUROC of labelled anomalies").count(area) == 2
        assert "3 normal test images were false alarms" in page.all("header")[0].text.replace("\xa0", " ")
        assert not [each for each in page.all("tr", "threshold") if each.text.startswith("anomalous")]


def test_an_agent_that_made_nothing(tmp_path: Path) -> None:
    page = make_run(tmp_path, samples=0).page
    assert not page.all("img", "samples")
    assert not page.all("table", "samples")


@pytest.mark.parametrize(
    ("before", "after", "between", "said"),
    [
        (
            0.942,
            0.957,
            (-0.002, 0.031),
            "rose from .942 to .957; 95 % interval of the difference −.002 to +.031: may be chance.",
        ),
        (0.942, 0.957, (0.002, 0.031), "beyond what the choice of test images explains."),
        (
            0.957,
            0.942,
            (-0.02, -0.001),
            "fell from .957 to .942; 95 % interval of the difference −.020 to −.001: worse",
        ),
        (1.0, 1.0, (0.0, 0.0), "stayed at 1.000: the same for every choice among these test images."),
        (0.5, 0.6, None, "rose from .500 to .600; no interval was computed."),
        (
            float("nan"),
            float("nan"),
            (float("nan"), float("nan")),
            "undefined: the test images are all of one class.",
        ),
    ],
)
def test_differences_in_words(before: float, after: float, between: Any, said: str) -> None:
    assert said in change("image_AUROC", before, after, between).replace("\N{NO-BREAK SPACE}", " ")


def test_figures_in_words() -> None:
    assert [figure(value) for value in (0.9424, 1.0, -0.0324, -0.0001, 10.5)] == [
        ".942",
        "1.000",
        "−.032",
        ".000",
        "10.500",
    ]
    assert [signed(value) for value in (0.015, -0.015, 0.0)] == ["+.015", "−.015", ".000"]
    assert [
        percent(share).replace("\N{NO-BREAK SPACE}", " ") for share in (0.03125, 0.15, 0.0, 1.0, 0.00025)
    ] == [*("3.1 %", "15 %", "0 %", "100 %", "0.025 %")]
    assert [headline(*ends) for ends in ((0.1, 0.2), (-0.1, 0.1), (-0.2, -0.1))] == [
        *("better with augmentation", "no difference that can be shown", "worse with augmentation")
    ]


def test_what_was_logged_is_read_back(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in (10, 20, 30):
            writer.add_scalar("a", step / 10, step)
            writer.add_scalar("b", 0, step)
            writer.add_image("c", np.zeros((3, 200, 200), np.uint8), step)
    (path,) = tmp_path.iterdir()
    assert logged(tmp_path, "a") == [(10.0, 1.0), (20.0, 2.0), (30.0, 3.0)]
    path.write_bytes(path.read_bytes()[:-7])
    assert logged(tmp_path, "a")[:2] == [(10.0, 1.0), (20.0, 2.0)]
    assert logged(tmp_path, "nothing") == []


@pytest.mark.slow
def test_a_run_writes_it(tmp_path: Path, run_here: RunHere) -> None:
    code, _, said = run_here(train_ppo.main, "train_ppo", *TINY_PPO, cwd=tmp_path)
    assert code == 0, said
    (path,) = tmp_path.glob("runs/*/agent/*/report.html")
    page, report = Page(path), json.loads(path.with_name("report.json").read_text())
    assert figure(report["metrics"]["image_AUROC"]["with"]) in page.row("comparison", "Image AUROC")
    assert [each.section for each in page.all("section")] == [
        *("data", "comparison", "threshold", "cases", "samples", "use", "facts")
    ]
    assert len(page.source) < 5 * 2**20


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("test/crack/000.png", "crack"),
        ("test/Ungood/img/000.png", "Ungood"),
        ("valid\\dent\\7.png", "dent"),
        ("test/00012", ""),  # drawn, or from an archive: a split is no kind
        ("7.png", ""),
    ],
)
def test_a_kind_is_a_folder_that_says_one(name: str, kind: str) -> None:
    assert kind_of(name) == kind
