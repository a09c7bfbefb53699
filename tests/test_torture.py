"""The torture: it lets careful commands pass, and finds what careless ones do wrong."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.torture import __main__ as torture
from benchmarks.torture import kills, surroundings
from benchmarks.torture.audit import Guard, Points
from benchmarks.torture.children import Ended, forked, run
from benchmarks.torture.kills import torture_with_kills
from benchmarks.torture.mistakes import Mistake, complaint, mistakes
from benchmarks.torture.scenarios import Scenario, Stage, printed_otherwise
from benchmarks.torture.surroundings import torture_with_crowds, torture_with_full_disks
from benchmarks.torture.tally import Tally
from benchmarks.torture.trees import differences, tree_of
from latent_common.lock import LOCK, locked
from stages.cli.mistakes import mistakes_told

NEVER = float("inf")
NAMES = ("a", "b", "c")


class Own(Scenario):
    """A command that is a function."""

    does: Callable[[], None]

    def action(self) -> Callable[[], None]:
        return self.does


def stage_of(does: Callable[[], None], folder: Path) -> dict[str, Stage]:
    scenario = Own("own", ())
    object.__setattr__(scenario, "does", does)
    return {"own": Stage(scenario, folder, None)}


def careful() -> None:
    """Writes three files such that whatever stops it, the next one ends it."""
    with mistakes_told("train_ae"), locked(Path(LOCK)):
        for name in NAMES:
            if not Path(name).exists():
                Path(f"{name}.new").write_text(name)
                os.replace(f"{name}.new", name)
    print("done")


def careless() -> None:
    """Takes a file that is there for a whole one."""
    for name in NAMES:
        if not Path(name).exists():
            with Path(name).open("w") as file:
                Path("log").touch()
                file.write(name)
    print("done")


@pytest.mark.parametrize(("does", "holds"), [(careful, True), (careless, False)])
def test_kills_find_files_that_are_not_whole(
    does: Callable[[], None], holds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kills, "REAL", 0)
    tally = Tally("kills")
    torture_with_kills(stage_of(does, tmp_path), tally, random.Random(0), 16, NEVER)
    assert tally.tried.total() >= 16 or not holds
    assert (not tally.failures) == holds, tally.failures


def deaf() -> None:
    """Goes on after Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in range(40):
        Path(str(number)).touch()


def test_swallowed_ctrl_c_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "REAL", 0)
    monkeypatch.setattr(kills, "SIGNALS", (signal.SIGINT,))
    tally = Tally("kills")
    torture_with_kills(stage_of(deaf, tmp_path), tally, random.Random(0), 8, NEVER)
    assert any("swallowed Ctrl-C" in each for each in tally.failures)


def crowded() -> None:
    """Counts in a file without a lock."""
    path = Path("count")
    now = int(path.read_text()) if path.exists() else 0
    time.sleep(0.02)
    path.write_text(str(now + 1))


@pytest.mark.parametrize(("does", "holds"), [(careful, True), (crowded, False)])
def test_crowds_find_what_has_no_lock(does: Callable[[], None], holds: bool, tmp_path: Path) -> None:
    tally = Tally("crowds")
    torture_with_crowds(stage_of(does, tmp_path), tally, random.Random(0), 3, NEVER)
    assert tally.tried.total() == 3
    assert (not tally.failures) == holds, tally.failures


@pytest.mark.parametrize(("does", "holds"), [(careful, True), (careless, False)])
def test_full_disks_find_tracebacks(
    does: Callable[[], None], holds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surroundings, "_can_mount", lambda _: False)
    tally = Tally("disks")
    torture_with_full_disks(stage_of(does, tmp_path), tally, random.Random(0), 8, NEVER)
    assert (not tally.failures) == holds, tally.failures


def test_a_forked_process_is_as_one_of_its_own(tmp_path: Path) -> None:
    def action() -> None:
        print(Path.cwd().name, flush=True)
        print("wrong", file=sys.stderr)
        sys.exit(7)

    ended = run(action, tmp_path)
    assert (ended.code, ended.out, ended.err) == (7, f"{tmp_path.name}\n", "wrong\n")
    assert run(lambda: 1 / 0, tmp_path).traceback  # type: ignore[arg-type, return-value]
    hangs = run(lambda: time.sleep(60), tmp_path, limit=0.2)
    assert hangs.hung
    assert hangs.code == -signal.SIGKILL
    stopped = forked(lambda: time.sleep(60), tmp_path)
    time.sleep(0.2)
    stopped.send(signal.SIGTERM)
    assert stopped.wait().code == -signal.SIGTERM


def test_changes_are_counted(tmp_path: Path) -> None:
    def action() -> None:
        Path("a").write_text("a")
        Path("a").read_text()
        Path("a").rename("b")
        (tmp_path.parent / "beside").touch()

    points = Points(tmp_path)
    assert run(action, tmp_path, [points.install]).code == 0
    assert points.count == 2
    points = Points(tmp_path, 1, lambda _: sys.exit(3))
    assert run(action, tmp_path, [points.install]).code == 3
    assert points.where == "os.rename b"


@pytest.mark.parametrize(
    ("action", "seen"),
    [
        (lambda: Path("a").write_text("a"), ""),
        (lambda: Path("../beside").touch(), "open"),
        (lambda: Path("../secret/word").read_text(), "open"),
        (lambda: os.listdir("../secret"), "os.listdir"),
        (lambda: os.system("true"), "os.system"),
    ],
)
def test_what_leaves_a_folder_is_seen(action: Callable[[], None], seen: str, tmp_path: Path) -> None:
    for name in ("here", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret" / "word").write_text("")
    guard = Guard(tmp_path / "here", tmp_path / "secret")
    run(action, tmp_path / "here", [guard.install])
    assert guard.seen.split(" ")[0] == seen


def test_folders_compare_by_content(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_text("same")
        (tmp_path / name / name).write_text("")
        (tmp_path / name / "other").write_text(name)
    found = differences(tree_of(tmp_path / "one"), tree_of(tmp_path / "two"))
    assert found == ["different: other", "left over: two", "missing: one"]


def test_what_is_printed_compares_without_times() -> None:
    def ended(text: str) -> Ended:
        return Ended(0, text, "", 0.1)

    assert printed_otherwise(ended("in 2.5 s\nend\n"), ended("in 13.1 s\nend\n")) == []
    told = printed_otherwise(ended("end\n"), ended("warning\nend\n"))
    assert told == ["it prints 'warning' instead of 'end'"]
    assert printed_otherwise(ended("a\nb"), ended("a")) == ["it prints 'nothing' instead of 'b'"]


def test_what_a_study_says_of_its_making_is_no_difference(tmp_path: Path) -> None:
    trees = []
    for line in ("Commit abc; 0.1 hours. 3 runs", "Commit abc, not recorded; 2.0 hours. 3 runs", "else"):
        (tmp_path / "RESULTS.md").write_text(f"# Results\n\n{line}\n")
        trees.append(tree_of(tmp_path))
    assert differences(trees[0], trees[1]) == []
    assert differences(trees[0], trees[2]) == ["different: RESULTS.md"]


@pytest.mark.parametrize(
    ("code", "err", "wrong"),
    [
        (2, "train_ae.py: seed=x must be a whole number\n", ""),
        (0, "", "silence"),
        (2, "Traceback (most recent call last):\ntrain_ae.py: x\n", "traceback"),
        (1, "train_ae.py: x\n", "not one line"),
        (2, "something\n", "not one line"),
    ],
)
def test_how_a_mistake_must_be_told(code: int, err: str, wrong: str) -> None:
    assert wrong in complaint(Ended(code, "", err, 0.1))
    assert bool(complaint(Ended(code, "", err, 0.1))) == bool(wrong)


def test_there_are_many_mistakes() -> None:
    every = set(mistakes())
    assert len(every) > 500
    assert Mistake("train_ppo.py", ("agent.gamma=nan",)) in every
    assert "agent.gamma=0.9" not in Mistake("train_ppo.py", ("agent=mpo", "agent.gamma=nan")).words()


@pytest.mark.slow
def test_a_small_part_holds(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--effort", "0.01", "--stages", "prepare", "autoencoder"]
    assert torture.main(asked) == 0
    assert "kills: " in capsys.readouterr().out
