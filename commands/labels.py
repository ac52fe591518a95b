"""What `--labels` asks for: numbers or names, one for each label column; "any" leaves a column open."""

import argparse
import difflib
import re
from itertools import product
from typing import TYPE_CHECKING, Any

from checkpoints.catalogue import Description
from commands.options import at_least
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.protocols import Model

ANY = "any"
Asked = tuple[int | str, ...]  # one entry a column
Names = tuple[tuple[str, ...], ...]  # of the classes of each column


def label(text: str) -> Asked:
    """An argparse type: "7", "any", "triangle,red", "0,3"."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"must be a label, or one for each column with commas between, got {text!r}")
    return tuple(at_least(0)(part) if re.fullmatch(r"[-+.\d]+", part) else part for part in parts)


def classes(
    args: argparse.Namespace, model: "Model", classifier: "Model | None" = None, hint: str = "leave them out"
) -> "Tensor | None":
    """The classes to take in turn, (N,) or (N, columns).

    Where none are asked for: all classes of a model that cannot do without, else None.

    Args:
        args: with the values of --labels in `labels`, and the model's name and description.
        classifier: whose classes they are, if there is one.
        hint: what to do about a model without classes.

    Raises:
        UserError: naming the label, and what would be one.
    """
    counts = model.labels if classifier is None else classifier.labels
    null_label = classifier is None and has_null_label(model)
    if args.labels is None:
        return every_class(counts) if counts and classifier is None and not null_label else None
    if not counts:
        raise UserError(f"--labels must not be given: {args.model!r} knows no classes; {hint}")
    return resolve(args.labels, counts, null_label, class_names(args.described, counts))


def has_null_label(model: "Model") -> bool:
    """Whether a model has a label that stands for any class, so that it can do without labels."""
    return getattr(model, "null_labels", None) is not None


def every_class(counts: tuple[int, ...]) -> "Tensor":
    """All combinations of labels, (N,) of one column or (N, columns), the first column fastest."""
    import torch

    rows = [row[::-1] for row in product(*(range(count) for count in reversed(counts)))]
    labels = torch.tensor(rows)
    return labels if len(counts) > 1 else labels[:, 0]


def class_names(described: Description, counts: tuple[int, ...]) -> Names:
    """The names of the classes of each column, as config.json has them; () if it has none that fit."""
    stored: Any = described.data.get("label_names", ())
    if not stored and described.data.get("class") == "Shapes":  # the config.json of version 0.1 has no names
        from zoo.synthetic.shapes import COLOURS, SHAPES

        stored = SHAPES, COLOURS
    if not stored or not isinstance(stored, list | tuple):
        return ()
    columns = [stored] if all(isinstance(entry, str) for entry in stored) else stored
    fits = [isinstance(column, list | tuple) and len(column) for column in columns] == [*counts]
    return tuple(tuple(map(str, column)) for column in columns) if fits else ()


def resolve(asked: list[Asked], counts: tuple[int, ...], null_label: bool, names: Names = ()) -> "Tensor":
    """The labels (N, columns), or (N,) of one column.

    Args:
        asked: what the user wrote.
        counts: classes of each column of the model, or of the classifier.
        null_label: whether the model has a label for "any", the one after the last class of a column.
        names: of the classes of each column, if they have names.

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


def _number(part: int | str, column: int, counts: tuple[int, ...], null_label: bool, names: Names) -> int:
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
        raise UserError(f"--labels {ANY!r} has no meaning for this model, which has no label for it: name a class")
    known = [*(names[column] if names else ()), *([ANY] if null_label else [])]
    if part in known:
        return known.index(part)
    near = difflib.get_close_matches(part, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join([f'0 ... {count - 1}', *known])}"
    raise UserError(f"--labels: {part!r} is no label{of}; {hint}")
