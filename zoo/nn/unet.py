"""The U-Net of the image models. Letters: B batch, C channels, H height, W width, E embedding width."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AMOUNTS = 6  # numbers that say how an image was moved: `zoo.nn.augment.random_amounts`


def sinusoidal_embedding(
    t: Tensor, width: int, max_period: float = 10_000.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """[cos(t w_i), sin(t w_i)] with w_i = max_period^(-i / (width/2)), i = 0 ... width/2 - 1.

    Args:
        t: times of shape (B,), whole or fractional, in units of a 1000-step process.
        width: an even number of features.
        dtype: of the arithmetic, float32 or float64.

    Returns:
        Features of shape (B, width), of that type.

    References:
        Vaswani et al. 2017, arXiv:1706.03762, section 3.5; as a time embedding, Ho et al. 2020, arXiv:2006.11239.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, device=t.device, dtype=dtype))
    phases = t.to(dtype)[:, None] * frequencies  # (B, width / 2)
    return torch.cat([phases.cos(), phases.sin()], dim=1)


def embed_times(t: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """`sinusoidal_embedding` for a network in `dtype`, computed in float32 at least."""
    return sinusoidal_embedding(t, width, dtype=torch.promote_types(dtype, torch.float32)).to(dtype)


def label_columns(num_classes: int | Sequence[int]) -> tuple[int, ...]:
    """The number of classes of each label column: 10 -> (10,), (3, 6) as it is, 0 -> ()."""
    columns = tuple(num_classes) if isinstance(num_classes, Sequence) else (num_classes,) if num_classes else ()
    if any(type(count) is not int or count < 1 for count in columns):
        raise ValueError(f"num_classes must be a positive whole number in every column, got {num_classes!r}")
    return columns


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with at least 4 channels a group, and never more than 32 groups.

    The usual fixed 32 groups fail below 32 channels, and at 32 channels normalise every channel by itself.
    """
    groups = next(g for g in range(min(32, max(1, channels // 4)), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def zero_init(conv: nn.Conv2d) -> nn.Conv2d:
    """Sets every parameter to zero, so that a residual branch starts as the identity."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class ResidualBlock(nn.Module):
    """x -> skip(x) + conv(drop(silu((1 + scale) * norm(conv(silu(norm(x)))) + shift))).

    Scale and shift are linear in the embedding (Dhariwal & Nichol 2021, arXiv:2105.05233, eq. 3, AdaGN).
    """

    def __init__(self, in_channels: int, out_channels: int, embedding_width: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = group_norm(in_channels)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding_width, 2 * out_channels)
        self.norm_out = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)  # each (B, C, 1, 1)
        h = F.silu(torch.addcmul(shift, self.norm_out(h), 1 + scale))
        return self.skip(x) + self.conv_out(self.dropout(h))


class SelfAttention(nn.Module):
    """x -> x + project(softmax(Q K^T / sqrt(d)) V) over the H W positions; heads of `head_width` channels."""

    def __init__(self, channels: int, head_width: int = 32) -> None:
        super().__init__()
        self.heads = max(1, channels // head_width)
        if channels % self.heads:
            raise ValueError(f"channels must be divisible by the number of heads {self.heads}, got {channels!r}")
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (B, heads, H W, C / heads)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.project(h.transpose(-1, -2).reshape(batch, channels, height, width))


class Stage(nn.Module):
    """A residual block, followed by self-attention if `attention` is true."""

    def __init__(self, widths: tuple[int, int], embedding_width: int, dropout: float, attention: bool) -> None:
        super().__init__()
        self.block = ResidualBlock(*widths, embedding_width, dropout)
        self.attention = SelfAttention(widths[1]) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))


class UNet(nn.Module):
    """Predicts one value per pixel from a noisy image, its time, and optionally its class.

    Down path: per level `blocks_per_level` residual blocks, then a strided convolution. Middle: residual,
    attention, residual. Up path: `blocks_per_level + 1` blocks a level, each fed the matching feature map of the down
    path, then nearest up-sampling and a convolution. The last convolution starts at zero.

    Args:
        image_shape: (C, H, W); H and W divisible by 2^(levels - 1).
        channels: width of the first level.
        channel_multipliers: width of each level, as a multiple of `channels`.
        blocks_per_level: residual blocks a level on the way down.
        attention_levels: levels with self-attention, 0 the finest; the middle has it if the last level has.
        dropout: probability of dropping a feature in a residual block.
        num_classes: number of classes of each label column; one number for one column, 0 for no labels.
        null_label: whether each column has one more class, number num_classes, that stands for "no label".
        patch_size: side of the pixel blocks that become channels of the first level; 2 makes each layer 4 times
            cheaper, and no pixel is lost.
        fourier: numbers n whose sin(2^n pi x) and cos(2^n pi x) the first convolution takes beside x: they show it
            differences of x that are small beside x itself, which the likelihood of grey levels depends on.
        augmentation_labels: whether the network can be told how its images were augmented; what it is told adds a
            linear function, 0 for no augmentation, to the embedding of the time. Without being told it predicts images
            that were not augmented.

    Shapes:
        x (B, C, H, W); t (B,) in units of a 1000-step process; labels (B,) or (B, columns); augmentation (B, AMOUNTS);
        output as x, in the type of the weights.

    References:
        Ho et al. 2020, arXiv:2006.11239, appendix B; Dhariwal & Nichol 2021, arXiv:2105.05233, section 3; patches:
        Hoogeboom et al. 2023, arXiv:2301.11093, section 3.2; augmentation: Karras et al. 2022, arXiv:2206.00364,
        appendix F.2; Fourier features: Kingma et al. 2021, arXiv:2107.00630, section 3.4.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        blocks_per_level: int = 1,
        attention_levels: tuple[int, ...] = (1,),
        dropout: float = 0.1,
        num_classes: int | tuple[int, ...] = 0,
        null_label: bool = False,
        patch_size: int = 1,
        augmentation_labels: bool = False,
        fourier: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        image_channels, height, width = image_shape
        levels = len(channel_multipliers)
        if patch_size < 1:
            raise ValueError(f"patch_size must be at least 1, got {patch_size!r}")
        stride = patch_size * 2 ** (levels - 1)
        if min(image_shape) < 1 or height % stride or width % stride:
            raise ValueError(
                f"image_shape must be positive, height and width divisible by {stride} for {levels} levels"
                f"{f' of patches of {patch_size}' if patch_size > 1 else ''}, got {image_shape!r}"
            )
        if any(level not in range(levels) for level in attention_levels):
            raise ValueError(f"attention_levels must lie in 0 ... {levels - 1}, got {attention_levels!r}")
        if channels < 2 or channels % 2:
            raise ValueError(f"channels must be an even positive number, got {channels!r}")
        embedding_width = 4 * channels
        self.channels = channels
        self.embed_time = nn.Sequential(
            nn.Linear(channels, embedding_width), nn.SiLU(), nn.Linear(embedding_width, embedding_width)
        )
        self.embed_label = nn.ModuleList(
            nn.Embedding(count + null_label, embedding_width) for count in label_columns(num_classes)
        )
        self.embed_augmentation = nn.Linear(AMOUNTS, embedding_width, bias=False) if augmentation_labels else None
        self.patch_size = patch_size
        patch_channels = image_channels * patch_size**2
        self.fourier = fourier
        self.conv_in = nn.Conv2d(patch_channels * (1 + 2 * len(fourier)), channels, 3, padding=1)

        widths = [channels * multiplier for multiplier in channel_multipliers]
        current, skips = channels, [channels]  # `skips`: widths of the feature maps that the up path will take
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        for level, level_width in enumerate(widths):
            stages = nn.ModuleList()
            for _ in range(blocks_per_level):
                stages.append(Stage((current, level_width), embedding_width, dropout, level in attention_levels))
                current = level_width
                skips.append(current)
            self.down.append(stages)
            if level < levels - 1:
                self.downsample.append(nn.Conv2d(current, current, 3, stride=2, padding=1))
                skips.append(current)

        self.middle_in = Stage((current, current), embedding_width, dropout, levels - 1 in attention_levels)
        self.middle_out = ResidualBlock(current, current, embedding_width, dropout)

        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level, level_width in reversed(list(enumerate(widths))):
            stages = nn.ModuleList()
            for _ in range(blocks_per_level + 1):
                pair = (current + skips.pop(), level_width)
                stages.append(Stage(pair, embedding_width, dropout, level in attention_levels))
                current = level_width
            self.up.append(stages)
            if level > 0:
                self.upsample.append(nn.Conv2d(current, current, 3, padding=1))

        self.norm_out = group_norm(current)
        self.conv_out = zero_init(nn.Conv2d(current, patch_channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, augmentation: Tensor | None = None) -> Tensor:
        dtype = self.conv_in.weight.dtype
        embedding = self.embed_time(embed_times(t, self.channels, dtype))  # (B, E)
        if (labels is None) == bool(self.embed_label):
            raise ValueError(f"labels must {'be given' if labels is None else 'not be given'} to this network")
        if labels is not None:
            if labels.is_floating_point():
                raise ValueError(f"labels must be whole numbers, got the type {labels.dtype}")
            columns = labels.long().view(len(labels), len(self.embed_label)).unbind(1)
            for embed, column in zip(self.embed_label, columns, strict=True):
                embedding = embedding + embed(column)
        if self.embed_augmentation is not None:
            amounts = x.new_zeros(len(x), AMOUNTS) if augmentation is None else augmentation
            embedding = embedding + self.embed_augmentation(amounts.to(dtype))
        elif augmentation is not None:
            raise ValueError("augmentation must not be given to a network without augmentation_labels")
        embedding = F.silu(embedding)

        x = x.to(dtype)
        waves = [wave(2**n * math.pi * x) for n in self.fourier for wave in (torch.sin, torch.cos)]
        h = self.conv_in(F.pixel_unshuffle(torch.cat([x, *waves], 1), self.patch_size))  # (B, C, H / patch, W / patch)
        skips = [h]
        for i, level in enumerate(self.down):
            for stage in level:  # type: ignore[attr-defined]
                h = stage(h, embedding)
                skips.append(h)
            if i < len(self.downsample):
                h = self.downsample[i](h)  # (B, C, H / 2, W / 2)
                skips.append(h)
        h = self.middle_out(self.middle_in(h, embedding), embedding)
        for i, level in enumerate(self.up):
            for stage in level:  # type: ignore[attr-defined]
                h = stage(torch.cat([h, skips.pop()], dim=1), embedding)
            if i < len(self.upsample):
                h = self.upsample[i](F.interpolate(h, scale_factor=2.0, mode="nearest"))  # (B, C, 2 H, 2 W)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch_size)
