"""Preparing when it is interrupted, can't write, or isn't alone; and many files at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from numpy.typing import NDArray
from PIL import Image
from preparation_setup import (
    FolderSetup,
    add_image,
    check_clean,
    check_same,
    folder_of,
    make_source,
    random_samples,
)

from latent_common.errors import UserError
from latent_common.lock import LOCK
from latent_env.data import Dataset, Problems, prepare
from latent_env.data.prepared import preparation
from latent_env.data.prepared.decoding import AHEAD, MANY_FILES
from latent_env.data.prepared.split_files import SplitWriter
from latent_env.data.samples import ArraySample, Sample

# --- interruption ---


@dataclass(frozen=True)
class Scripted:
    """A sample whose decoding does something first."""

    index: int
    before: Callable[[], object]
    name: str = "scripted"
    label: int = 0
    kind: str = ""
    masked: bool = False

    def image(self, size: int) -> tuple[Image.Image, tuple[int, int]]:  # noqa: ARG002
        self.before()
        return Image.new("L", (8, 8), self.index % 256), (8, 8)

    def mask(self, native: tuple[int, int]) -> Image.Image:  # noqa: ARG002
        raise AssertionError("there is none")


def stop() -> None:
    raise KeyboardInterrupt


def fail() -> None:
    raise RuntimeError("a mistake in a reader")


@pytest.mark.parametrize(("act", "error"), [(stop, KeyboardInterrupt), (fail, RuntimeError)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_nothing_half_made_stays(
    act: Callable[[], None], error: type[BaseException], split: str, tmp_path: Path
) -> None:
    samples = [*random_samples(20, seed=1), Scripted(0, act), *random_samples(20, 1, seed=2)]
    source = make_source(**{split: samples}, channels=1)  # type: ignore[arg-type]
    with pytest.raises(error):
        prepare(source, 16, tmp_path, Problems())
    assert list(tmp_path.rglob("*")) == [tmp_path / "drawn"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


def test_an_interruption_leaves_what_was_there_before(
    files: FolderSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = files.load()
    content = {path.name: path.read_bytes() for path in folder_of(first).iterdir()}
    add_image(files.root)
    with monkeypatch.context() as patched:
        patched.setattr(preparation, "save_overview", lambda *_: stop())
        with pytest.raises(KeyboardInterrupt):
            files.load()
    assert {path.name: path.read_bytes() for path in folder_of(first).iterdir()} == content
    check_clean(files.prepared)


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    """A process that decodes for a minute stops at once."""
    code = f"""
import time
from pathlib import Path
from PIL import Image
from latent_env.data import Problems, Source, prepare

class Slow:
    label, kind, masked = 0, "", False
    def __init__(self, i):
        self.name = str(i)
    def image(self, size):
        time.sleep(0.1)
        if self.name == "20":
            print("running", flush=True)
        return Image.new("L", (8, 8)), (8, 8)

source = Source("drawn", {{"train": [Slow(i) for i in range(600)]}}, [], {{}}, 1)
prepare(source, 16, Path({str(tmp_path)!r}), Problems())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    assert list(tmp_path.glob("drawn/.*"))
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in log
    assert list(tmp_path.rglob("*")) == [tmp_path / "drawn"]


def test_only_old_leftovers_of_preparations_are_removed(tmp_path: Path) -> None:
    ours = prepare(make_source(), 16, tmp_path, Problems()).folder
    assert ours is not None
    names = {"old": f".{ours.name}.abcd1234", "moved": f".{ours.name}.x.old", "new": f".{ours.name}.efgh5678"}
    for name in (*names.values(), ".git", ".cache.old"):
        (ours.parent / name).mkdir()
        (ours.parent / name / "kept").touch()
        if name != names["new"]:
            os.utime(ours.parent / name, (time.time() - 25 * 3600,) * 2)
    prepare(make_source(), 24, tmp_path, Problems())
    hidden = {path.name for path in ours.parent.iterdir() if path.name.startswith(".")}
    assert hidden == {names["new"], ".git", ".cache.old"}
    assert (ours.parent / ".git" / "kept").exists()


def test_what_a_killed_preparation_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Such folders may be as large as the data set."""
    ours = folder_of(prepare(make_source(), 16, tmp_path, Problems()))
    ours.rename(ours.with_name(f".{ours.name}.abcd1234"))
    ours.with_name(f".{ours.name}.abcd1234.old").mkdir()
    ours.with_name(".git").mkdir()
    prepare(make_source(), 16, tmp_path, Problems())
    assert {path.name for path in ours.parent.iterdir()} == {ours.name, ".git"}


def test_a_lock_that_a_killed_preparation_left_is_removed_where_it_had_ended(tmp_path: Path) -> None:
    ours = folder_of(prepare(make_source(), 16, tmp_path, Problems()))
    ours.with_name(f".{ours.name}{LOCK}").touch()
    prepare(make_source(), 16, tmp_path, Problems())
    assert list(ours.parent.iterdir()) == [ours]


@pytest.mark.parametrize("what", ["a file", "a file in it", "no place"])
def test_a_folder_that_cannot_be_written_to_is_named(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    if what == "a file":
        folder.touch()
    elif what == "a file in it":
        folder.mkdir()
        (folder / "drawn").touch()
    else:
        folder = Path("/proc/nowhere")
    with pytest.raises(UserError, match=f"^prepared={folder}: can't write there"):
        prepare(make_source(), 16, folder, Problems())


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SplitWriter, "append", append)
    with pytest.raises(UserError, match=r"prepared=.*: can't write there \(No space left on device\)"):
        prepare(make_source(), 16, tmp_path, Problems())
    assert list(tmp_path.rglob("*")) == [tmp_path / "drawn"]


# --- several at once ---


def test_preparing_the_same_at_once_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "save_overview", lambda folder, _: (folder / "overview.png").touch())
    source = make_source()
    expected = prepare(source, 16, tmp_path / "alone", Problems()).fingerprint()
    together = threading.Barrier(3)
    found: list[str] = []

    def run(folder: Path) -> None:
        together.wait()
        dataset = prepare(source, 16, folder, Problems())
        found.append(replace(dataset, digest=None).fingerprint())

    for attempt in range(25):
        threads = [threading.Thread(target=run, args=[tmp_path / str(attempt)]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_clean(tmp_path / str(attempt))
    assert found == [expected] * 75


class Interleaving:
    """Two preparations of the same at once, "slow" and "quick", each in a thread, in the worst order.

    Slow decodes and is about to move its folder into place, or what is outdated out of the way; then quick
    does everything up to that its folder is in place, then slow does what it was about to. If slow moves
    quick's folder away, quick goes on only after that.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, moves: Callable[[Path], bool]) -> None:
        self.folder, self.moves = folder, moves
        self.quick_is_in_place, self.slow_has_moved = threading.Event(), threading.Event()
        self.datasets: dict[str, Dataset] = {}
        self.errors: list[BaseException] = []
        self.quick = threading.Thread(target=self.prepare, name="quick", daemon=True)
        self._really_replace = os.replace
        monkeypatch.setattr(os, "replace", self.replace)

    def replace(self, source: Path, target: Path) -> None:
        name = threading.current_thread().name
        if name == "slow" and self.moves(target) and not self.quick_is_in_place.is_set():
            self.quick.start()
            assert self.quick_is_in_place.wait(60)
        self._really_replace(source, target)
        if name == "slow":
            self.slow_has_moved.set()
        elif not is_hidden(target):
            self.quick_is_in_place.set()
            assert self.slow_has_moved.wait(60)

    def prepare(self) -> None:
        name = threading.current_thread().name
        try:
            self.datasets[name] = prepare(make_source(), 16, self.folder, Problems())
        except BaseException as error:
            self.errors.append(error)
        if name == "slow":
            self.slow_has_moved.set()

    def run(self) -> None:
        slow = threading.Thread(target=self.prepare, name="slow", daemon=True)
        slow.start()
        slow.join()
        self.quick.join()


def is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


@pytest.mark.parametrize("outdated", [False, True])
def test_two_that_prepare_the_same_in_the_worst_order_do_no_harm(
    outdated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = prepare(make_source(), 16, tmp_path / "alone", Problems())
    if outdated:
        (folder_of(prepare(make_source(), 16, tmp_path / "both", Problems())) / "prepared.json").unlink()
    moves = is_hidden if outdated else lambda target: not is_hidden(target)
    both = Interleaving(monkeypatch, tmp_path / "both", moves)
    both.run()
    assert both.errors == []
    for dataset in (both.datasets["slow"], both.datasets["quick"]):
        check_same(dataset, expected)
        assert folder_of(dataset) == folder_of(both.datasets["slow"])
    check_same(prepare(make_source(), 16, tmp_path / "both", Problems()), expected)
    check_clean(tmp_path / "both")


def test_what_another_process_finished_meanwhile_is_used(tmp_path: Path) -> None:
    plain = make_source()
    inner: list[Dataset] = []

    @dataclass(frozen=True)
    class Meanwhile(ArraySample):
        def image(self, size: int) -> tuple[Image.Image, tuple[int, int]]:
            inner.append(prepare(plain, 16, tmp_path, Problems()))
            (folder_of(inner[0]) / "mark").touch()
            return super().image(size)

    first = plain.splits["train"][0]
    assert isinstance(first, ArraySample)
    slow = make_source([Meanwhile(first.pixels, 0, first.name), *plain.splits["train"][1:]])
    # A probe of the colours decodes it too; from then on the other's preparation is ready.
    check_same(prepare(slow, 16, tmp_path, Problems()), inner[0])
    assert (folder_of(inner[0]) / "mark").exists()


def test_images_that_are_in_use_survive_a_new_preparation(files: FolderSetup) -> None:
    first = files.load()
    before = np.array(first.train.images)
    add_image(files.root)
    assert len(files.load().train) > len(first.train)
    assert np.array_equal(first.train.images, before)


# --- many files ---


@pytest.mark.parametrize("count", [MANY_FILES - 1, MANY_FILES])
def test_many_files_show_a_progress_bar(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_source(random_samples(count - 7), name="lots")
    prepare(source, 8, tmp_path / "1", Problems(), progress=False)
    assert not capsys.readouterr().err
    prepare(source, 8, tmp_path / "2", Problems())
    shown = capsys.readouterr().err
    assert ("preparing lots" in shown) == ("100%" in shown) == (count >= MANY_FILES)
    prepare(source, 8, tmp_path / "2", Problems())
    assert not capsys.readouterr().err


def test_the_order_is_kept_whatever_takes_longer(tmp_path: Path) -> None:
    rng = random.Random(0)
    waits = [rng.choice([0, 0, 0.001, 0.02]) for _ in range(200)]
    samples = [Scripted(i, partial(time.sleep, wait), str(i)) for i, wait in enumerate(waits)]
    train = prepare(make_source(samples), 8, tmp_path, Problems(), progress=False).train
    assert train.names == tuple(map(str, range(200)))
    assert train.images[:, 0, 0, 0].tolist() == list(range(200))


@dataclass
class Ledger:
    """How many images were decoded and not yet written, at most."""

    decoded: int = 0
    written: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def decode(self) -> None:
        with self.lock:
            self.decoded += 1
            self.most = max(self.most, self.decoded - self.written)


def test_memory_stays_bounded_when_writing_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    append = SplitWriter.append

    def slow(
        self: SplitWriter, image: NDArray[np.uint8], mask: NDArray[np.bool_] | None, label: int, name: str
    ) -> None:
        time.sleep(0.001)
        append(self, image, mask, label, name)
        ledger.written += 1

    monkeypatch.setattr(SplitWriter, "append", slow)
    monkeypatch.setattr("latent_env.data.prepared.decoding.cores", lambda: 2)
    samples: list[Sample] = [Scripted(i, ledger.decode) for i in range(400)]
    prepare(make_source(samples, channels=1), 8, tmp_path, Problems(), progress=False)
    assert ledger.decoded == 400
    assert 2 < ledger.most <= AHEAD * 2 + 2
