"""The variational autoencoder."""

import lightning as L
import torch
from torch import Tensor

from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.metrics.likelihood import bits_per_dim
from zoo.nn.augment import random_affine_on_grid

DRAWS = 100  # of z behind the bound that a test reports


class VAE(L.LightningModule):
    """Minimises E_q[-log p(x | z)] + beta KL(q(z | x) || p(z)), in nats a dimension of x.

    With `kl_target`, beta is the multiplier of the constraint KL <= target: each step adds rate (KL / target - 1) to
    log beta. Validation and test report the bound itself, beta 1. Average the weights with
    `lightning_modules.callbacks.EMA`.

    Args:
        image_shape: (C, H, W); filled in from the data.
        levels: grey levels; filled in from the data.
        latents: dimension of z.
        hidden: width of the encoder and of the decoder; of convolutions, on the coarsest grid.
        depth: their residual blocks.
        dropout: probability of dropping a hidden unit of a perceptron.
        downsamplings: how often convolutions halve height and width; 0 for perceptrons.
        head: the distribution of a grey level: "categorical", "logistic" (a mixture of `components`; for many levels)
            or "bernoulli" (for two levels).
        components: of the head "logistic".
        prior_couplings: of a Real NVP that is the prior of the latents, learned with the rest; 0 for N(0, I).
        beta: weight of the KL divergence; above 1 the latents are fewer and less entangled.
        beta_warmup_steps: steps over which beta rises from 0.
        kl_target: nats of the KL divergence at which beta, at first `beta`, comes to rest; by default it is fixed.
        kl_target_rate: how fast beta moves.
        free_bits: nats below which the KL divergence of a latent, averaged over the batch, costs nothing.
        augmentation: strength of the random rotation, scaling, shear and shift of each training image, 0 for none;
            moved images are rounded to the grid.
        augmentation_probability: share of the training images that are moved.
        learning_rate: of AdamW, after the warm-up.
        learning_rate_schedule: "constant", or "cosine" to fall to 0 at the end of the run.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from 0.
        pretrained: a MODEL (shipped name or folder) to start from; its architecture must be the one given here.

    References:
        Kingma & Welling 2013, arXiv:1312.6114, equation 10; beta: Higgins et al. 2017; its moves: Rezende & Viola 2018,
        arXiv:1810.00597; free bits: Kingma et al. 2016, arXiv:1606.04934, appendix C.8; 001_7af9247201bdf7d9.txt,
        sections 2 and 2.1.
    """

    paper = "Kingma and Welling 2013, arXiv:1312.6114"
    protocol = "likelihood"
    beta: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        latents: int = 16,
        hidden: int = 256,
        depth: int = 2,
        dropout: float = 0.1,
        head: str = "categorical",
        components: int = 5,
        downsamplings: int = 0,
        prior_couplings: int = 0,
        beta: float = 1.0,
        beta_warmup_steps: int = 0,
        kl_target: float | None = None,
        kl_target_rate: float = 0.01,
        free_bits: float = 0.0,
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
        for name in ("beta", "beta_warmup_steps", "free_bits", "augmentation"):
            if not self.hparams[name] >= 0:
                raise UserError(f"model.{name} must be at least 0, got {self.hparams[name]}")
        if kl_target is not None:
            for name, value in (("kl_target", kl_target), ("kl_target_rate", kl_target_rate), ("beta", beta)):
                if not value > 0:
                    raise UserError(f"model.{name} must be above 0 with a kl_target, got {value}")
            if beta_warmup_steps or free_bits:
                raise UserError("model.kl_target moves beta itself: leave beta_warmup_steps and free_bits at 0")
            self.register_buffer("beta", torch.tensor(float(beta)))  # saved, for a run that is resumed
        if prior_couplings and free_bits:
            raise UserError(
                "model.free_bits are of single latents, which a flow as prior mixes: leave one of them at 0"
            )
        self.model = construct(self, "vae")

    configure_callbacks = record
    configure_optimizers = adamw

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        options, levels = self.hparams, self.model.levels
        x = random_affine_on_grid(batch[0], levels, options["augmentation"], options["augmentation_probability"])
        bound = self.model.elbo(x, torch.randn(len(x), self.model.latents, device=x.device))
        kl = bound.kl.mean(0).clamp(min=options["free_bits"]).sum()
        beta = options["beta"] * min(1.0, (self.trainer.global_step + 1) / max(1, options["beta_warmup_steps"]))
        if options["kl_target"] is not None:
            beta = self._move_beta(kl.detach())
        loss = (beta * kl - bound.log_likelihood.mean()) / self.model.dims
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/loss", loss, prog_bar=True)
            self.log("train/kl_nats", bound.kl.sum(1).mean())
            self.log("train/beta", float(beta))
        return loss

    @torch.no_grad()
    def _move_beta(self, kl: Tensor) -> Tensor:
        """beta of this step; for the next one it is moved by how far the KL divergence is from the target."""
        beta, options = self.beta.clone(), self.hparams
        kl = self.trainer.strategy.reduce(kl, reduce_op="mean")  # of all processes: their beta stays the same
        self.beta.mul_((options["kl_target_rate"] * (kl / options["kl_target"] - 1)).exp())
        return beta

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs the bound of one draw, with noise that is the same in each validation, and the rate of the latents."""
        x = batch[0]
        noise = torch.randn(len(x), self.model.latents, generator=torch.Generator().manual_seed(batch_idx))
        bound = self.model.elbo(x, noise.to(x.device))
        rate = bound.kl.sum(1)
        bits = bits_per_dim(bound.log_likelihood - rate, self.model.dims)
        self.log("val/bits_per_dim", bits.mean(), prog_bar=True, batch_size=len(x), sync_dist=True)
        self.log("val/kl_nats", rate.mean(), batch_size=len(x), sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x = batch[0]
        for name, draws in (("", 1), (f"_{DRAWS}_draws", DRAWS)):
            generator = torch.Generator().manual_seed(batch_idx)
            nats = self.model.log_likelihood(x, generator=generator, draws=draws)
            bits = bits_per_dim(nats, self.model.dims).mean()
            self.log(f"test/bits_per_dim{name}", bits, batch_size=len(x), sync_dist=True)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Latents of the images, the means of q(z | x), (B, Z)."""
        return self.model.encode(batch[0]).mean
