"""Ctrl-C while libraries are still being loaded: a line instead of a traceback. Scripts import this first."""

from __future__ import annotations

import os
import sys
from types import TracebackType

from latent_common.errors import INTERRUPTED, STOPPED

_others = sys.excepthook


def _leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _others(kind, error, trace)
        return
    print(STOPPED, file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)  # nothing has begun yet that would have to end


sys.excepthook = _leave
