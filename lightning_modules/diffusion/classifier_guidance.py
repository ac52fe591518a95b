"""Classifier guidance: a classifier of noised images, which guides a denoiser without labels."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

import checkpoints
from lightning_modules.diffusion.common import augmented, draw, uniform_times
from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.log import log_rarely
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.diffusion.model import ImageDiffusion
from zoo.diffusion.noisy_classifier import NoisyClassifier
from zoo.diffusion.solvers import SAMPLERS
from zoo.errors import UserError

BANDS = 4  # of the times 1 ... T, in validation


class ClassifierGuidance(L.LightningModule):
    """Minimises -log p(c | x_t, t) over t uniform in 1 ... T, x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.

    The gradient with respect to x_t moves the samples of a denoiser towards class c. Validation reports loss and
    accuracy at fixed times and noise, and the accuracy in each quarter of 1 ... T: near 1 in the first, chance in the
    last. Prediction turns latents into images of all classes in turn, drawn by `denoiser`, guided by this classifier.

    Args:
        image_shape: (C, H, W); filled in from the data.
        num_classes: filled in from the data; one label column.
        channels, channel_multipliers, num_features, dropout: see `zoo.diffusion.noisy_classifier.NoisyClassifier`.
        schedule, num_timesteps, sigma_range: of the noise; the same as those of `denoiser`.
        augmentation: strength of the random rotation, scaling, shear and shift of each training image, 0 for none.
        augmentation_probability: share of the training images that are augmented.
        denoiser: a MODEL, which is guided in prediction.
        guidance_scale: s in prediction; 0 does not guide, 1 samples p(x | c) of a perfect pair.
        sampler, steps: of prediction.
        learning_rate, learning_rate_schedule, weight_decay, warmup_steps: see `lightning_modules.DDPM`.

    References:
        Dhariwal & Nichol 2021, arXiv:2105.05233, section 4; 000_507b39bbaa34acda.txt, sections 15 and 16.
    """

    trains_in_bfloat16 = True  # by default, where the hardware has units for it: docs/benchmarks.md

    paper = "Dhariwal and Nichol 2021, arXiv:2105.05233"
    protocol = "guiding"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        num_features: int = 64,
        dropout: float = 0.1,
        schedule: str = "cosine",
        num_timesteps: int = 1000,
        sigma_range: tuple[float, float] = (0.01, 50.0),
        augmentation: float = 1.0,
        augmentation_probability: float = 1.0,
        denoiser: str = "ddpm-digits",
        guidance_scale: float = 3.0,
        sampler: str = "dpm++2m-sde",
        steps: int = 10,
        learning_rate: float = 1e-3,
        learning_rate_schedule: str = "constant",
        weight_decay: float = 0.05,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not isinstance(num_classes, int) or not num_classes:
            raise UserError(f"ClassifierGuidance needs data with one column of labels, got num_classes {num_classes!r}")
        if sampler not in SAMPLERS:
            raise UserError(f"model.sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        self.model: NoisyClassifier = construct(self, "noisy-classifier")
        self._guided: list[ImageDiffusion] = []  # a list keeps its weights out of this module's

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        images, _ = augmented(images, self.hparams)
        t = uniform_times(self.model.process, images)
        x_t = self.model.process.add_noise(images, torch.randn_like(images), t)
        loss = F.cross_entropy(self.model(x_t, t).float(), labels.long())
        log_rarely(self, "train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, "test")

    def setup(self, stage: str) -> None:
        if stage == "predict" and not self._guided:
            denoiser: Any = checkpoints.load(self.hparams["denoiser"])
            if not hasattr(denoiser, "denoiser"):
                raise UserError(f"model.denoiser must be a diffusion model, got {self.hparams['denoiser']!r}")
            self._guided.append(denoiser)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Latents x_T (B, C, H, W) and their indices (B,) -> images of all classes in turn."""
        return draw(
            self._guided[0].to(batch[0].device),
            batch,
            labels=batch[1] % self.model.labels[0],
            classifier=self.model,
            **{name: self.hparams[name] for name in ("sampler", "steps", "guidance_scale")},
        )

    configure_optimizers = adamw
    configure_callbacks = record

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, split: str) -> None:
        """Loss and accuracy at times spread over 1 ... T, with noise that is the same in every evaluation."""
        images, labels = batch
        process = self.model.process
        size: dict[str, Any] = {"batch_size": len(images), "sync_dist": True}
        generator = torch.Generator().manual_seed(batch_idx)
        losses, rights = [], []
        for band in range(BANDS):
            first, last = (process.num_timesteps * i // BANDS for i in (band, band + 1))  # the band: first + 1 ... last
            t = 1 + first + (torch.arange(len(images)) * 7919 + batch_idx) % max(1, last - first)
            t = t.clamp(max=process.num_timesteps).to(images.device)
            noise = torch.randn(images.shape, generator=generator).to(images.device)
            logits = self.model(process.add_noise(images, noise, t), t).float()
            losses.append(F.cross_entropy(logits, labels.long()))
            rights.append((logits.argmax(1) == labels).float().mean())
            self.log(f"{split}/accuracy_quarter_{band + 1}", rights[-1], **size)
        self.log(f"{split}/loss", torch.stack(losses).mean(), **size)
        self.log(f"{split}/accuracy", torch.stack(rights).mean(), prog_bar=True, **size)
