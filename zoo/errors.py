"""The one exception that means "what the user gave is wrong", as against a fault of this software."""


class UserError(ValueError):
    """A mistake in an option, a file or a name. The message is one line: what was given, and the fix.

    The command line prints it on standard error and exits with 2; in Python it is an ordinary `ValueError`.
    """


class RowError(UserError):
    """A row of the data that cannot be used.

    Args:
        row: counted from 0. problem: what is wrong with it, to follow its name.
    """

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(f"row {row + 1} (counted from 1){problem}")
        self.row, self.problem = row, problem

    def after(self, rows: int) -> "RowError":
        """The same error where `rows` others come before."""
        return RowError(self.row + rows, self.problem)


def refuse_labels(labels: object) -> None:
    """Raises UserError if a model without classes was given labels."""
    if labels is not None:
        raise UserError("labels must not be given: this model knows no classes")


def one_line(text: str) -> str:
    """A message that may run over many lines as one line of at most 500 characters."""
    lines = [line.strip(" -") for line in text.splitlines() if line.strip(" -")]
    return " ".join(lines)[:500] if lines else "no reason given"
