"""What surrounds every training loop: progress bar, TensorBoard, checkpoints, and Ctrl-C."""

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
from latent_env.training.left_behind import CHECKPOINT
from latent_env.training.run_folder import Run

LOG_EVERY = 10
"""Training steps between two entries in TensorBoard."""

VALIDATIONS = 5
"""About so many times a training is validated."""

CHECKPOINT_SECONDS = 30.0
"""Seconds between two checkpoints."""

COST_OF_A_STEP = 3
"""Learning from an image costs about so many forward passes: one forward, and a backward like two."""

MAX_SHARE = 0.1
"""The largest share of the time of a training that validation may take."""


def validation_interval(steps: int, batch_size: int, images: int) -> int:
    """Training steps between two validations on so many ``images``.

    There are about ``VALIDATIONS`` in all, fewer if they took more than a tenth of the training, and always
    one at the end.
    """
    affordable = MAX_SHARE * COST_OF_A_STEP * steps * batch_size / max(images, 1)
    return max(steps // max(min(VALIDATIONS, int(affordable)), 1), 1)


class Interrupt:
    """Whether Ctrl-C was pressed inside :func:`interrupt_deferred`."""

    requested = False


@contextmanager
def interrupt_deferred() -> Iterator[Interrupt]:
    """A context in which the first Ctrl-C only sets a flag; the second one acts at once.

    A training can't be resumed from the middle of a step, where a batch is drawn but not learned. Where the
    flag wasn't looked at before the end of the context, Ctrl-C acts there.
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
    if interrupt.requested:  # and nobody has asked since
        raise KeyboardInterrupt


def follow(
    run: Run,
    label: str,
    training: Iterator[Progress],
    state: TrainingState,
    validate: Callable[[], Mapping[str, float]] | None = None,
    every: int | None = None,
) -> None:
    """Run a training loop to its end, from the last checkpoint if an earlier command left one.

    The last step is kept as a checkpoint as well, until :meth:`Run.forget_checkpoint`: much may follow before
    what was trained is stored.

    :param label: of the progress bar, and of the checkpoint.
    :param validate: returns scalars by their tags in TensorBoard.
    :param every: training steps between two validations; None for about ``VALIDATIONS`` in all.
    """
    _resume(run, label, state)
    run.log_from(state.step)
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
            due = progress.step == progress.total or time.perf_counter() - saved > CHECKPOINT_SECONDS
            if interrupt.requested or due:
                run.writer.flush()
                save_artifact(run.path, CHECKPOINT, CHECKPOINT, state.tensors(), {"label": label})
                saved = time.perf_counter()
            if interrupt.requested:
                raise KeyboardInterrupt


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
            f"{label}: the loss is {total} at step {progress.step}: choose a lower learning_rate than "
            f"{progress.learning_rate:g}"
        )
    scalars: dict[str, float | Tensor] = {f"losses/{name}": loss for name, loss in progress.losses.items()}
    scalars |= progress.measured
    scalars["charts/learning_rate"] = progress.learning_rate
    scalars["charts/SPS"] = steps_per_second
    whole = max(sum(spent.values()), 1e-9)
    scalars |= {f"time/{what}": seconds / whole for what, seconds in spent.items()}
    run.log(scalars, progress.step)
    bar.set_postfix_str(f"loss {total:.3f}", refresh=False)


def _resume(run: Run, label: str, state: TrainingState) -> None:
    if not (run.path / f"{CHECKPOINT}.json").is_file():
        return
    tensors, facts = load_artifact(run.path, CHECKPOINT, CHECKPOINT)
    if facts.get("label") != label:
        raise UserError(
            f"{run.path} holds a checkpoint of {facts.get('label')!r}, not of {label!r}: delete the folder"
        )
    try:
        state.restore(tensors)
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        raise UserError(f"{run.path} holds a checkpoint that isn't of this training: delete it") from error
    print(f"{label}: going on from step {state.step} of {state.total}", file=sys.stderr)
