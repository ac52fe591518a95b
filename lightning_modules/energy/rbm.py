"""The restricted Boltzmann machine."""

import lightning as L
import torch
from torch import Tensor

from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.metrics.likelihood import bits_per_dim


class RBM(L.LightningModule):
    """Follows the gradient of log P(v) = -F(v) - log Z, which is that of -F(v) + E F(v'), v' from a Markov chain.

    The chains are `steps` Gibbs steps from where the last training step left them (persistent contrastive divergence),
    or from the batch (contrastive divergence, which is biased). Neither knows log Z: validation and test compute it.

    Args:
        image_shape: (C, H, W); filled in from the data.
        levels: 2; filled in from the data.
        hidden: hidden units, at most 16.
        persistent: whether the chains go on from step to step.
        chains: how many, if they go on.
        steps: Gibbs steps in a training step.
        learning_rate: of AdamW, after the warm-up.
        learning_rate_schedule: "constant", or "cosine" to fall to 0 at the end of the run.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from 0.

    References:
        Hinton 2002; Tieleman 2008, Training restricted Boltzmann machines using approximations to the likelihood
        gradient; 001_7af9247201bdf7d9.txt, section 1.
    """

    paper = "Tieleman 2008, Training restricted Boltzmann machines using approximations to the likelihood gradient"
    protocol = "likelihood"
    chain: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        hidden: int = 16,
        persistent: bool = True,
        chains: int = 64,
        steps: int = 1,
        learning_rate: float = 3e-3,
        learning_rate_schedule: str = "constant",
        weight_decay: float = 0.0,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        for name in ("chains", "steps"):
            if self.hparams[name] < 1:
                raise UserError(f"model.{name} must be at least 1, got {self.hparams[name]}")
        self.model = construct(self, "rbm")
        self.register_buffer("chain", torch.rand(chains, self.model.dims).round())  # saved, for a run that is resumed

    configure_callbacks = record
    configure_optimizers = adamw

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        v = (batch[0].flatten(1) + 1) / 2
        with torch.no_grad():
            if self.trainer.global_step == 0:
                self._start_from(v)
            drawn = self.model.gibbs(self.chain if self.hparams["persistent"] else v, self.hparams["steps"])
            if self.hparams["persistent"]:
                self.chain.copy_(drawn)
        loss = self.model.free_energy(v).mean() - self.model.free_energy(drawn).mean()
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/difference", loss, prog_bar=True)
        return loss

    def _start_from(self, v: Tensor) -> None:
        """Sets visible biases to the log odds of the first batch's pixels, and chains to its images.

        Started from zero biases and random chains, a model of 28x28 pixels concentrates where there are no images and
        does not recover: on MNIST-5k it ends at 213 nats an image, like independent pixels, instead of 157.
        """
        share = (v.sum(0) + 0.5) / (len(v) + 1)
        self.model.visible_bias.copy_(self.trainer.strategy.reduce(share, reduce_op="mean").logit())  # of all processes
        self.chain.copy_(v[torch.arange(len(self.chain), device=v.device) % len(v)])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_bits("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_bits("test", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The free energies of the images, (B,)."""
        return self.model(batch[0])

    def _log_bits(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        bits = bits_per_dim(self.model.log_likelihood(batch[0]), self.model.dims)
        self.log(f"{split}/bits_per_dim", bits.mean(), prog_bar=True, batch_size=len(bits), sync_dist=True)
