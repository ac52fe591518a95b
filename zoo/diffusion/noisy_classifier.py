"""A classifier of noised images, which guides a denoiser without labels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.diffusion.parameterization import network_input
from zoo.diffusion.process import NoiseProcess
from zoo.nn.unet import ResidualBlock, embed_times, group_norm


class NoisyClassifier(nn.Module):
    """p(c | x_t, t): noised images and their times -> class logits.

    The down path of the U-Net: two residual blocks a level, conditioned on the time, with half the resolution at each
    further level; then a linear layer to the features, dropout, and a linear layer to the logits. Normalisation is by
    groups, so that the logits, and guidance by them, of one image do not depend on the rest of the batch.

    Args:
        image_shape: (C, H, W); H and W divisible by 2^(levels - 1).
        num_classes: number of classes.
        channels: width of the first level.
        channel_multipliers: width of each level, as a multiple of `channels`.
        num_features: width of the feature layer.
        dropout: probability of dropping a feature in a residual block, and before the logits.
        schedule, num_timesteps, sigma_range: see `zoo.diffusion.process.NoiseProcess`; the same as those of the
            denoiser that it guides.

    Shapes:
        x (B, C, H, W); t (B,) in 0 ... T; logits (B, num_classes).

    References:
        Dhariwal & Nichol 2021, arXiv:2105.05233, section 4; 000_507b39bbaa34acda.txt, section 16.
    """

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
    ) -> None:
        super().__init__()
        image_channels, height, width = image_shape
        stride = 2 ** (len(channel_multipliers) - 1)
        if min(image_shape) < 1 or height % stride or width % stride:
            raise ValueError(
                f"image_shape must be positive, height and width divisible by {stride}, got {image_shape!r}"
            )
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes!r}")
        if channels < 2 or channels % 2:
            raise ValueError(f"channels must be an even positive number, got {channels!r}")
        self.image_shape: tuple[int, int, int] = image_shape
        self.labels = (num_classes,)
        self.process = NoiseProcess(schedule, num_timesteps, sigma_range)
        self.channels = channels
        embedding_width = 4 * channels
        self.embed_time = nn.Sequential(
            nn.Linear(channels, embedding_width), nn.SiLU(), nn.Linear(embedding_width, embedding_width)
        )
        self.conv_in = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.levels = nn.ModuleList()
        current = channels
        for multiplier in channel_multipliers:
            level = nn.ModuleList()
            for _ in range(2):
                level.append(ResidualBlock(current, channels * multiplier, embedding_width, dropout))
                current = channels * multiplier
            self.levels.append(level)
        self.norm_out = group_norm(current)
        self.to_features = nn.Linear(current * (height // stride) * (width // stride), num_features)
        self.to_logits = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), nn.Linear(num_features, num_classes))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image_shape

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two noised images, at a third and at the whole of T."""
        last = self.process.num_timesteps
        x = torch.randn((2, *self.shape), generator=generator)
        return {"x": x, "t": torch.tensor([1 + last // 3, last])}

    def extra_repr(self) -> str:
        return f"shape={tuple(self.shape)}, labels={self.labels}, process={self.process}"

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        dtype = self.conv_in.weight.dtype
        times = embed_times(self.process.in_thousandths(t), self.channels, dtype)
        embedding = F.silu(self.embed_time(times))  # (B, E)
        h = self.conv_in(network_input("eps", self.process, x, t).to(dtype))
        for i, level in enumerate(self.levels):
            h = F.avg_pool2d(h, 2) if i else h  # (B, C, H / 2, W / 2)
            for block in level:  # type: ignore[attr-defined]
                h = block(h, embedding)
        return self.to_logits(self.to_features(F.silu(self.norm_out(h)).flatten(1)))
