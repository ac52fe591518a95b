"""Language models of characters."""

import math

import lightning as L
from torch import Tensor

from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record

PAPERS = {
    "transformer": "Al-Rfou et al. 2018, arXiv:1808.04444",
    "wavenet": "van den Oord et al. 2016, arXiv:1609.03499",
}


class LanguageModel(L.LightningModule):
    """Minimises -log P(x_t | x_1 ... x_{t-1}) in nats a character, over windows x of a text.

    Validation and testing score the second half of each window, so that every character is given as many before it as
    half a window has, or more.

    Args:
        alphabet: the characters; filled in from the data.
        context: characters in a window; filled in from the data.
        network: "transformer" (causal attention) or "wavenet" (dilated convolutions).
        width: of the hidden state.
        depth: layers.
        heads: of the attention, of "transformer".
        dropout: probability of dropping what a layer adds, by entry.
        learning_rate: of AdamW, after the warm-up.
        learning_rate_schedule: "constant", "inverse_sqrt", or "cosine" to fall to 0 at the end of the run.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from 0.
        pretrained: a MODEL (shipped name or folder) to start from; its architecture must be the one given here.

    References:
        Al-Rfou et al. 2018, arXiv:1808.04444; see the networks of `zoo.autoregressive` for their papers.
    """

    protocol = "text"
    papers = PAPERS

    def __init__(
        self,
        alphabet: str,
        context: int,
        network: str = "transformer",
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        learning_rate: float = 3e-3,
        learning_rate_schedule: str = "cosine",
        weight_decay: float = 0.01,
        warmup_steps: int = 200,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = construct(self, "language-model")
        self.paper = PAPERS[network]

    configure_callbacks = record
    configure_optimizers = adamw

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = -self.model(batch[0]).mean()
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_bits("val", batch[0])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_bits("test", batch[0])

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """log P of each character of the windows, (B, T) nats."""
        log_probs: Tensor = self.model(batch[0])
        return log_probs

    def _log_bits(self, split: str, x: Tensor) -> None:
        bits = -self.model(x)[:, x.shape[1] // 2 :] / math.log(2)
        self.log(f"{split}/bits_per_character", bits.mean(), prog_bar=True, batch_size=len(x), sync_dist=True)
