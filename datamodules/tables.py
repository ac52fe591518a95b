"""Reads numbers from a user's file: .npy of any shape, or .csv with one row a line."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.errors import UserError, one_line

ENDINGS = (".npy", ".csv")
MISSING = ("", "NA", "N/A", "NULL", "null", "None", "?")  # how tables mark a missing value


def read_numbers(path: str | Path, option: str) -> Tensor:
    """The numbers of `read_table` without the names of its columns, float32."""
    return read_table(path, option)[0].float()


def read_table(path: str | Path, option: str) -> tuple[Tensor, tuple[str, ...]]:
    """The numbers of a file, float64, rows along the first axis, and the names of its columns, () if it has none.

    A .csv may begin with a line of names. Its columns may be separated by commas, semicolons or tabs, and its fields
    may be quoted.

    Args:
        path: the file. option: by which the user named it, for the message.

    Raises:
        UserError: if the file is missing or of another kind, or holds no row, something other than numbers, or a number
            that is not finite in float32 (its row and column are named, counted from 1).
    """
    what = f"{option} {str(path)!r}"
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"{what} must be a file that ends in {' or '.join(ENDINGS)}")
    if not os.path.isfile(path):
        raise UserError(f"{what} does not exist")
    names: tuple[str, ...] = ()
    try:
        if ending == ".npy":
            numbers = _read_npy(Path(path))
        else:
            numbers, names = _read_csv(Path(path))
    except (OSError, ValueError, EOFError, MemoryError, csv.Error) as error:
        raise UserError(f"{what} cannot be read as numbers: {one_line(str(error))}") from None
    if numbers.dtype.kind not in "fiub":
        raise UserError(f"{what} must hold real numbers, got {numbers.dtype}")
    if not numbers.ndim or not numbers.size:
        raise UserError(f"{what} must hold at least one row of numbers, got an array of shape {numbers.shape}")
    with np.errstate(over="ignore"):
        single = numbers.astype(np.float32)
    if not np.isfinite(single).all():
        place = np.argwhere(~np.isfinite(single))[0]
        axes = ("row", "column") if numbers.ndim == 2 else ("row", *["index"] * (numbers.ndim - 1))
        where = ", ".join(f"{name} {number + 1}" for name, number in zip(axes, place, strict=True))
        raise UserError(f"{what}: {where} is {single[tuple(place)]} (counted from 1): leave such rows out")
    return torch.from_numpy(numbers.astype(np.float64)), names


def in_order(rows: Tensor, names: Sequence[str], wanted: Sequence[str], what: str) -> tuple[Tensor, str]:
    """Rows (N, D) with their columns in the order of `wanted`, the names that a model learned, and a note for the user.

    Columns are matched by name if both have names, else by position; the note says so where names are missing.

    Raises:
        UserError: if both have names, and a name that the model wants is absent.
    """
    if not wanted or rows.ndim != 2:
        return rows, ""
    if not names:
        return rows, f"{what} has no column names: its columns are taken in the order {', '.join(wanted)}"
    if missing := [name for name in wanted if name not in names]:
        raise UserError(
            f"{what} has no column {missing[0]!r}, which the model learned: its columns are {', '.join(names)}"
        )
    return rows[:, [names.index(name) for name in wanted]], ""


def check_rows(rows: Tensor, shape: tuple[int, ...], what: str) -> None:
    """Raises a UserError if rows (N, *shape) are of another shape."""
    if tuple(rows.shape[1:]) == shape:
        return
    if len(shape) == 1 and rows.ndim == 2:
        raise UserError(f"{what} has {rows.shape[1]} columns, but the model is of {shape[0]}")
    raise UserError(f"{what} has rows of shape {tuple(rows.shape[1:])}, but the model is of shape {shape}")


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:  # np.load would also take archives
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_csv(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The numbers and the names of the columns.

    Raises:
        ValueError: naming the first field that is no number, and the fix.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip()), "")
        delimiter = max(",;\t", key=first.count)
        file.seek(0)
        table = [
            row for row in csv.reader(file, delimiter=delimiter, skipinitialspace=True) if any(map(str.strip, row))
        ]
    head = tuple(field.strip() for field in table[0]) if table else ()
    names = head if head and not any(map(_is_number, head)) and not any(field in MISSING for field in head) else ()
    lines = table[bool(names) :]
    if not lines:
        return np.empty((0, len(head))), names
    try:
        return np.array([[float(field) for field in row] for row in lines]), names
    except ValueError:
        raise ValueError(_first_fault(lines, bool(names))) from None


def _first_fault(rows: list[list[str]], has_names: bool) -> str:
    """The error in the first row that is not all numbers."""
    for i, row in enumerate(rows):
        where = f"row {i + 1}" + (" below the names" if has_names else "")
        if len(row) != len(rows[0]):
            return f"{where} has a different number of columns, {len(row)}, than the first, {len(rows[0])}"
        for j, field in enumerate(row):
            if field.strip() in MISSING:
                return f"{where}, column {j + 1} is missing ({field!r}): leave such rows out"
            if not _is_number(field):
                comma = "; write decimals with a point" if _is_number(field.replace(",", ".")) else ""
                return f"{where}, column {j + 1} is {field!r}, which is no number{comma}"
    return "its rows differ in length"


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
