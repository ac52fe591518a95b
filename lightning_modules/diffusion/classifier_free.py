"""Classifier-free guidance: one network that is both conditional and unconditional."""

import lightning as L
from torch import Tensor

from lightning_modules.diffusion import common
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.diffusion.guidance import drop_labels
from zoo.errors import UserError


class ClassifierFree(L.LightningModule):
    """`DDPM` on labelled images, with a share of the labels replaced by the null label.

    One network thus learns eps(x_t, t, c) and eps(x_t, t), and sampling mixes them, eps_u + s (eps_c - eps_u), in one
    batched call. Validation and test keep every label. Prediction draws all classes in turn by T guided ancestral
    steps.

    Args:
        image_shape: (C, H, W); filled in from the data.
        num_classes: of each label column; filled in from the data.
        label_dropout: probability that an image loses all its labels; with several columns, also that each label is
            lost on its own, so that samples can be conditioned on some columns only.
        guidance_scale: s in prediction; 1 is conditional, 0 unconditional.
        levels, channels, channel_multipliers, blocks_per_level, attention_levels, patch_size, dropout, schedule,
            num_timesteps, parameterization, augmentation, augmentation_probability, augmentation_labels,
            min_snr_gamma, learning_rate, learning_rate_schedule, weight_decay, warmup_steps, pretrained, compile: see
            `lightning_modules.DDPM`.

    References:
        Ho & Salimans 2022, arXiv:2207.12598, algorithm 1; 000_507b39bbaa34acda.txt, section 16.
    """

    trains_in_bfloat16 = True  # by default, where the hardware has units for it: docs/benchmarks.md

    paper = "Ho and Salimans 2022, arXiv:2207.12598"
    protocol = "guidance"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int | tuple[int, ...],
        levels: int = 0,
        label_dropout: float = 0.1,
        guidance_scale: float = 2.0,
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        blocks_per_level: int = 1,
        attention_levels: tuple[int, ...] = (1,),
        patch_size: int = 1,
        dropout: float = 0.1,
        schedule: str = "cosine",
        num_timesteps: int = 1000,
        parameterization: str = "v",
        augmentation: float = 0.0,
        augmentation_probability: float = 1.0,
        augmentation_labels: bool | None = None,
        min_snr_gamma: float | None = None,
        learning_rate: float = 1e-3,
        learning_rate_schedule: str = "constant",
        weight_decay: float = 0.01,
        warmup_steps: int = 200,
        pretrained: str | None = None,
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not num_classes:
            raise UserError("ClassifierFree needs labels, but the data has no classes")
        if not 0 < label_dropout < 1:
            raise UserError(f"model.label_dropout must be above 0 and below 1, got {label_dropout}")
        self.model = common.denoiser(self, null_label=True)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        assert self.model.null_labels is not None
        labels = drop_labels(labels, self.model.null_labels, self.hparams["label_dropout"])
        return common.training_step(self, (images, labels), batch_idx)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Latents x_T (B, C, H, W) and their indices (B,) -> images of all classes in turn, by T ancestral steps."""
        steps, scale = self.model.process.num_timesteps, self.hparams["guidance_scale"]
        return common.draw(self.model, batch, sampler="ddpm", steps=steps, guidance_scale=scale)

    on_fit_start = common.compile_if_long
    validation_step = common.validation_step
    test_step = common.test_step
    configure_optimizers = adamw
    configure_callbacks = record
