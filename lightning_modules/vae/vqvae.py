"""The vector-quantised autoencoder."""

import lightning as L
import torch
from torch import Tensor

from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.metrics.likelihood import bits_per_dim
from zoo.nn.augment import random_affine_on_grid
from zoo.vae.codebook import perplexity


class VQVAE(L.LightningModule):
    """Minimises -log p(x | k(x)) + commitment |z - sg(e_k)|^2, in nats a dimension of x.

    The codes e follow the encoder as running means; one that is hardly used is put at a vector of the batch. With
    `scalar_levels` they are a fixed grid, and only the first term is left. The prior of the codes is uniform: `VQPrior`
    learns another one, of the model that this run makes. Average the weights with `lightning_modules.callbacks.EMA`.

    Args:
        image_shape: (C, H, W); filled in from the data.
        levels: grey levels; filled in from the data.
        codes: K, vectors in the codebook.
        code_width: of each.
        scalar_levels: of finite scalar quantisation: so many values for each entry of a code, as (8, 5, 5, 5) for 1,000
            codes. `codes`, `code_width` and the codebook's options then have no meaning.
        downsamplings: how often the encoder halves height and width.
        channels: of the convolutions on the grid of codes; each finer grid has half as many.
        depth: residual blocks of the encoder and of the decoder.
        head: the distribution of a grey level: "categorical", "logistic" (a mixture of `components`; for many levels)
            or "bernoulli" (for two levels).
        components: of the head "logistic".
        commitment: weight of the distance to the codes, in nats.
        codebook_decay: share of a code's running sums that is kept in a step.
        restart_below: how many vectors a batch, in the running mean, a code must stand for to stay where it is.
        augmentation: strength of the random rotation, scaling, shear and shift of each training image, 0 for none;
            moved images are rounded to the grid.
        augmentation_probability: share of the training images that are moved.
        learning_rate: of AdamW, after the warm-up.
        learning_rate_schedule: "constant", or "cosine" to fall to 0 at the end of the run.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from 0.
        pretrained: a MODEL (shipped name or folder) to start from; its architecture must be the one given here.

    References:
        van den Oord et al. 2017, arXiv:1711.00937, equation 3 and appendix A.1; scalar levels: Mentzer et al.
        2023, arXiv:2309.15505; 001_7af9247201bdf7d9.txt, section 3.
    """

    paper = "van den Oord et al. 2017, arXiv:1711.00937"
    protocol = "likelihood"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        codes: int = 64,
        code_width: int = 16,
        scalar_levels: tuple[int, ...] = (),
        downsamplings: int = 2,
        channels: int = 64,
        depth: int = 2,
        head: str = "categorical",
        components: int = 5,
        commitment: float = 0.25,
        codebook_decay: float = 0.99,
        restart_below: float = 0.5,
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
        for name in ("commitment", "restart_below", "augmentation"):
            if not self.hparams[name] >= 0:
                raise UserError(f"model.{name} must be at least 0, got {self.hparams[name]}")
        if not 0 <= codebook_decay < 1:
            raise UserError(f"model.codebook_decay must be at least 0 and below 1, got {codebook_decay}")
        self.model = construct(self, "vqvae")
        self._counts = torch.zeros(self.model.num_codes)  # how often each code was used in a validation

    configure_callbacks = record
    configure_optimizers = adamw

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        options, model = self.hparams, self.model
        x = random_affine_on_grid(batch[0], model.levels, options["augmentation"], options["augmentation_probability"])
        found = model.quantised(x)
        nats, restarts = -found.log_likelihood, 0
        if not options["scalar_levels"]:
            nats = nats + options["commitment"] * found.commitment
            restarts = self._update_codebook(found.z.detach().flatten(0, -2))
        loss = nats.mean() / model.dims
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/loss", loss, prog_bar=True)
            self.log("train/restarts", float(restarts))
        return loss

    def _update_codebook(self, z: Tensor) -> int:
        """Moves the codes towards vectors (N, width) of all processes, and returns how many restarted."""
        if self.trainer.world_size > 1:
            z = self.all_gather(z).flatten(0, 1)  # type: ignore[union-attr]
        # the same vectors and the same numbers on every process: their codebooks stay equal
        generator = torch.Generator().manual_seed(self.trainer.global_step)
        options = self.hparams
        return self.model.codebook.update(z, options["codebook_decay"], options["restart_below"], generator)

    def on_validation_epoch_start(self) -> None:
        self._counts = torch.zeros(self.model.num_codes, device=self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._counts += self._log_bits("val", batch)

    def on_validation_epoch_end(self) -> None:
        counts = self.all_gather(self._counts).view(-1, self.model.num_codes).sum(0)  # type: ignore[union-attr]
        self.log("val/codes_in_use", (counts > 0).float().sum())
        self.log("val/perplexity", perplexity(counts).float(), prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_bits("test", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Codes of the images, whole numbers (B, h, w)."""
        return self.model.encode(batch[0])

    def _log_bits(self, split: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Logs the bound and its first term, and returns how often each code was used, (K,)."""
        model, found = self.model, self.model.quantised(batch[0])
        whole = found.log_likelihood + model.log_prior(found.codes)
        for name, nats in (("bits_per_dim", whole), ("bits_per_dim_given_codes", found.log_likelihood)):
            bits, bar = bits_per_dim(nats, model.dims).mean(), name == "bits_per_dim"
            self.log(f"{split}/{name}", bits, prog_bar=bar, batch_size=len(nats), sync_dist=True)
        return torch.bincount(found.codes.flatten(), minlength=model.num_codes)
