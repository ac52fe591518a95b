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

    Validation and test report the bound itself, beta 1. Average the weights with `lightning_modules.callbacks.EMA`.

    Args:
        image_shape: (C, H, W); filled in from the data.
        levels: grey levels; filled in from the data.
        latents: dimension of z.
        hidden: width of the encoder and of the decoder.
        depth: their residual blocks.
        dropout: probability of dropping a hidden unit.
        head: the distribution of a grey level: "categorical", "logistic" (a mixture of `components`; for many levels)
            or "bernoulli" (for two levels).
        components: of the head "logistic".
        beta: weight of the KL divergence; above 1 the latents are fewer and less entangled.
        beta_warmup_steps: steps over which beta rises from 0.
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
        Kingma & Welling 2013, arXiv:1312.6114, equation 10; beta: Higgins et al. 2017; free bits: Kingma et al. 2016,
        arXiv:1606.04934, appendix C.8; 001_7af9247201bdf7d9.txt, sections 2 and 2.1.
    """

    paper = "Kingma and Welling 2013, arXiv:1312.6114"
    protocol = "likelihood"

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
        beta: float = 1.0,
        beta_warmup_steps: int = 0,
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
        self.model = construct(self, "vae")

    configure_callbacks = record
    configure_optimizers = adamw

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        options, levels = self.hparams, self.model.levels
        x = random_affine_on_grid(batch[0], levels, options["augmentation"], options["augmentation_probability"])
        bound = self.model.elbo(x, torch.randn(len(x), self.model.latents, device=x.device))
        kl = bound.kl.mean(0).clamp(min=options["free_bits"]).sum()
        beta = options["beta"] * min(1.0, (self.trainer.global_step + 1) / max(1, options["beta_warmup_steps"]))
        loss = (beta * kl - bound.log_likelihood.mean()) / self.model.dims
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/loss", loss, prog_bar=True)
            self.log("train/kl_nats", bound.kl.sum(1).mean())
        return loss

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
