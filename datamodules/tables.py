"""Numbers from a user's file: .npy of any shape, or .csv, a row a line."""

import csv
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.errors import UserError, one_line

ENDINGS = (".npy", ".csv")


def read_numbers(path: str | Path, option: str) -> Tensor:
    """The numbers of a file, float32, rows along the first axis; a .csv may begin with a line of names.

    Args:
        path: the file. option: what the user named it by, for the message.

    Raises:
        UserError: if the file is absent or of another kind, holds something else than numbers, a number that is not
            finite (named by its place, counted from 1), or no row.
    """
    what = f"{option} {str(path)!r}"
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise UserError(f"{what} must be a file that ends in {' or '.join(ENDINGS)}")
    if not os.path.isfile(path):
        raise UserError(f"{what} does not exist")
    try:
        numbers = _read_npy(Path(path)) if ending == ".npy" else _read_csv(Path(path))
    except (OSError, ValueError, EOFError, MemoryError, csv.Error) as error:
        raise UserError(f"{what} cannot be read as numbers: {one_line(str(error))}") from None
    if numbers.dtype.kind not in "fiu":
        raise UserError(f"{what} must hold real numbers, got {numbers.dtype}")
    if not numbers.ndim or not numbers.size:
        raise UserError(f"{what} must hold at least one row of numbers, got an array of shape {numbers.shape}")
    with np.errstate(over="ignore"):
        numbers = numbers.astype(np.float32)
    if not np.isfinite(numbers).all():
        place = np.argwhere(~np.isfinite(numbers))[0]
        names = ("row", "column") if numbers.ndim == 2 else ("row", *["index"] * (numbers.ndim - 1))
        where = ", ".join(f"{name} {number + 1}" for name, number in zip(names, place, strict=True))
        raise UserError(f"{what}: {where} is {numbers[tuple(place)]} (counted from 1): leave such rows out")
    return torch.from_numpy(numbers)


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


def _read_csv(path: Path) -> np.ndarray:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = next((row for row in csv.reader(file) if row), [])
    names = bool(first) and not any(_is_number(field) for field in first)
    with path.open(encoding="utf-8-sig") as file:
        lines = [line for line in file if line.strip()][names:]
    if not lines:
        return np.empty((0, len(first)))
    return np.loadtxt(lines, delimiter=",", ndmin=2, comments=None)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
