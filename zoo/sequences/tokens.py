"""Characters as whole numbers: 0 ends a sequence and fills it up after that; character i of an alphabet is i + 1."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.errors import UserError

END = 0


def check_alphabet(alphabet: str) -> None:
    """Raises a UserError unless an alphabet holds different characters that are safe to print."""
    if not alphabet or len(set(alphabet)) < len(alphabet) or not alphabet.replace("\n", "").isprintable():
        raise UserError(f"alphabet must hold different characters that can be printed, got {alphabet!r:.50}")


def to_indices(text: str, alphabet: str, what: str) -> list[int]:
    """The place of each character in an alphabet.

    Raises:
        UserError: naming what the text is, if it has a character that the alphabet lacks.
    """
    place = {character: i for i, character in enumerate(alphabet)}
    if wrong := next((character for character in text if character not in place), None):
        raise UserError(f"{what} must consist of the characters {alphabet!r}, got {wrong!r} in {text!r:.50}")
    return [place[character] for character in text]


def to_tokens(texts: Sequence[str], alphabet: str, length: int, what: str) -> Tensor:
    """Texts as (n, length) int64, with at least one END each.

    Raises:
        UserError: as `to_indices`, and if a text is too long.
    """
    if long := next((text for text in texts if len(text) >= length), None):
        raise UserError(f"{what} must have at most {length - 1} characters, got {len(long)}: {long!r:.50}")
    rows = [[i + 1 for i in to_indices(text, alphabet, what)] for text in texts]
    return torch.tensor([[*row, *[END] * (length - len(row))] for row in rows], device="cpu")


def to_text(tokens: Tensor, alphabet: str) -> list[str]:
    """The texts of tokens (n, T), each up to its first END."""
    letters = ["", *alphabet]
    rows = tokens.long().tolist()
    return ["".join(letters[i] for i in (row[: row.index(END)] if END in row else row)) for row in rows]


def counted(tokens: Tensor) -> Tensor:
    """(n, T) true up to the first END, and there: what is no filling."""
    return (tokens == END).cumsum(1) - (tokens == END).long() == 0
