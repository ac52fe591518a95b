"""A loader for data that fits in memory: a batch is one gather on the device that trains."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


class InMemoryLoader:
    """A sized iterable of (inputs, labels) over tensors that stay where they are.

    Training reads an endless stream of shuffled passes over the data. Batch b of the stream depends only on (seed, b),
    so a resumed run sees exactly the batches that an uninterrupted one would have seen; an epoch is
    `batches_per_epoch` of them. Without shuffling, each row comes once an epoch, in order; the last batch is shorter.

    Over several processes, each takes its own share of every batch (shuffled) or every n-th row (not shuffled).

    Args:
        inputs, labels: tensors of equal length, on the device that will use them.
        batch_size: rows a batch in each process.
        shuffle: whether to read a shuffled endless stream.
        batches_per_epoch: length of a shuffled epoch; by default one pass over the data, rounded down, at least 1.
        transform: applied to the inputs of each batch, for example uint8 levels to [-1, 1].
        seed: of the shuffling.
        rank, world_size: this process among all.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        batch_size: int,
        *,
        shuffle: bool,
        batches_per_epoch: int | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.inputs, self.labels = inputs, labels
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.transform = transform
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.drawn = 0  # batches of the stream that were handed out
        self._in_epoch = 0  # of those, batches of the current epoch
        self._begin_at = 0  # where in its epoch a resumed run continues
        rows = len(inputs)
        if shuffle:
            self._length = batches_per_epoch or max(1, rows // (batch_size * world_size))
        else:
            self._own = torch.arange(rank, rows, world_size, device=inputs.device)
            self._length = -(-len(self._own) // batch_size)
        self._order: tuple[int, Tensor] | None = None  # (pass, its permutation)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        if not self.shuffle:
            for rows in self._own.split(self.batch_size):
                yield self._gather(rows)
            return
        self._in_epoch, self._begin_at = self._begin_at, 0
        while self._in_epoch < self._length:
            self._in_epoch += 1
            self.drawn += 1
            yield self._gather(self._rows_of_batch(self.drawn - 1))

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands; Lightning stores it in the checkpoint."""
        return {"drawn": self.drawn, "in_epoch": self._in_epoch % self._length, "rows": self._rows_a_batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues after the rows that were drawn, in batches of this loader's size."""
        rows = state["drawn"] * state.get("rows", self._rows_a_batch)
        self.drawn = -(-rows // self._rows_a_batch)
        self._in_epoch = self._begin_at = state.get("in_epoch", state["drawn"] % self._length)

    @property
    def _rows_a_batch(self) -> int:
        return self.batch_size * self.world_size

    def _rows_of_batch(self, index: int) -> Tensor:
        start = (index * self.world_size + self.rank) * self.batch_size
        parts, wanted = [], self.batch_size
        while wanted:
            number, offset = divmod(start, len(self.inputs))
            part = self._permutation(number)[offset : offset + wanted]
            parts.append(part)
            start, wanted = start + len(part), wanted - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _permutation(self, number: int) -> Tensor:
        if self._order is None or self._order[0] != number:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            order = torch.randperm(len(self.inputs), generator=generator).to(self.inputs.device)
            self._order = (number, order)
        return self._order[1]

    def _gather(self, rows: Tensor) -> Batch:
        inputs = self.inputs[rows]
        return (self.transform(inputs) if self.transform else inputs), self.labels[rows]
