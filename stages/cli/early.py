"""No traceback for Ctrl-C while libraries are being loaded, nor for full disks. Scripts import this first."""

from __future__ import annotations

import os
import sys
import threading
from types import TracebackType

from latent_common.errors import INTERRUPTED, STOPPED, is_interrupt

_others, _other_threads = sys.excepthook, threading.excepthook

WRITER = "_AsyncWriterThread"
"""The class of the thread in which TensorBoard writes."""


def _leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not is_interrupt(error):
        _others(kind, error, trace)
        return
    print(STOPPED, file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)  # nothing has begun yet that would have to end


def _pass_on(failed: threading.ExceptHookArgs) -> None:
    # What the system refuses TensorBoard's thread is raised once more where something is logged next.
    if type(failed.thread).__name__ != WRITER or not issubclass(failed.exc_type, OSError):
        _other_threads(failed)


sys.excepthook = _leave
threading.excepthook = _pass_on
