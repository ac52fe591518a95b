"""The generative stochastic network."""

import lightning as L
import torch
from torch import Tensor

from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.nn.augment import random_affine_on_grid
from zoo.random import RowNoise


class GSN(L.LightningModule):
    """Minimises -log P(x | x~), x~ a corrupted image, in nats a dimension: a denoising autoencoder.

    The chain of corruptions and draws of P has no part in it (no walk-back). Average the weights with
    `lightning_modules.callbacks.EMA`.

    Args:
        image_shape: (C, H, W); filled in from the data.
        levels: grey levels; filled in from the data.
        hidden: width of the perceptron.
        depth: its residual blocks.
        dropout: probability of dropping a hidden unit.
        corruption: share of the entries of an image that are replaced by any grey level.
        head: the distribution of a grey level: "categorical", "logistic" (a mixture of `components`; for many levels)
            or "bernoulli" (for two levels).
        components: of the head "logistic".
        augmentation: strength of the random rotation, scaling, shear and shift of each training image, 0 for none;
            moved images are rounded to the grid.
        augmentation_probability: share of the training images that are moved.
        learning_rate: of AdamW, after the warm-up.
        learning_rate_schedule: "constant", or "cosine" to fall to 0 at the end of the run.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from 0.

    References:
        Bengio et al. 2014, arXiv:1306.1091, section 3; 001_7af9247201bdf7d9.txt, section 1.
    """

    paper = "Bengio et al. 2014, arXiv:1306.1091"
    protocol = "samples"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        hidden: int = 256,
        depth: int = 2,
        dropout: float = 0.0,
        corruption: float = 0.4,
        head: str = "categorical",
        components: int = 5,
        augmentation: float = 0.0,
        augmentation_probability: float = 1.0,
        learning_rate: float = 1e-3,
        learning_rate_schedule: str = "constant",
        weight_decay: float = 0.01,
        warmup_steps: int = 200,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not augmentation >= 0:
            raise UserError(f"model.augmentation must be at least 0, got {augmentation}")
        self.model = construct(self, "gsn")

    configure_callbacks = record
    configure_optimizers = adamw

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        options, model = self.hparams, self.model
        x = random_affine_on_grid(batch[0], model.levels, options["augmentation"], options["augmentation_probability"])
        loss = -model.log_prob(x, model.corrupt(x)).mean() / model.dims
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_loss("val", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_loss("test", batch, batch_idx)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log-probabilities of every grey level of each entry, given the images, (B, C, H, W, L)."""
        log_probs: Tensor = self.model.head.log_probs(self.model(batch[0]))
        return log_probs

    def _log_loss(self, split: str, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs the loss with corruption that is the same each time."""
        x, noise = batch[0], RowNoise(torch.Generator().manual_seed(batch_idx))
        loss = -self.model.log_prob(x, self.model.corrupt(x, noise)) / self.model.dims
        self.log(f"{split}/loss", loss.mean(), prog_bar=True, batch_size=len(x), sync_dist=True)
