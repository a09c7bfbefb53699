"""The one exception that is meant for the user's eyes."""


class UserError(ValueError):
    """A mistake of the user's.

    Its message names what was wrong, what was expected and what mends it; scripts print it without
    a traceback.
    """
