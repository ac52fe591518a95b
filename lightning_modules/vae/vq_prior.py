"""The prior of a vector-quantised autoencoder's codes."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

import checkpoints
from checkpoints.catalogue import describe
from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.metrics.likelihood import bits_per_dim
from zoo.nn.augment import random_affine_on_grid
from zoo.vae.codebook import digest


class VQPrior(L.LightningModule):
    """Minimises -log P(k(x)), k(x) the codes of images in a trained VQ-VAE, in nats a code.

    The prior is a gated PixelCNN of the codes. The model of this run is the whole: the encoder, codebook and decoder of
    `first_stage`, which stay as they are, and the prior. So a prior cannot come to another codebook; a run that is
    resumed with another first stage is refused. Average the weights with `lightning_modules.callbacks.EMA`.

    Args:
        image_shape: (C, H, W); filled in from the data.
        levels: grey levels; filled in from the data.
        first_stage: a MODEL (shipped name or folder) that `VQVAE` trained.
        num_classes: of each label column; filled in from the data, and used if `class_conditional`.
        class_conditional: whether the prior is P(k | label).
        prior_width: channels of the PixelCNN.
        prior_depth: its layers.
        prior_dropout: probability of dropping a channel of a gate.
        augmentation: strength of the random rotation, scaling, shear and shift of each training image, 0 for none.
        augmentation_probability: share of the training images that are moved.
        learning_rate: of AdamW, after the warm-up.
        learning_rate_schedule: "constant", or "cosine" to fall to 0 at the end of the run.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from 0.

    References:
        van den Oord et al. 2017, arXiv:1711.00937, section 3.3; 001_7af9247201bdf7d9.txt, section 3.
    """

    paper = "van den Oord et al. 2017, arXiv:1711.00937"
    protocol = "likelihood"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        first_stage: str,
        num_classes: int | tuple[int, ...] = 0,
        class_conditional: bool = False,
        prior_width: int = 64,
        prior_depth: int = 6,
        prior_dropout: float = 0.0,
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
        if class_conditional and not num_classes:
            raise UserError("model.class_conditional is true, but the data has no classes: leave it out")
        first, arguments = self._load_first_stage(first_stage)
        classes = num_classes if class_conditional else 0
        self.model = construct(self, "vqvae", **{**arguments, "prior": "pixelcnn", "num_classes": classes})
        self.model.load_state_dict(first.state_dict(), strict=False)  # all but the prior
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith("prior."))

    configure_callbacks = record
    configure_optimizers = adamw

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        options, model = self.hparams, self.model
        x = random_affine_on_grid(batch[0], model.levels, options["augmentation"], options["augmentation_probability"])
        with torch.no_grad():
            index = model.encode(x)
        loss = -model.log_prior(index, self._labels(batch)).mean() / index[0].numel()
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_bits("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._log_bits("test", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The bound of the images, (B,) nats."""
        return self.model(batch[0], self._labels(batch))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a prior of another encoder's codes."""
        theirs, own = (_encoder_digest(state) for state in (checkpoint["state_dict"], self.state_dict()))
        if theirs != own:
            raise UserError(
                f"the checkpoint's prior is of the codes of {theirs}, but model.first_stage "
                f"{self.hparams['first_stage']!r} has {own}: name the model that it was trained on"
            )

    def _log_bits(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        """Logs the bound, and the prior's part of it in nats a code."""
        model, labels = self.model, self._labels(batch)
        found = model.quantised(batch[0])
        prior = model.log_prior(found.codes, labels)
        bits = bits_per_dim(found.log_likelihood + prior, model.dims)
        self.log(f"{split}/bits_per_dim", bits.mean(), prog_bar=True, batch_size=len(bits), sync_dist=True)
        code = -prior.mean() / found.codes[0].numel()
        self.log(f"{split}/loss", code, prog_bar=True, batch_size=len(bits), sync_dist=True)

    def _labels(self, batch: tuple[Tensor, Tensor]) -> Tensor | None:
        return batch[1] if self.model.labels else None

    def _load_first_stage(self, name: str) -> tuple[Any, dict[str, Any]]:
        """The model, and those of its arguments that are not the prior's.

        Raises:
            UserError: if it is no VQ-VAE of such images, or has one code only.
        """
        described, options = describe(checkpoints.find(name)), self.hparams
        if described.model != "vqvae":
            raise UserError(f"model.first_stage must be a VQ-VAE, got {name!r} of class {described.model!r}")
        if described.arguments.get("prior", "uniform") != "uniform":
            raise UserError(f"model.first_stage {name!r} has a prior already: name the VQ-VAE that it was made from")
        first: Any = checkpoints.load(described)
        for what, theirs, ours in (
            ("images of shape", tuple(first.shape), tuple(options["image_shape"])),
            ("grey levels:", first.levels, options["levels"]),
        ):
            if theirs != ours:
                raise UserError(f"model.first_stage {name!r} is for {what} {theirs}, but the data has {ours}")
        if first.num_codes < 2:
            raise UserError(f"model.first_stage {name!r} has one code: there is nothing to learn")
        own = ("prior", "prior_width", "prior_depth", "prior_dropout", "num_classes")
        return first, {key: value for key, value in described.arguments.items() if key not in own}


def _encoder_digest(state: dict[str, Tensor]) -> str:
    """Of all that says which code an image gets."""
    return digest(state[name] for name in sorted(state) if name.startswith(("model.encoder.", "model.codebook.codes")))
