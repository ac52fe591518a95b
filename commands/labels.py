"""What `sample --labels` asks for: numbers or names, one for each label column, "any" for what need not be told."""

import argparse
import difflib
from typing import TYPE_CHECKING

from commands.options import at_least
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ANY = "any"
Asked = tuple[int | str, ...]  # one entry a column


def label(text: str) -> Asked:
    """An argparse type: "7", "any", "triangle,red", "0,3"."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"must be a label, or one for each column with commas between, got {text!r}")
    return tuple(part if part[0].isalpha() else at_least(0)(part) for part in parts)


def resolve(
    asked: list[Asked], counts: tuple[int, ...], null_label: bool, names: tuple[tuple[str, ...], ...] = ()
) -> "Tensor":
    """The labels (N, columns), or (N,) of one column.

    Args:
        asked: what the user wrote.
        counts: classes of each column of the model, or of the classifier.
        null_label: whether the model knows "any", the label behind the last class of a column.
        names: of the classes of each column, where they have any.

    Raises:
        UserError: naming the label, and what would be one.
    """
    import torch

    rows = []
    for row in asked:
        if len(row) != len(counts):
            example = ",".join(column[0] for column in names) or ",".join("0" for _ in counts)
            raise UserError(
                f"--labels {','.join(map(str, row))!r} has {len(row)} column{'s' * (len(row) > 1)}, but the model's "
                f"labels have {len(counts)}: write, for example, {example}"
            )
        rows.append([_number(part, i, counts, null_label, names) for i, part in enumerate(row)])
    labels = torch.tensor(rows)
    return labels if len(counts) > 1 else labels[:, 0]


def _number(
    part: int | str, column: int, counts: tuple[int, ...], null_label: bool, names: tuple[tuple[str, ...], ...]
) -> int:
    count = counts[column]
    of = f" of column {column + 1}" if len(counts) > 1 else ""
    if isinstance(part, int):
        if part >= count:
            hint = f"; no label is {ANY!r}" if null_label and part == count else ""
            raise UserError(f"--labels: labels{of} must lie in 0 ... {count - 1}, got {part}{hint}")
        return part
    if part == ANY and null_label:
        return count
    if part == ANY:
        raise UserError(f"--labels {ANY!r} has no meaning for this model, which knows no null label: name a class")
    known = [*(names[column] if names else ()), *([ANY] if null_label else [])]
    if part in known:
        return known.index(part)
    near = difflib.get_close_matches(part, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join([f'0 ... {count - 1}', *known])}"
    raise UserError(f"--labels: {part!r} is no label{of}; {hint}")
