"""Shared by data sets that fit in memory: three splits, their loaders, and the position in the training stream."""

import abc
from typing import Any

import lightning as L
import torch
from torch import Tensor

from datamodules.loader import InMemoryLoader
from zoo.errors import UserError

Split = tuple[Tensor, Tensor]  # inputs (N, ...), labels (N,) or (N, columns) int64


class InMemoryDataModule(L.LightningDataModule, abc.ABC):
    """Batches of (inputs, labels) from tensors. A data set implements `_read`, and `_prepare` to convert a batch.

    Args:
        batch_size: rows a batch, in each process.
        batches_per_epoch: training batches between two validations; by default one pass over the data.
        seed: of the order of the training rows.
    """

    def __init__(self, batch_size: int, batches_per_epoch: int | None, seed: int) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # of the derived class too, for the record
        if batch_size < 1:
            raise UserError(f"data.batch_size must be at least 1, got {batch_size}")
        if batches_per_epoch is not None and batches_per_epoch < 1:
            raise UserError(f"data.batches_per_epoch must be at least 1, got {batches_per_epoch}")
        self.batch_size, self.batches_per_epoch, self.seed = batch_size, batches_per_epoch, seed
        self._splits: dict[str, Split] | None = None
        self._training: InMemoryLoader | None = None
        self._position: dict[str, Any] = {"drawn": 0}

    @abc.abstractmethod
    def _read(self) -> dict[str, Split]:
        """The splits "train", "val" and "test"."""

    def _prepare(self, inputs: Tensor, *, training: bool) -> Tensor:
        """Converts the stored inputs of a batch to what a model takes."""
        return inputs

    def prepare_data(self) -> None:
        """Reads, and downloads, in one process first and before a run writes anything."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        if self._splits is None:
            self._splits = self._read()

    def split(self, name: str) -> Split:
        """The stored inputs and the labels of "train", "val" or "test"."""
        self.setup()
        assert self._splits is not None
        return self._splits[name]

    def train_dataloader(self) -> Any:
        self._training = self._loader("train", training=True)
        self._training.load_state_dict(self._position)
        return self._training

    def val_dataloader(self) -> Any:
        return self._loader("val", training=False)

    def test_dataloader(self) -> Any:
        return self._loader("test", training=False)

    def state_dict(self) -> dict[str, Any]:
        """The position in the training stream; Lightning restores that of a loader only within an epoch."""
        return self._training.state_dict() if self._training else self._position

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._position = state_dict

    def _loader(self, name: str, *, training: bool) -> InMemoryLoader:
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        inputs, labels = self.split(name)
        return InMemoryLoader(
            inputs.to(device),
            labels.to(device),
            self.batch_size,
            shuffle=training,
            batches_per_epoch=self.batches_per_epoch if training else None,
            transform=lambda batch: self._prepare(batch, training=training),
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
