"""The exception for mistakes of the user, and what Ctrl-C looks like."""

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C stopped."""

STOPPED = "\nstopped: the same command goes on from what is kept"
"""What such a command says."""


class UserError(ValueError):
    """A mistake of the user.

    Its message says what was wrong, what was expected and what to do. Scripts print it without a traceback.
    """


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception stands for Ctrl-C.

    Libraries of C++ that are just being loaded make an ``ImportError`` of it.
    """
    while isinstance(error, ImportError) and error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, KeyboardInterrupt)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; the name of its class if it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
