"""What several test files need: small real worlds, and the scripts run as a user runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import hypothesis
import pytest
import torch
from omegaconf import DictConfig
from preparation_setup import FolderSetup, make_folder
from small_datasets import SmallDataset, make_mvtec

import latent_env  # noqa: F401 - registers the environments
from detectors.transformer import TransformerDetector
from latent_env.autoencoders import ConvAutoencoder, FrozenAutoencoder
from latent_env.data import Source
from latent_env.data.prepared import preparation
from latent_env.data.prepared.decoding import decode_all
from latent_env.worlds.world import World
from stages.cli import launch

ROOT = Path(__file__).parents[1]
WORLDS = ["digits", "phantom"]


def pytest_configure() -> None:
    """Let Ctrl-C be heard, which is tested: a shell that puts tests in the background has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _screen() -> bool:
    """Whether a window could be opened."""
    try:
        import tkinter
    except ImportError:
        return False
    try:
        tkinter.Tk().destroy()
    except tkinter.TclError:
        return False
    return True


SCREEN = _screen()

hypothesis.settings.register_profile("ours", deadline=None)  # the machine may be busy
hypothesis.settings.load_profile("ours")
torch.set_num_threads(1)  # pytest-xdist brings its own parallelism


def make_world(latent: str = "spatial", size: int = 32, channels: int = 1, count: int = 12) -> World:
    """An untrained world: real architectures, random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvAutoencoder(channels, size, latent, latent_size=6, width=8)
        detector = TransformerDetector(channels, size, width=16, depth=1, heads=2)
        # Untrained, latents hardly differ, the decoder hardly answers to them, and the detector
        # scores all the same: larger weights at the right places make a world in which things happen.
        with torch.no_grad():
            model.encoder[-1].weight.mul_(100)
            model.decoder[0].weight.mul_(20)
            model.decoder[-1].weight.mul_(20)
            torch.nn.init.normal_(detector.out.weight, std=0.5)
        images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8)
    frozen = FrozenAutoencoder(model).calibrate(images)
    return World.build(frozen, detector.eval().requires_grad_(False), images, torch.device("cpu"))


@pytest.fixture
def spatial_world() -> World:
    return make_world("spatial")


@pytest.fixture
def flat_world() -> World:
    return make_world("flat")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder that holds all data sets, with others in it that are none of our business."""
    root = tmp_path / "data"
    (root / "other" / "train" / "good").mkdir(parents=True)
    (root / "notes.txt").write_text("no data set")
    return root


@pytest.fixture
def widget(tmp_path: Path) -> SmallDataset:
    """A small category in MVTec AD's layout."""
    return make_mvtec(tmp_path / "widget")


@pytest.fixture
def files(tmp_path: Path) -> FolderSetup:
    """A small folder of files that is to be prepared."""
    return FolderSetup(make_folder(tmp_path / "data" / "mine"), tmp_path / "prepared")


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sources that were decoded, in order."""
    done: list[str] = []

    def counting(source: Source, *rest: object) -> dict[str, object]:
        done.append(source.name)
        return decode_all(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(preparation, "decode_all", counting)
    return done


def run_script(
    *arguments: str, cwd: Path, check: bool = True, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """``python <script>.py …`` from ``cwd``, as a user calls it."""
    script, *rest = arguments
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("LATENT_AUG_DATA", None)
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *rest],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


class RunHere(Protocol):
    """A script in this process: a new one takes seconds to start, which is too long for every mistake."""

    def __call__(
        self, main: Callable[[DictConfig], None], script: str, *arguments: str, cwd: Path
    ) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[RunHere]:
    def run(
        main: Callable[[DictConfig], None], script: str, *arguments: str, cwd: Path
    ) -> tuple[int, str, str]:
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which a script sets
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        monkeypatch.setattr(sys, "path", [*sys.path])
        code = 0
        try:
            launch.run_script(main, script, None)
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
        return code, *capsys.readouterr()

    yield run
    torch.set_num_threads(1)  # a script picks its own


def later_wins(*arguments: str) -> list[str]:
    """The arguments, without those whose key a later one gives again: a command takes each key once."""
    return list({argument.lstrip("+").partition("=")[0]: argument for argument in arguments}.values())


TINY = [
    "dataset=digits",
    "device=cpu",
    "threads=1",
    "autoencoder.steps=40",
    "autoencoder.width=8",
    "detector.steps=20",
    "detector.width=16",
]
TINY_AGENT = [*TINY, "env.num_envs=8", "samples=64", "rounds=1"]
TINY_PPO = [*TINY_AGENT, "agent.total_steps=128", "agent.n_steps=8", "agent.batch_size=32"]
