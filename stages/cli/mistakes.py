"""One clear line instead of a traceback for what a user can cause, and nothing for a reader that has left."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from latent_common.errors import INTERRUPTED, STOPPED, UserError, is_interrupt
from stages.cli.choices import title

MISTAKE, PIPE = 2, 141


@contextmanager
def mistakes_told(script: str) -> Iterator[None]:
    """Turn what a user can cause into one line and an exit code; anything else stays a traceback."""
    try:
        with quiet_when_unread():
            yield
    except UserError as error:
        _leave(str(error), script)
    except OSError as error:
        _leave(f"the system refused: {error}", script)
    except (KeyboardInterrupt, ImportError) as error:
        if not is_interrupt(error):
            raise
        print(STOPPED, file=sys.stderr)
        sys.exit(INTERRUPTED)


@contextmanager
def quiet_when_unread() -> Iterator[None]:
    """Leave with an exit code alone where whoever read the output, such as ``head``, has seen enough."""
    try:
        try:
            yield
        finally:  # what is still to be written would fail when Python ends, which says so in lines of its own
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE)


def _leave(message: str, script: str) -> None:
    print(f"{title(script)}: {message}", file=sys.stderr)
    sys.exit(MISTAKE)
