"""The one exception that means "what the user gave is wrong", as against a fault of this software."""


class UserError(ValueError):
    """A mistake in an option, a file or a name. The message is one line: what was given, and the fix.

    The command line prints it on standard error and exits with 2; in Python it is an ordinary `ValueError`.
    """
