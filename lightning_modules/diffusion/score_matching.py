"""Denoising score matching on dequantised data: a model with a density, sampled and scored through its score."""

import lightning as L
import torch
from torch import Tensor

from lightning_modules.diffusion import common
from lightning_modules.trainer.log import log_rarely
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.diffusion.likelihood import dequantise
from zoo.diffusion.parameterization import lognormal_times
from zoo.diffusion.solvers import SAMPLERS
from zoo.errors import UserError
from zoo.metrics.likelihood import bits_per_dim

TIMES = ("uniform", "lognormal")
PARAMETERIZATIONS = ("eps", "edm")


class ScoreMatching(L.LightningModule):
    """Minimises E lambda_t |score(x_t, t) - grad log q(x_t | x_0)|^2, x_0 a training image plus noise within its grey
    level, new in every step, so that the data has a density.

    lambda_t is sigma_t^2 for parameterization "eps" (whose loss is the plain error of eps = -sigma_t score). For "edm"
    the loss is the plain error of F, the paper's weight 1 / c_out^2 on x_0, which is lambda_t times
    1 + (sigma_t / a_t / SIGMA_DATA)^2.
    With "eps" and times uniform in log(sigma_t / a_t), those of schedule "ve", the loss is, but for a factor and the
    prior, the bound of the log-likelihood.

    Validation reports the same loss at fixed noise and times uniform in 1 ... T. Testing reports bits per dimension by
    the probability flow: the density of the dequantised image, times the volume of a bin. Prediction turns latents into
    images.

    Args:
        image_shape: (C, H, W); filled in from the data.
        levels: grey levels of the data, filled in from it; 0 for continuous images, which are not dequantised.
        channels, channel_multipliers, blocks_per_level, attention_levels, patch_size, dropout, num_timesteps,
            augmentation, augmentation_probability, augmentation_labels, learning_rate,
            learning_rate_schedule, weight_decay, warmup_steps, pretrained, compile: see `lightning_modules.DDPM`.
        fourier: numbers n of the network's features sin(2^n pi x) and cos(2^n pi x), for grey levels that are fine
            beside the range of the data; see `zoo.nn.unet.UNet`.
        schedule: "ve", "linear" or "cosine" noise.
        sigma_range: lowest and highest noise level of schedule "ve".
        parameterization: "eps" or "edm".
        times: of training, "uniform" in 1 ... T, or "lognormal" with log(sigma_t / a_t) ~ N(-1.2, 1.2^2).
        likelihood_steps: Runge-Kutta steps of the test, four evaluations each.
        sampler, steps, spacing: of prediction.

    References:
        Song et al. 2021, arXiv:2011.13456, eq. 7; its likelihood, Song et al. 2021, arXiv:2101.09258, section 3;
        "edm": Karras et al. 2022, arXiv:2206.00364, section 5; 000_507b39bbaa34acda.txt, section 15.
    """

    paper = "Song et al. 2021, arXiv:2011.13456"
    protocol = "score"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int = 0,
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        blocks_per_level: int = 1,
        attention_levels: tuple[int, ...] = (1,),
        patch_size: int = 1,
        fourier: tuple[int, ...] = (),
        dropout: float = 0.1,
        schedule: str = "ve",
        num_timesteps: int = 1000,
        sigma_range: tuple[float, float] = (0.01, 50.0),
        parameterization: str = "eps",
        times: str = "uniform",
        augmentation: float = 0.0,
        augmentation_probability: float = 1.0,
        augmentation_labels: bool | None = None,
        likelihood_steps: int = 100,
        sampler: str = "heun",
        steps: int = 50,
        spacing: str = "karras",
        learning_rate: float = 1e-3,
        learning_rate_schedule: str = "constant",
        weight_decay: float = 0.01,
        warmup_steps: int = 200,
        pretrained: str | None = None,
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        for name, value, known in (
            ("parameterization", parameterization, PARAMETERIZATIONS),
            ("times", times, TIMES),
            ("sampler", sampler, tuple(SAMPLERS)),
        ):
            if value not in known:
                raise UserError(f"model.{name} must be one of {', '.join(known)}, got {value!r}")
        if likelihood_steps < 1:
            raise UserError(f"model.likelihood_steps must be at least 1, got {likelihood_steps}")
        self.model = common.denoiser(self)

    def training_step(self, batch: common.Batch, batch_idx: int) -> Tensor:
        images, amounts = common.augmented(self._images(batch), self.hparams)
        images, process = self._continuous(images), self.model.process
        if self.hparams["times"] == "lognormal":
            t = lognormal_times(process, len(images), device=images.device)
        else:
            t = common.uniform_times(process, images)
        loss = self.model.loss(images, t, torch.randn_like(images), augmentation=amounts).mean()
        log_rarely(self, "train/loss", loss)
        return loss

    def validation_step(self, batch: common.Batch, batch_idx: int) -> None:
        # noise within the levels that is the same in every validation
        generator = torch.Generator().manual_seed(1_000_003 + batch_idx)
        common.validation_step(self, self._continuous(self._images(batch), generator), batch_idx)

    def test_step(self, batch: common.Batch, batch_idx: int) -> None:
        images, levels = self._images(batch), self.hparams["levels"]
        nats = self.model.log_likelihood(
            images,
            levels=levels,
            steps=self.hparams["likelihood_steps"],
            generator=torch.Generator().manual_seed(batch_idx),
        )
        self.log("test/nll_nats", -nats.mean(), batch_size=len(images), sync_dist=True)
        if levels:
            bits = bits_per_dim(nats, images[0].numel())
            self.log("test/bits_per_dim", bits.mean(), batch_size=len(images), sync_dist=True)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Standard normal latents (B, C, H, W) and their indices (B,) -> images."""
        options = {name: self.hparams[name] for name in ("sampler", "steps", "spacing")}
        return common.draw(self.model, batch, **options)

    on_fit_start = common.compile_if_long
    configure_optimizers = adamw
    configure_callbacks = record

    def _images(self, batch: common.Batch) -> Tensor:
        return common.images_and_labels(self, batch)[0]

    def _continuous(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        levels = self.hparams["levels"]
        return dequantise(images, levels, generator) if levels else images
