"""The app in a real browser: an image is dropped, a slider moved, an action played, a sample rejected."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_runs import make_images, make_run
from conftest import ROOT

from stages.app.choosing import MadeSamples, View
from stages.export.selection import read_rejected

pytest.importorskip("gradio", reason="the app needs Gradio: pip install '.[app]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright drives the browser")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: Debian's package is called chromium"),
]

PATIENCE = 60_000
"""Milliseconds that anything may take: the machine may be busy."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("app") / "run")


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[str]:
    """The address at which ``latent-aug app`` serves the run; afterwards it is ended with Ctrl-C."""
    scratch = run.parent / "scratch"
    scratch.mkdir()
    words = [sys.executable, "-c", "import latent_aug; latent_aug.main()", "app", str(run), "--port", "0"]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "TMPDIR": str(scratch),
    }
    with subprocess.Popen(
        [*words, "--device", "cpu", "--threads", "1"],
        cwd=run.parent,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail("".join(said))
        yield found.group()
        assert list(scratch.glob("latent-aug-*"))
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().strip().endswith("ended")
        assert process.wait(timeout=60) == 0
    assert not list(scratch.glob("latent-aug-*"))  # what was dropped is gone
    assert {path.name for path in run.parent.iterdir()} == {"run", "scratch"}


@pytest.fixture
def page(served: str) -> Iterator[Any]:
    """The page in a browser, which asks nothing of any other machine."""
    elsewhere = []
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.set_default_timeout(PATIENCE)
        sync_api.expect.set_options(timeout=PATIENCE)
        opened.on(
            "request", lambda request: None if local(request.url, served) else elsewhere.append(request.url)
        )
        opened.goto(served)
        yield opened
        browser.close()
    assert not elsewhere


def local(url: str, served: str) -> bool:
    return url.startswith((served, "data:", "blob:"))


def test_a_person_uses_all_three_tabs(page: Any, run: Path, tmp_path: Path) -> None:
    expect = sync_api.expect
    normal, square = make_images(tmp_path)

    page.set_input_files("#inspect-files input[type=file]", [str(normal), str(square)])
    cards = page.locator(".la-card")
    expect(cards).to_have_count(2)
    expect(cards.nth(1)).to_contain_text(re.compile(r"anomaly.*square\.png.*score \.?\d.*p = 0\.\d", re.S))
    before = page.locator("#inspect-promise").inner_text()
    assert "normal images would be flagged" in before
    score = page.locator(".la-figures").first.inner_text()
    slider = page.locator("#inspect-rate input[type=range]")
    slider.focus()
    slider.press("End")
    expect(page.locator("#inspect-promise")).not_to_have_text(before)
    expect(page.locator(".la-figures").first).not_to_have_text(score)

    page.get_by_role("tab", name="Play").click()
    reward = page.locator("#play-reward")
    expect(reward).to_contain_text("target")
    page.locator("#play-nothing").click()
    expect(reward).to_contain_text("The latent moved by 0.00")
    strength = page.locator("#play-strength input[type=range]")
    strength.focus()
    strength.press("End")
    expect(reward).not_to_contain_text("The latent moved by 0.00")

    page.get_by_role("tab", name="Samples").click()
    tiles = page.locator("#samples-gallery .grid-container button")
    row = MadeSamples.open(run, None).rows(View())[2]
    tiles.nth(2).click()
    expect(page.locator("#samples-large")).to_contain_text(f"Sample {row}:")
    page.locator("#samples-reject").click()
    expect(page.locator("#samples-count")).to_contain_text("1 of")
    assert read_rejected(run) == {row}
    page.reload()
    page.get_by_role("tab", name="Samples").click()
    expect(page.locator("#samples-count")).to_contain_text("1 of")


def test_the_page_fits_a_phone(page: Any, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.set_input_files("#inspect-files input[type=file]", [str(path) for path in make_images(tmp_path)])
    for tab, seen in {
        "Inspect": ".la-card",
        "Play": "#play-reward table",
        "Samples": "#samples-large img",
    }.items():
        page.get_by_role("tab", name=tab).click()
        page.locator(seen).first.wait_for()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, f"{tab} is {wide} pixels wide"
