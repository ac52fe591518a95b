"""The image diffusion model: a U-Net, its noise process and its parameterisation, ready to sample."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.diffusion import samplers
from zoo.diffusion.bound import Bound, variational_bound
from zoo.diffusion.losses import denoising_loss
from zoo.diffusion.parameterization import check, prediction_to_x0
from zoo.diffusion.process import NoiseProcess
from zoo.errors import UserError
from zoo.nn.unet import UNet
from zoo.random import normal

SAMPLERS = ("ddim", "ddpm")


class ImageDiffusion(nn.Module):
    """A denoising diffusion model of images in [-1, 1].

    Args:
        image_shape: (C, H, W).
        channels, channel_multipliers, blocks_per_level, attention_levels, dropout, num_classes: see `zoo.nn.unet.UNet`.
        schedule, num_timesteps: see `zoo.diffusion.process.NoiseProcess`.
        parameterization: what the network predicts: "eps", "x0" or "v".

    References:
        Ho et al. 2020, arXiv:2006.11239; Song et al. 2020, arXiv:2010.02502.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        blocks_per_level: int = 1,
        attention_levels: tuple[int, ...] = (1,),
        dropout: float = 0.1,
        num_classes: int = 0,
        schedule: str = "cosine",
        num_timesteps: int = 1000,
        parameterization: str = "v",
    ) -> None:
        super().__init__()
        check(parameterization)
        self.image_shape: tuple[int, int, int] = image_shape
        self.num_classes = num_classes
        self.parameterization = parameterization
        self.process = NoiseProcess(schedule, num_timesteps)
        self.network = UNet(
            self.image_shape, channels, channel_multipliers, blocks_per_level, attention_levels, dropout, num_classes
        )

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The network's own prediction: x_t (B, C, H, W), whole t (B,) in 0 ... T, labels (B,) -> (B, C, H, W)."""
        return self.network(x_t, t * (1000 / self.process.num_timesteps), labels)

    def loss(self, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Per-sample denoising loss (B,); see `zoo.diffusion.losses.denoising_loss`."""
        return denoising_loss(self, self.process, self.parameterization, x0, t, noise, labels)

    def denoiser(self, labels: Tensor | None = None, *, clip: bool = True) -> samplers.Denoiser:
        """(x_t, t) -> estimate of x_0, clipped to [-1, 1] if asked: what samplers and guidance are written over."""

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            signal, sigma = self.process.signal_and_noise(t, x_t.ndim)
            x0 = prediction_to_x0(self.parameterization, self(x_t, t, labels).float(), x_t, signal, sigma)
            return x0.clamp(-1, 1) if clip else x0

        return denoise

    @torch.inference_mode()
    def sample(
        self,
        num_samples: int,
        *,
        sampler: str = "ddim",
        steps: int = 50,
        eta: float = 0.0,
        spacing: str = "trailing",
        variance: str | None = None,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Draws images.

        Args:
            num_samples: B, at least 1.
            sampler: "ddim" or "ddpm" (ancestral).
            steps: network evaluations, 1 ... T.
            eta: DDIM's stochasticity, 0 ... 1.
            spacing: see `zoo.diffusion.samplers.timesteps`.
            variance: of the ancestral sampler, "small" or "large"; by default large at all T steps, else small: the
                large one is the better at T steps and much the worse on fewer (DDIM, arXiv:2010.02502, table 1).
            labels: classes (B,), for a class-conditional model.
            generator: source of the noise.
            noise: x_T of shape (B, C, H, W), instead of drawing it.
            on_step: called with (time, x) after each step.

        Returns:
            Images (B, C, H, W) in [-1, 1], float32.

        Raises:
            UserError: if an argument is out of range.
        """
        if num_samples < 1:
            raise UserError(f"num_samples must be at least 1, got {num_samples!r}")
        if sampler not in SAMPLERS:
            raise UserError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        device = next(self.parameters()).device
        if labels is not None:
            labels = self._check_labels(labels, num_samples).to(device)
        elif self.num_classes:
            raise UserError(f"labels must be given: this model is conditional on {self.num_classes} classes")
        try:
            times = samplers.timesteps(self.process.num_timesteps, steps, spacing)
        except ValueError as error:
            raise UserError(str(error)) from None
        shape = (num_samples, *self.image_shape)
        if noise is not None and noise.shape != shape:
            raise UserError(f"noise must have the shape {shape}, got {tuple(noise.shape)}")
        x = normal(shape, generator, device) if noise is None else noise.to(device)
        denoise = self.denoiser(labels)
        if sampler == "ddim":
            if not 0 <= eta <= 1:
                raise UserError(f"eta must be between 0 and 1, got {eta!r}")
            return samplers.ddim(denoise, self.process, x, times, eta=eta, generator=generator, on_step=on_step)
        variance = variance or ("large" if steps == self.process.num_timesteps else "small")
        if variance not in ("small", "large"):
            raise UserError(f"variance must be 'small' or 'large', got {variance!r}")
        return samplers.ancestral(
            denoise, self.process, x, times, variance=variance, generator=generator, on_step=on_step
        )

    @torch.inference_mode()
    def bound(
        self,
        x0: Tensor,
        levels: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Bound:
        """Upper bound of -log p(x0) in nats, (B,) a term, x_0 clipped; see `zoo.diffusion.bound.variational_bound`."""
        return variational_bound(self.denoiser(labels), self.process, x0, levels=levels, generator=generator)

    def _check_labels(self, labels: Tensor, num_samples: int) -> Tensor:
        if not self.num_classes:
            raise UserError("labels must not be given: this model is unconditional")
        if len(labels) != num_samples:
            raise UserError(f"labels must be {num_samples} numbers, one a sample, got {len(labels)}")
        wrong = [label for label in labels.tolist() if not 0 <= label < self.num_classes]
        if wrong:
            raise UserError(f"labels must lie in 0 ... {self.num_classes - 1}, got {wrong[0]}")
        return labels
