"""Starting noise of samplers as data: the input of `predict` for a generative model."""

from typing import Any

import lightning as L
import torch

from datamodules.loader import InMemoryLoader
from zoo.errors import UserError


class Latents(L.LightningDataModule):
    """`num_samples` draws of N(0, I), where draw i depends only on (seed, i), not on batch size or number of GPUs.

    Args:
        image_shape: (C, H, W) of each draw.
        num_samples: number of draws.
        batch_size: draws a batch.
        seed: of the draws.
        num_classes: of each label column, for a model that cycles through its classes.
    """

    provides = ("image_shape", "num_classes")

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 8, 8),
        num_samples: int = 64,
        batch_size: int = 64,
        seed: int = 0,
        num_classes: int | tuple[int, ...] = 0,
    ) -> None:
        super().__init__()
        for name, value in (("num_samples", num_samples), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"data.{name} must be at least 1, got {value}")
        self.image_shape, self.num_classes = tuple(image_shape), num_classes
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed

    def predict_dataloader(self) -> Any:
        draws = [
            torch.randn(self.image_shape, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + i))
            for i in range(self.num_samples)
        ]
        trainer = self.trainer
        return InMemoryLoader(
            torch.stack(draws),
            torch.arange(self.num_samples),
            self.batch_size,
            shuffle=False,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
