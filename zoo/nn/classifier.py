"""A small convolutional classifier, which judges generated images and provides the features of their FID."""

import torch
from torch import Tensor, nn

from zoo.nn.unet import group_norm


class ImageClassifier(nn.Module):
    """Images -> class logits, through `num_features` features.

    Two convolutions a level, each with group normalisation and SiLU, halving the resolution between levels; then a
    linear layer to the features, dropout, and a linear layer to the logits.

    Args:
        image_shape: (C, H, W); H and W divisible by 2^(levels - 1).
        num_classes: number of classes.
        channels: width of the first level.
        channel_multipliers: width of each level, as a multiple of `channels`.
        num_features: width of the feature layer.
        dropout: probability of dropping a feature before the logits.

    Shapes:
        x (B, C, H, W) in [-1, 1]; logits (B, num_classes); features (B, num_features).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        num_features: int = 64,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        current, height, width = image_shape
        stride = 2 ** (len(channel_multipliers) - 1)
        if height % stride or width % stride:
            raise ValueError(f"image_shape must have height and width divisible by {stride}, got {image_shape!r}")
        self.image_shape: tuple[int, int, int] = image_shape
        self.labels = (num_classes,)
        self.num_features = num_features
        layers: list[nn.Module] = []
        for level, multiplier in enumerate(channel_multipliers):
            layers += [nn.AvgPool2d(2)] if level else []
            for _ in range(2):
                layers += [nn.Conv2d(current, channels * multiplier, 3, padding=1)]
                current = channels * multiplier
                layers += [group_norm(current), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        positions = height * width // stride**2
        self.to_features = nn.Sequential(nn.Flatten(), nn.Linear(current * positions, num_features), nn.SiLU())
        self.to_logits = nn.Sequential(nn.Dropout(dropout), nn.Linear(num_features, num_classes))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image_shape

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two images of noise."""
        return {"x": torch.randn((2, *self.shape), generator=generator)}

    def features(self, x: Tensor) -> Tensor:
        """The representation before the logits, (B, num_features)."""
        return self.to_features(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.to_logits(self.features(x))
