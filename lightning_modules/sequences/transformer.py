"""The Transformer of one sequence into another."""

import lightning as L
from torch import Tensor

from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.sequences.tokens import counted


class Transformer(L.LightningModule):
    """Minimises -sum_t [(1 - e) log P(y_t | y_<t, x) + e mean_v log P(v | y_<t, x)] over pairs (x, y), a token of y.

    e is the `label_smoothing`: it keeps P below one, which costs nats, and improves what is found by decoding.

    Args:
        alphabet: the characters; filled in from the data.
        source_length: of the longest source with its end; filled in from the data.
        target_length: of the longest target with its end; filled in from the data.
        width: of the hidden state, even, and a multiple of the heads.
        depth: layers of the encoder, and of the decoder.
        heads: of each attention.
        dropout: probability of dropping what a layer adds, and an embedding, by entry.
        label_smoothing: e.
        learning_rate: of AdamW, at the end of the warm-up.
        learning_rate_schedule: "inverse_sqrt" as in the paper, "constant", or "cosine" to fall to 0 at the end.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from 0.
        pretrained: a MODEL (shipped name or folder) to start from; its architecture must be the one given here.

    References:
        Vaswani et al. 2017, arXiv:1706.03762, sections 3 and 5; 004_2b20c020fc470ac5.txt, section 1.2.1.
    """

    protocol = "exact-match"
    paper = "Vaswani et al. 2017, arXiv:1706.03762"

    def __init__(
        self,
        alphabet: str,
        source_length: int,
        target_length: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        label_smoothing: float = 0.1,
        learning_rate: float = 2e-3,
        learning_rate_schedule: str = "inverse_sqrt",
        weight_decay: float = 0.01,
        warmup_steps: int = 300,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        self.model = construct(self, "encoder-decoder")

    configure_callbacks = record
    configure_optimizers = adamw

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        source, target = batch
        log_probs = self.model.log_prob(source, target, self.hparams["label_smoothing"])
        loss = -log_probs.sum() / counted(target).sum()
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_scores("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_scores("test", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The targets that greedy decoding finds, as tokens (B, T)."""
        tokens: Tensor = self.model.search(batch[0])[0][:, 0]
        return tokens

    def _log_scores(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        """Nats a sequence, and the share of sequences that greedy decoding would find.

        It finds a target exactly if each of its tokens is the most probable one after those before it.
        """
        source, target = batch
        found = self.model(source, target).argmax(-1)
        right = ((found == target) | ~counted(target)).all(1).float()
        nats = -self.model.log_prob(source, target)
        scores = {f"{split}/nats": nats.mean(), f"{split}/exact_match": right.mean()}
        self.log_dict(scores, prog_bar=True, batch_size=len(target), sync_dist=True)
