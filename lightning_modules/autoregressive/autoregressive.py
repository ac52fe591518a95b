"""Autoregressive models of images."""

import lightning as L
import torch
from torch import Tensor

from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.metrics.likelihood import bits_per_dim
from zoo.nn.augment import random_affine_on_grid

PAPERS = {
    "fvsbn": "Gan et al. 2015, Learning sigmoid belief networks with adaptive step-size",
    "made": "Germain et al. 2015, arXiv:1502.03509",
    "nade": "Uria et al. 2016, arXiv:1605.02226",
    "pixelcnn": "van den Oord et al. 2016, arXiv:1606.05328",
    "pixelrnn": "van den Oord et al. 2016, arXiv:1601.06759",
    "transformer": "Vaswani et al. 2017, arXiv:1706.03762",
    "wavenet": "van den Oord et al. 2016, arXiv:1609.03499",
}


class Autoregressive(L.LightningModule):
    """Minimises -log P(x), P(x) = prod_d P(x_d | x_1 ... x_{d-1}), in nats a dimension of x.

    The `network` computes all conditionals in one pass: a fully visible sigmoid belief network ("fvsbn"), a masked
    perceptron ("made"), a neural autoregressive distribution estimator ("nade"), gated convolutions of the image
    ("pixelcnn"), an LSTM ("pixelrnn") or dilated convolutions ("wavenet") of the sequence of pixels, or causal
    attention ("transformer"). Of several orders, each training step takes one at random. Average the weights with
    `lightning_modules.callbacks.EMA`.

    Args:
        image_shape: (C, H, W); filled in from the data.
        levels: grey levels; filled in from the data.
        num_classes: of each label column; filled in from the data, and used if `class_conditional`.
        class_conditional: whether the model is P(x | label).
        network: "fvsbn", "made", "nade", "pixelcnn", "pixelrnn", "wavenet" or "transformer".
        head: the distribution of a grey level: "categorical", "logistic" (a mixture of `components`; for many levels)
            or "bernoulli" (for two levels).
        components: of the head "logistic".
        width: units of a hidden layer, or channels.
        depth: hidden layers; "fvsbn" has none and "nade" one.
        heads: of the attention, of "transformer".
        orders: in which the entries are drawn, of "made"; the probabilities of an image are averaged over them.
        dropout: probability of dropping a hidden unit.
        augmentation: strength of the random rotation, scaling, shear and shift of each training image, 0 for none;
            moved images are rounded to the grid.
        augmentation_probability: share of the training images that are moved.
        learning_rate: of AdamW, after the warm-up.
        learning_rate_schedule: "constant", or "cosine" to fall to 0 at the end of the run.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from 0.
        pretrained: a MODEL (shipped name or folder) to start from; its architecture must be the one given here.

    References:
        001_7af9247201bdf7d9.txt, section 3; see the networks of `zoo.autoregressive` for the papers.
    """

    protocol = "likelihood"
    papers = PAPERS

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        num_classes: int | tuple[int, ...] = 0,
        class_conditional: bool = False,
        network: str = "made",
        head: str = "categorical",
        components: int = 5,
        width: int = 256,
        depth: int = 1,
        heads: int = 4,
        orders: int = 1,
        dropout: float = 0.0,
        augmentation: float = 0.0,
        augmentation_probability: float = 1.0,
        learning_rate: float = 1e-3,
        learning_rate_schedule: str = "constant",
        weight_decay: float = 0.01,
        warmup_steps: int = 200,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not augmentation >= 0:
            raise UserError(f"model.augmentation must be at least 0, got {augmentation}")
        if class_conditional and not num_classes:
            raise UserError("model.class_conditional is true, but the data has no classes: leave it out")
        self.model = construct(self, "autoregressive", num_classes=num_classes if class_conditional else 0)
        self.paper = PAPERS[network]

    configure_callbacks = record
    configure_optimizers = adamw

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        options, levels = self.hparams, self.model.levels
        x = random_affine_on_grid(batch[0], levels, options["augmentation"], options["augmentation_probability"])
        order = int(torch.randint(self.model.orders, ()))
        loss = -self.model.log_prob(x, self._labels(batch), order).mean() / self.model.dims
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_bits("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_bits("test", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """log P(x) of the images, (B,) nats."""
        return self.model.log_prob(batch[0], self._labels(batch))

    def _log_bits(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        bits = bits_per_dim(self.model.log_prob(batch[0], self._labels(batch)), self.model.dims)
        self.log(f"{split}/bits_per_dim", bits.mean(), prog_bar=True, batch_size=len(bits), sync_dist=True)

    def _labels(self, batch: tuple[Tensor, Tensor]) -> Tensor | None:
        return batch[1] if self.model.labels else None
