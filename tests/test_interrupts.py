"""Ctrl-C and kills inside trainings: where they take effect, and what is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from learner_configs import small_learner, worlds
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

from agents.learners.training import learn
from latent_common.artifacts import load_artifact, save_artifact, write_json
from latent_common.errors import UserError
from latent_common.progress import progress_bar
from latent_common.training_state import Progress, TrainingState
from latent_env.training import loop
from latent_env.training.loop import follow
from latent_env.training.run_folder import Run
from stages.agents.learners import make_learner

CHECKPOINT, STEPS = "checkpoint", 4


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Training:
    """Four steps that fit a line, in a run of their own."""

    def __init__(self, folder: Path) -> None:
        self.run = Run(folder, "digits", "autoencoder", "line", {})
        self.run.begin()
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)
        self.state = TrainingState(self.model, 0.1, STEPS, seed=0)
        self.done: list[int] = []

    def steps(self, interrupted_after: int | None = None) -> Iterator[Progress]:
        """The training; Ctrl-C is pressed when the loop asks for what follows that step."""
        while self.state.step < STEPS:
            inputs = torch.rand(8, 2, generator=self.state.generator)
            loss = functional.mse_loss(self.model(inputs), inputs.sum(1, keepdim=True))
            rate = self.state.minimise(loss)
            self.done.append(self.state.step)
            yield Progress(self.state.step, STEPS, {"total": loss.detach()}, rate, {})
            if self.state.step == interrupted_after:
                press_ctrl_c()

    def follow(self, interrupted_after: int | None = None) -> None:
        follow(self.run, "line", self.steps(interrupted_after), self.state)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_ctrl_c_stops_a_training_after_any_step(step: int, tmp_path: Path) -> None:
    whole = Training(tmp_path / "whole")
    whole.follow()
    stopped = Training(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        stopped.follow(interrupted_after=step)
    again = Training(tmp_path / "stopped")
    again.follow()
    assert stopped.done + again.done == [1, 2, 3, 4]
    assert torch.equal(again.model.weight, whole.model.weight)


def test_a_finished_training_is_kept_until_its_result_is(tmp_path: Path) -> None:
    """A kill while the result is measured, drawn or stored costs no step."""
    first = Training(tmp_path)
    first.follow()
    again = Training(tmp_path)
    again.follow()
    assert again.done == []
    assert torch.equal(again.model.weight, first.model.weight)
    again.run.finish({})
    assert not list(again.run.path.glob(f"{CHECKPOINT}*"))


@pytest.mark.parametrize(
    "wrong", [{"step": torch.tensor(5)}, {"step": torch.tensor(-1)}, {"generator": None}]
)
def test_a_checkpoint_that_cant_be_is_refused(wrong: dict[str, torch.Tensor | None], tmp_path: Path) -> None:
    Training(tmp_path).follow()
    again = Training(tmp_path)
    tensors, facts = load_artifact(again.run.path, CHECKPOINT, CHECKPOINT)
    kept = {name: tensor for name, tensor in {**tensors, **wrong}.items() if tensor is not None}
    save_artifact(again.run.path, CHECKPOINT, CHECKPOINT, kept, facts)
    with pytest.raises(UserError, match=r"checkpoint that isn't of this training: delete it"):
        again.follow()


@pytest.mark.parametrize("name", ["ppo", "mpo", "decision_transformer"])
@pytest.mark.parametrize("rollout", [1, 2])
def test_ctrl_c_stops_a_learner_in_its_last_update(name: str, rollout: int, tmp_path: Path) -> None:
    settings = small_learner(name, **({"learning_starts": 1} if name == "mpo" else {}))
    model, steps = make_learner(settings, worlds(), seed=0), 4 * settings.n_steps
    train, updates = model.train, []  # type: ignore[attr-defined]

    def interrupted(*args: int, **settings: int) -> None:
        updates.append(train(*args, **settings))
        if len(updates) == rollout:
            press_ctrl_c()

    model.train = interrupted  # type: ignore[attr-defined]
    kept: list[int] = []
    with pytest.raises(KeyboardInterrupt), progress_bar("test", 2 * steps, hidden=True) as bar:
        learn(
            model, SummaryWriter(str(tmp_path)), 2 * steps, bar, lambda: kept.append(model.num_timesteps), 0.1
        )
    assert kept == [model.num_timesteps]


@pytest.mark.parametrize("script", ["train_ae.py", "train_detector.py", "train_ppo.py", "stages/prepare.py"])
def test_ctrl_c_while_libraries_are_loaded_is_one_line(script: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    code = f"import runpy; runpy.run_path({str(ROOT / script)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 130
    assert done.stderr == "\nstopped: the same command goes on from what is kept\n"


class Killed(BaseException):
    """The process is gone."""


def test_a_curve_has_one_point_a_step_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was logged after the last checkpoint is logged again."""
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    first = Training(tmp_path)

    def killed() -> Iterator[Progress]:
        for progress in first.steps():
            monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0 if progress.step == 2 else 100.0)
            if progress.step == 4:
                first.run.writer.flush()
                raise Killed
            yield progress

    with pytest.raises(Killed):
        follow(first.run, "line", killed(), first.state)
    again = Training(tmp_path)
    again.follow()
    again.run.writer.flush()
    assert again.done == [3, 4]
    events = EventAccumulator(str(again.run.path)).Reload()
    assert [event.step for event in events.Scalars("losses/total")] == [1, 2, 3, 4]


IMPORTS = """
import stages.cli.early
from stages.cli.mistakes import mistakes_told

def load(cause):
    # As pybind11 does where Ctrl-C meets the initialisation of a module.
    raise ImportError("initialization failed") from cause
"""


@pytest.mark.parametrize("first", ["", "with mistakes_told('train_ae'): "])
@pytest.mark.parametrize("cause", [KeyboardInterrupt, ValueError])
def test_ctrl_c_while_a_library_is_initialised(first: str, cause: type[BaseException]) -> None:
    code = f"{IMPORTS}\n{first}load({cause.__name__}())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    stopped = cause is KeyboardInterrupt
    assert done.returncode == (130 if stopped else 1)
    assert ("stopped: " in done.stderr, "Traceback" in done.stderr) == (stopped, not stopped)


def test_an_embedding_is_written_anew_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, pictures = torch.rand(4, 3), torch.rand(4, 1, 2, 2)

    def written(root: Path) -> dict[str, bytes]:
        run = Run(root, "digits", "part", "line", {})
        run.embedding("latents", vectors, list("abcd"), pictures)
        folder = run.path / "00000" / "latents"
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    expected = written(tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        patch.setattr("torch.utils.tensorboard.writer.make_mat", interrupted)
        with pytest.raises(KeyboardInterrupt):
            written(tmp_path / "stopped")
    assert written(tmp_path / "stopped") == expected
    assert capsys.readouterr().out == ""


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path / 'kept.json'}'"):
        write_json(tmp_path / "kept.json", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("thread", "told"), [("_AsyncWriterThread", False), ("Other", True)])
def test_a_full_disk_shows_no_traceback_of_tensorboards_thread(thread: str, told: bool) -> None:
    """TensorBoard raises it again in the main thread, which says it in a line."""
    code = (
        "import stages.cli.early, threading\n"
        f"class {thread}(threading.Thread):\n"
        "    def run(self): raise OSError(28, 'No space left on device')\n"
        f"thread = {thread}(); thread.start(); thread.join()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert ("Traceback" in done.stderr) == told
