"""Watching over a training loop: progress bar, TensorBoard, checkpoints, and Ctrl-C."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from tqdm import tqdm

from latent_common.artifacts import load_artifact, save_artifact
from latent_common.errors import UserError
from latent_common.progress import progress_bar
from latent_common.training_state import Progress, TrainingState
from latent_env.training.run_folder import Run

LOG_EVERY = 10
VALIDATIONS = 5
CHECKPOINT_SECONDS = 30.0


COST_OF_A_STEP = 3
"""Passes through a network that learning from an image takes: one forward, about two backward."""

MOST_SPENT = 0.1
"""Of the time of a training, validation may take so much."""


def validation_interval(steps: int, batch_size: int, images: int) -> int:
    """Training steps between two validations on so many ``images``: about ``VALIDATIONS`` in all.

    Fewer if they would take more than a tenth of the training; but one, at the end, there always is.
    """
    affordable = MOST_SPENT * COST_OF_A_STEP * steps * batch_size / max(images, 1)
    return max(steps // max(min(VALIDATIONS, int(affordable)), 1), 1)


class Interrupt:
    """Whether Ctrl-C was pressed inside :func:`interrupt_deferred`."""

    requested = False


@contextmanager
def interrupt_deferred() -> Iterator[Interrupt]:
    """Hold the first Ctrl-C back until the loop asks for it; the second one acts at once.

    In the middle of a step the state is no place to go on from: a batch is drawn but not learned.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # signals reach the main thread only
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        interrupt.requested = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def follow(
    run: Run,
    label: str,
    training: Iterator[Progress],
    state: TrainingState,
    validate: Callable[[], Mapping[str, float]] | None = None,
    every: int | None = None,
) -> None:
    """Run a training loop to its end, from where an earlier command left it.

    ``validate`` is asked for scalars after ``every`` so many steps, else about ``VALIDATIONS`` times on the
    way.
    """
    _go_on(run, label, state)
    since = saved = time.perf_counter()
    spent: dict[str, float] = {}
    steps = 0
    every = every or max(state.total // VALIDATIONS, 1)
    with progress_bar(label, state.total, state.step) as bar, interrupt_deferred() as interrupt:
        for progress in training:
            bar.update()
            steps += 1
            for what, seconds in progress.seconds.items():
                spent[what] = spent.get(what, 0.0) + seconds
            if progress.step % LOG_EVERY == 0 or progress.step == progress.total:
                _report(run, label, bar, progress, spent, steps / (time.perf_counter() - since))
                since, spent, steps = time.perf_counter(), {}, 0
            if validate is not None and progress.step % every == 0:
                began = time.perf_counter()
                run.log(validate(), progress.step)
                since += time.perf_counter() - began
            if interrupt.requested or time.perf_counter() - saved > CHECKPOINT_SECONDS:
                save_artifact(run.path, "checkpoint", "checkpoint", state.tensors(), {"label": label})
                saved = time.perf_counter()
            if interrupt.requested:
                run.writer.flush()
                raise KeyboardInterrupt
    for name in ("checkpoint.json", "checkpoint.safetensors"):
        (run.path / name).unlink(missing_ok=True)


def _report(
    run: Run,
    label: str,
    bar: tqdm[Any],
    progress: Progress,
    spent: Mapping[str, float],
    steps_per_second: float,
) -> None:
    total = float(progress.losses["total"])
    if not math.isfinite(total):
        raise UserError(
            f"{label}: the loss is {total} at step {progress.step}: lower its learning_rate "
            f"(now {progress.learning_rate:g})"
        )
    scalars: dict[str, float | Tensor] = {f"losses/{name}": loss for name, loss in progress.losses.items()}
    scalars |= progress.measured
    scalars["charts/learning_rate"] = progress.learning_rate
    scalars["charts/SPS"] = steps_per_second
    whole = max(sum(spent.values()), 1e-9)
    scalars |= {f"time/{what}": seconds / whole for what, seconds in spent.items()}
    run.log(scalars, progress.step)
    bar.set_postfix_str(f"loss {total:.3f}", refresh=False)


def _go_on(run: Run, label: str, state: TrainingState) -> None:
    if not (run.path / "checkpoint.json").is_file():
        return
    tensors, facts = load_artifact(run.path, "checkpoint", "checkpoint")
    if facts.get("label") != label:
        raise UserError(f"{run.path} holds a checkpoint of {facts.get('label')!r}: delete the folder")
    state.restore(tensors)
    print(f"{label}: going on from step {state.step} of {state.total}", file=sys.stderr)
