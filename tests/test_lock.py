"""One process works in a folder, others wait, and what a killed one leaves behind is removed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY, RunHere, make_world

import train_ae
from latent_common.artifacts import load_artifact, save_artifact
from latent_common.lock import LOCK, locked, remove_abandoned
from latent_env.training.run_folder import Run
from latent_env.worlds.store import copy_world, save_world

HOLDER = """
import sys
from pathlib import Path
from latent_common.artifacts import load_artifact, save_artifact
from latent_common.lock import locked

with locked(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.readline()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until it is sent a line."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_who_comes_second_waits_and_says_for_whom(tmp_path: Path) -> None:
    path = tmp_path / LOCK
    with locked(path) as waited, locked(path) as again:  # which a process may
        assert (waited, again) == (False, False)
        second = holder(path)
        assert second.stderr is not None
        line = second.stderr.readline()
        assert line.startswith(f"waiting: process {os.getpid()} on ")
        assert f" works in {tmp_path} since 20" in line
        assert second.poll() is None
    assert said(second) == "mine\n"
    assert path.exists()
    second.communicate("go\n", timeout=20)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    first = holder(tmp_path / LOCK)
    assert said(first) == "mine\n"
    first.kill()
    first.communicate(timeout=20)
    began = time.perf_counter()
    with locked(tmp_path / LOCK) as waited:
        assert not waited
        assert time.perf_counter() - began < 5
    assert list(tmp_path.iterdir()) == []


def test_only_a_lock_that_nobody_holds_is_removed(tmp_path: Path) -> None:
    remove_abandoned(tmp_path / LOCK)  # there is none
    first = holder(tmp_path / LOCK)
    assert said(first) == "mine\n"
    remove_abandoned(tmp_path / LOCK)
    assert (tmp_path / LOCK).exists()
    first.kill()
    first.communicate(timeout=20)
    remove_abandoned(tmp_path / LOCK)
    assert list(tmp_path.iterdir()) == []


def test_where_there_are_no_locks_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("latent_common.lock.fcntl", None)
    with locked(tmp_path / LOCK):
        pass
    assert f"{tmp_path} can't be locked here" in capsys.readouterr().err


def leave_behind(folder: Path) -> None:
    """What a process leaves in the folder of a run when it is killed at the worst moments."""
    for part in (folder, folder / "part"):
        part.mkdir(parents=True, exist_ok=True)
        (part / ".detector.json.0123abcd").touch()
        (part / LOCK).touch()
    (folder / "part" / LOCK).unlink()
    save_artifact(folder, "kept", "kept", {"a": torch.ones(1)}, {})
    (folder / "kept.safetensors").rename(folder / "kept.next.safetensors")  # stopped after it had committed
    (folder / "undone.next.safetensors").touch()
    (folder / ".mine").touch()


@pytest.mark.parametrize("complete", [False, True])
def test_what_killed_processes_leave_behind_is_removed(complete: bool, tmp_path: Path) -> None:
    run = Run(tmp_path, "digits", "detector", "any", {})
    leave_behind(run.path)
    save_artifact(run.path, "checkpoint", "checkpoint", {"a": torch.ones(1)}, {})
    if complete:
        (run.path / "metrics.json").write_text("{}")
    with run.claimed() as missing:
        assert missing != complete
    left = {str(path.relative_to(run.path)) for path in run.path.rglob("*")}
    expected = {"kept.json", "kept.safetensors", ".mine", "part"}
    state = {"metrics.json"} if complete else {"checkpoint.json", "checkpoint.safetensors"}
    assert left == expected | state
    assert float(load_artifact(run.path, "kept", "kept")[0]["a"]) == 1


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Nobody looks for hidden files in a folder that is given away."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        save_world(folder, make_world())
    for name in (".world.json.0123abcd", ".detector.json.0123abcd", ".images.next.safetensors.0123abcd"):
        (second / name).touch()
    (second / ".mine.0123abcd").touch()
    copy_world(first, second)
    assert {path.name for path in second.iterdir()} == {path.name for path in first.iterdir()} | {
        ".mine.0123abcd"
    }


def test_half_of_a_checkpoint_that_was_being_removed_is_removed(tmp_path: Path) -> None:
    run = Run(tmp_path, "phantom", "agent", "ppo", {})
    for folder in (run.path, run.path / "with_agent_0.5"):
        folder.mkdir(parents=True)
        (folder / "checkpoint.safetensors").write_bytes(b"half")
    with run.locked():
        assert not list(run.path.rglob("checkpoint.*"))


def test_what_another_process_writes_in_a_part_is_left_alone(tmp_path: Path) -> None:
    run = Run(tmp_path, "digits", "detector", "any", {})
    part = run.part("reward-ensemble/round_1")
    with part.locked():
        (part.path / ".detector.json.0123abcd").touch()
        with run.claimed():
            assert (part.path / ".detector.json.0123abcd").exists()
            assert (part.path / LOCK).exists()


@pytest.mark.slow
def test_one_of_three_commands_works_and_the_others_use_it(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train_detector.py"), *TINY]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=tmp_path, **pipes) for _ in range(3)]
    results = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], results
    assert len({out for out, _ in results}) == 1
    assert sum("detector: using" in err for _, err in results) == 2
    assert not list(tmp_path.rglob(f"*{LOCK}"))


def test_a_finished_run_may_lie_where_nothing_can_be_written(
    tmp_path: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["dataset=digits", "device=cpu", "threads=1", "autoencoder.steps=4", "autoencoder.width=8"]
    first = run_here(train_ae.main, "train_ae", *small, cwd=tmp_path)
    assert first[0] == 0, first
    opened, made = os.open, os.mkdir

    def refuse(path: Any, does: bool) -> None:
        if does and str(Path(path).absolute()).startswith(str(tmp_path)):
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    def no_open(path: Any, flags: int, *rest: Any, **others: Any) -> int:
        refuse(path, bool(flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)))
        return opened(path, flags, *rest, **others)

    def no_mkdir(path: Any, *rest: Any, **others: Any) -> None:
        refuse(path, not Path(path).exists())
        made(path, *rest, **others)

    monkeypatch.setattr("os.open", no_open)
    monkeypatch.setattr("os.mkdir", no_mkdir)
    again = run_here(train_ae.main, "train_ae", *small, cwd=tmp_path)
    assert (again[0], again[1]) == (0, first[1]), again
    code, _, log = run_here(train_ae.main, "train_ae", *small, "seed=1", cwd=tmp_path)
    assert code == 2
    assert "runs: can't write to runs/digits/autoencoder/" in log
    assert "(Read-only file system): name another folder with runs=" in log
