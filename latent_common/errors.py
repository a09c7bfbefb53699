"""The exception for mistakes of the user."""


class UserError(ValueError):
    """A mistake of the user.

    Its message says what was wrong, what was expected and what to do. Scripts print it without a traceback.
    """
