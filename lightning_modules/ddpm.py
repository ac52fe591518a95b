"""Denoising diffusion probabilistic models."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from checkpoints import load_weights
from lightning_modules.optimizers import adamw, check_options
from zoo.diffusion.losses import min_snr_weight
from zoo.diffusion.model import ImageDiffusion
from zoo.errors import UserError
from zoo.metrics.likelihood import bits_per_dim
from zoo.nn.augment import random_affine


class DDPM(L.LightningModule):
    """Minimises E |target - network(sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, t)|^2 over t uniform in 1 ... T.

    Validation reports the same loss at fixed times and noise, so that its curve is smooth. Testing reports the
    variational bound in bits per dimension. Prediction turns latents into images by T ancestral steps (few and
    deterministic steps: `DDIM`). Average the weights with `lightning_modules.callbacks.EMA`.

    Args:
        image_shape: (C, H, W); filled in from the data.
        num_classes: filled in from the data; used if `class_conditional`.
        class_conditional: whether the network is told the label.
        channels: width of the first level of the U-Net.
        channel_multipliers: width of each level, as a multiple of `channels`.
        blocks_per_level: residual blocks a level on the way down.
        attention_levels: levels with self-attention, 0 the finest.
        dropout: probability of dropping a feature in a residual block.
        schedule: "cosine" or "linear" noise.
        num_timesteps: T.
        parameterization: what the network predicts: "v", "eps" or "x0".
        augmentation: strength of the random rotation, scaling, shear and shift of each training image, 0 for none.
            It keeps a network from copying a small data set, and leaks a little into what it draws.
        augmentation_probability: share of the training images that are moved.
        min_snr_gamma: if given, weigh the loss by min(SNR, gamma) on x_0 instead of "simple".
        learning_rate: of AdamW, after the warm-up.
        weight_decay: of AdamW.
        learning_rate_schedule: "constant", or "cosine" to fall to 0 at the end of the run.
        warmup_steps: steps over which the learning rate rises from 0.
        pretrained: a MODEL (shipped name or folder) to start from; its architecture must be the one given here.
        compile: whether to run the network through `torch.compile`. Names of weights stay the same.

    References:
        Ho et al. 2020, arXiv:2006.11239, algorithms 1 and 2; 000_507b39bbaa34acda.txt, section 13.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int = 0,
        class_conditional: bool = False,
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        blocks_per_level: int = 1,
        attention_levels: tuple[int, ...] = (1,),
        dropout: float = 0.1,
        schedule: str = "cosine",
        num_timesteps: int = 1000,
        parameterization: str = "v",
        augmentation: float = 0.0,
        augmentation_probability: float = 1.0,
        min_snr_gamma: float | None = None,
        learning_rate: float = 1e-3,
        learning_rate_schedule: str = "constant",
        weight_decay: float = 0.01,
        warmup_steps: int = 200,
        pretrained: str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_options(self.hparams)
        if min_snr_gamma is not None and not min_snr_gamma > 0:
            raise UserError(f"model.min_snr_gamma must be positive, got {min_snr_gamma}")
        if class_conditional and not num_classes:
            raise UserError("model.class_conditional is true, but the data has no classes")
        self.arguments: dict[str, Any] = {
            "image_shape": list(image_shape),
            "channels": channels,
            "channel_multipliers": list(channel_multipliers),
            "blocks_per_level": blocks_per_level,
            "attention_levels": list(attention_levels),
            "dropout": dropout,
            "num_classes": num_classes if class_conditional else 0,
            "schedule": schedule,
            "num_timesteps": num_timesteps,
            "parameterization": parameterization,
        }
        self.model = ImageDiffusion(**self.arguments)
        if pretrained is not None:
            load_weights(self.model, pretrained, "image-diffusion", self.arguments)
        if compile:
            self.model.network.compile()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if self.hparams["augmentation"] > 0:
            images = random_affine(images, self.hparams["augmentation"], self.hparams["augmentation_probability"])
        t = torch.randint(1, self.model.process.num_timesteps + 1, (len(images),), device=images.device)
        loss = self.model.loss(images, t, torch.randn_like(images), self._condition(labels))  # (B,)
        if self.hparams["min_snr_gamma"] is not None:
            weight = min_snr_weight(
                self.model.process.snr(t), self.model.parameterization, self.hparams["min_snr_gamma"]
            )
            loss = weight * loss
        mean = loss.mean()
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            # a call costs as much as a small update
            self.log("train/loss", mean, prog_bar=True)
        return mean

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        generator = torch.Generator().manual_seed(batch_idx)
        last = self.model.process.num_timesteps
        t = 1 + (torch.arange(len(images)) * 7919 + batch_idx) % last  # spread over 1 ... T, the same every time
        noise = torch.randn(images.shape, generator=generator)
        loss = self.model.loss(images, t.to(images.device), noise.to(images.device), self._condition(labels))
        self.log("val/loss", loss.mean(), prog_bar=True, batch_size=len(images), sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        bound = self.model.bound(
            images,
            self.trainer.datamodule.levels,  # type: ignore[attr-defined]
            labels=self._condition(labels),
            generator=torch.Generator().manual_seed(batch_idx),
        )
        bits = bits_per_dim(-bound.total, images[0].numel())
        self.log("test/bits_per_dim", bits.mean(), batch_size=len(images), sync_dist=True)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Latents x_T (B, C, H, W) and their indices (B,) -> images by T ancestral steps."""
        latents, index = batch
        labels = index % self.model.num_classes if self.model.num_classes else None
        return self.model.sample(
            len(latents),
            sampler="ddpm",
            steps=self.model.process.num_timesteps,
            labels=labels,
            noise=latents,
            generator=torch.Generator().manual_seed(int(index[0])),
        )

    def configure_optimizers(self) -> Any:
        names = ("learning_rate", "weight_decay", "warmup_steps", "learning_rate_schedule")
        return adamw(self, **{name: self.hparams[name] for name in names})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["model"], checkpoint["arguments"] = "image-diffusion", self.arguments

    def _condition(self, labels: Tensor) -> Tensor | None:
        return labels if self.model.num_classes else None
