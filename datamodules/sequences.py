"""Pairs of sequences of characters."""

import torch

from datamodules.memory import InMemoryDataModule, Split
from zoo.errors import UserError
from zoo.sequences.tokens import to_tokens
from zoo.synthetic.sequences import TASKS, Pair


class Sequences(InMemoryDataModule):
    """Batches of (source tokens (B, S), target tokens (B, T)) of a task that `zoo.synthetic.sequences` draws.

    No source of the validation and test pairs is trained on, and none comes twice. There are too few sources of less
    than five characters for that: they are for training alone.

    Args:
        name: "sort", digits into their order, or "dates", written dates into ISO 8601.
        num_train: training pairs.
        drawing_seed: of the training pairs.
        batch_size, batches_per_epoch, seed: see `InMemoryDataModule`.
    """

    provides = ("alphabet", "source_length", "target_length")
    protocol = "exact-match"
    num_held_out = 2000  # validation pairs, and as many for testing
    shortest = 5  # characters of a held-out source

    def __init__(
        self,
        name: str = "sort",
        num_train: int = 100_000,
        drawing_seed: int = 0,
        batch_size: int = 128,
        batches_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batches_per_epoch, seed)
        if name not in TASKS:
            raise UserError(f"data.name must be one of {', '.join(TASKS)}, got {name!r}")
        if num_train < 1:
            raise UserError(f"data.num_train must be at least 1, got {num_train}")
        if drawing_seed < 0:
            raise UserError(f"data.drawing_seed must be at least 0, got {drawing_seed}")
        self.task, self.num_train, self.drawing_seed = TASKS[name], num_train, drawing_seed
        self.alphabet = self.task.alphabet
        self.source_length, self.target_length = self.task.source_length, self.task.target_length

    def pairs(self, split: str) -> list[Pair]:
        """The texts of "train", "val" or "test"."""
        half = self.num_held_out
        drawn = self.task.draw(4 * half, torch.Generator().manual_seed(0))
        held_out = [pair for pair in dict.fromkeys(drawn) if len(pair[0]) >= self.shortest][: 2 * half]
        if split != "train":
            return held_out[:half] if split == "val" else held_out[half:]
        barred = {source for source, _ in held_out}
        train = self.task.draw(self.num_train, torch.Generator().manual_seed(1 + self.drawing_seed))
        return [pair for pair in train if pair[0] not in barred]

    def _read(self) -> dict[str, Split]:
        return {split: self._tokens(self.pairs(split)) for split in ("train", "val", "test")}

    def _tokens(self, pairs: list[Pair]) -> Split:
        sources, targets = ([pair[i] for pair in pairs] for i in (0, 1))
        return (
            to_tokens(sources, self.alphabet, self.source_length, "source"),
            to_tokens(targets, self.alphabet, self.target_length, "target"),
        )
