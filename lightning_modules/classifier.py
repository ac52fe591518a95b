"""An image classifier, which judges the generative models."""

from typing import Any

import lightning as L
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.log import log_rarely
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.nn.augment import random_affine
from zoo.nn.classifier import ImageClassifier


class Classifier(L.LightningModule):
    """Minimises the cross-entropy -log p(label | image), with smoothed labels and augmented images.

    Args:
        image_shape: (C, H, W); filled in from the data.
        num_classes: filled in from the data.
        channels: width of the first level.
        channel_multipliers: width of each level, as a multiple of `channels`.
        num_features: width of the feature layer, the space of the feature-FID.
        dropout: probability of dropping a feature before the logits.
        augmentation: strength of the random rotation, scaling, shear and shift of each training image, 0 for none.
        label_smoothing: probability mass spread over all classes.
        learning_rate: of AdamW, after the warm-up.
        learning_rate_schedule: "constant", or "cosine", which decays to 0 at the end of the run.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from 0.
    """

    trains_in_bfloat16 = True  # by default, where the hardware has units for it: docs/benchmarks.md

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        num_features: int = 64,
        dropout: float = 0.3,
        augmentation: float = 1.0,
        label_smoothing: float = 0.05,
        learning_rate: float = 2e-3,
        learning_rate_schedule: str = "constant",
        weight_decay: float = 0.05,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model: ImageClassifier = construct(self, "image-classifier")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if self.hparams["augmentation"] > 0:
            images = random_affine(images, self.hparams["augmentation"])
        loss = F.cross_entropy(
            self.model(images).float(), labels.long(), label_smoothing=self.hparams["label_smoothing"]
        )
        log_rarely(self, "train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Probabilities (B, num_classes)."""
        return self.model(batch[0]).float().softmax(dim=1)

    configure_optimizers = adamw
    configure_callbacks = record

    def _evaluate(self, batch: tuple[Tensor, Tensor], split: str) -> None:
        images, labels = batch
        logits = self.model(images).float()
        size: dict[str, Any] = {"batch_size": len(images), "sync_dist": True}
        self.log(f"{split}/loss", F.cross_entropy(logits, labels.long()), **size)
        self.log(f"{split}/accuracy", (logits.argmax(1) == labels).float().mean(), prog_bar=True, **size)
