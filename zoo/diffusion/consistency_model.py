"""The consistency model of images: the network of a diffusion model, read as a consistency function."""

import torch
from torch import Tensor, nn

from zoo.diffusion.checks import check_conditions, whole_labels
from zoo.diffusion.consistency import multistep
from zoo.diffusion.guidance import clipped
from zoo.diffusion.model import ImageDiffusion
from zoo.diffusion.parameterization import prediction_to_x0
from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.samplers import Denoiser, OnStep
from zoo.diffusion.schedules import timesteps
from zoo.errors import UserError
from zoo.nn.unet import UNet
from zoo.random import normal, per_row

MOST_STEPS = 8  # of sampling; more make no sample better


class ImageConsistency(nn.Module):
    """f(x_t, t) = x_0, the end of the probability flow through x_t, of images in [-1, 1], with f(x_0, 0) = x_0.

    f is what `ImageDiffusion` makes of its network's prediction; here one evaluation is meant to give a whole sample.

    Args:
        parameterization: what the network predicts: "v", "eps" or "edm". The boundary condition f(x_0, 0) = x_0 holds
            for each of these, for instance a x - sigma v = x at t = 0, but not for "x0".
        others: see `zoo.diffusion.model.ImageDiffusion`.

    References:
        Song et al. 2023, arXiv:2303.01469, eqs. 5 and 6.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        blocks_per_level: int = 1,
        attention_levels: tuple[int, ...] = (1,),
        dropout: float = 0.0,
        num_classes: int | tuple[int, ...] = 0,
        schedule: str = "cosine",
        num_timesteps: int = 1000,
        parameterization: str = "v",
        sigma_range: tuple[float, float] = (0.01, 50.0),
        patch_size: int = 1,
        augmentation_labels: bool = False,
    ) -> None:
        super().__init__()
        if parameterization == "x0":
            raise ValueError("parameterization must be 'v', 'eps' or 'edm', got 'x0': f(x, 0) = x would not hold")
        self.diffusion = ImageDiffusion(
            image_shape,
            channels,
            channel_multipliers,
            blocks_per_level,
            attention_levels,
            dropout,
            num_classes,
            schedule,
            num_timesteps,
            parameterization,
            sigma_range,
            patch_size=patch_size,
            augmentation_labels=augmentation_labels,
        )
        self.shape, self.labels = self.diffusion.shape, self.diffusion.labels

    @property
    def network(self) -> UNet:
        """The U-Net, for instance to compile it."""
        return self.diffusion.network

    @property
    def process(self) -> NoiseProcess:
        return self.diffusion.process

    def extra_repr(self) -> str:
        return f"shape={tuple(self.shape)}, labels={self.labels}"

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two noised images at a third and at the whole of T, of the first and the last classes."""
        return self.diffusion.example(generator)

    def labels_in_turn(self, index: Tensor) -> Tensor | None:
        """Labels (N, columns) that count through all classes, the first column fastest; None if there are none."""
        return self.diffusion.labels_in_turn(index)

    def forward(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        """f(x_t, t): x_t (B, C, H, W), t (B,) in 0 ... T, labels (B,) or (B, columns) -> x_0 (B, C, H, W), unclipped.

        Arithmetic outside the network is float32 at least.
        """
        dtype = torch.promote_types(x_t.dtype, torch.float32)
        signal, sigma = self.process.signal_and_noise(t, x_t.ndim, dtype)
        prediction = self.diffusion(x_t, t, labels, augmentation).to(dtype)
        return prediction_to_x0(self.diffusion.parameterization, prediction, x_t, signal, sigma)

    def function(self, labels: Tensor | None = None, augmentation: Tensor | None = None) -> Denoiser:
        """(x_t, t) -> f(x_t, t) of these labels."""
        return lambda x_t, t: self(x_t, t, labels, augmentation)

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        steps: int = 2,
        noise: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draws images in a few evaluations of the network; see `zoo.diffusion.consistency.multistep`.

        Args:
            n: Number of images, at least 1.
            labels: Class of each image, (n,) or (n, columns), for a class-conditional model.
            generator: Source of the noise; in the same state it draws the same images, however many follow.
            steps: Network evaluations; each after the first one noises the image anew and refines it.
            noise: Standard normal latents (n, C, H, W) to start from, instead of drawing them.
            on_step: Called after each step with the time just reached, x there, and the estimate of x_0 that led there.

        Returns:
            Images (n, C, H, W) in [-1, 1], float32.

        Raises:
            UserError: if an argument is out of range.
        """
        most = min(MOST_STEPS, self.process.num_timesteps)
        if n < 1:
            raise UserError(f"n must be at least 1, got {n!r}")
        if not 1 <= steps <= most:
            raise UserError(f"steps must be between 1 and {most} for a consistency model, got {steps!r}")
        device, shape = next(self.parameters()).device, (n, *self.shape)
        if noise is not None and noise.shape != shape:
            raise UserError(f"noise must have the shape {shape}, got {tuple(noise.shape)}")
        labels = None if labels is None else whole_labels(labels).to(device)
        check_conditions(labels, None, self.labels, None, self.shape, self.process, n)
        source = per_row(generator)
        x = self.process.prior_std * (normal(shape, source, device) if noise is None else noise.to(device))
        times = timesteps(self.process.num_timesteps, steps)
        return multistep(clipped(self.function(labels)), self.process, x, times, generator=source, on_step=on_step)
