"""Texts, in windows of characters."""

import re
import sysconfig
import zlib
from itertools import pairwise
from pathlib import Path

import torch

from datamodules.memory import InMemoryDataModule, Split
from zoo.errors import UserError, one_line
from zoo.sequences.tokens import to_indices

ASCII = "\n" + "".join(map(chr, range(32, 127)))
SHARES = 20  # of the files, one each for validation and testing


class Text(InMemoryDataModule):
    """Batches of (windows (B, T) of places in the alphabet, labels (B,), all 0), from Python's own modules or a file.

    Python's are the files of the standard library's top folder, the source of `re`, `argparse`, ..., some 4.7 million
    characters: printable ASCII, other characters as "?". They come with the interpreter, and so differ a little between
    versions. A file is in one part by a checksum of its name: 18 of 20 train, one each validates and tests.

    Of a file of yours the first 90 % train, the next 5 % validate and the rest tests; its alphabet is its own.

    Training windows begin at every T / 8th character. Those for validation and testing overlap by half, and only their
    second halves are scored.

    Args:
        path: a text file in UTF-8; by default Python's modules.
        context: T, even.
        batch_size, batches_per_epoch, seed: see `InMemoryDataModule`.
    """

    provides = ("alphabet", "context")
    protocol = "text"

    def __init__(
        self,
        path: str | None = None,
        context: int = 128,
        batch_size: int = 32,
        batches_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batches_per_epoch, seed)
        if context < 2 or context % 2:
            raise UserError(f"data.context must be even and at least 2, got {context}")
        self.path, self.context = path, context
        self.texts = standard_library() if path is None else parts_of(path)
        self.alphabet = ASCII if path is None else "".join(sorted(set("".join(self.texts.values()))))
        shortest = min(map(len, self.texts.values()))
        if shortest < 2 * context:
            what = f"data.path {path!r} is" if path else "the source of Python's modules is"
            raise UserError(f"{what} too short: a part has {shortest} characters, fewer than two windows of {context}")

    def _read(self) -> dict[str, Split]:
        found = {}
        for split, text in self.texts.items():
            places = torch.tensor(to_indices(text, self.alphabet, "the text"))
            step = max(1, self.context // 8) if split == "train" else self.context // 2
            windows = places.unfold(0, self.context, step)
            found[split] = windows, torch.zeros(len(windows), dtype=torch.int64)
        return found


def standard_library() -> dict[str, str]:
    """The source of Python's own modules: "train", "val" and "test"."""
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = printable(file.read_text(encoding="utf-8", errors="replace"))
        share = zlib.crc32(file.name.encode()) % SHARES
        parts[{0: "test", 1: "val"}.get(share, "train")].append(re.sub(r"[^\n -~]", "?", text))
    return {split: "\n".join(texts) for split, texts in parts.items()}


def parts_of(path: str) -> dict[str, str]:
    """The first 90 % of a text file, the next 5 %, and the rest.

    Raises:
        UserError: if it cannot be read as a text in UTF-8.
    """
    try:
        text = printable(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"data.path {path!r} cannot be read as a text in UTF-8: {one_line(str(error))}") from None
    ends = [0, int(0.9 * len(text)), int(0.95 * len(text)), len(text)]
    return {split: text[a:b] for split, (a, b) in zip(("train", "val", "test"), pairwise(ends), strict=True)}


def printable(text: str) -> str:
    """A text with spaces for tabs, and without other characters that cannot be printed."""
    return "".join(sign for sign in text.expandtabs() if sign == "\n" or sign.isprintable())
