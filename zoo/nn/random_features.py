"""A convolutional network with fixed random weights: features that no training has seen."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (32, 64, 64)  # channels of the convolutions
SEED = 0


class RandomFeatures(nn.Module):
    """Features of images by three convolutions and a linear layer whose weights are drawn once, the same everywhere.

        h_1 = relu(W_1 * x),  h_2 = relu(W_2 * h_1),  h_3 = relu(W_3 * h_2),  features = A h_3

    3x3 kernels, strides 1, 2, 2, no biases. The weights are uniform with variance 2 / fan-in, those of A with
    1 / fan-in. Distances between such features see what a classifier learns to overlook, as blur, noise and shifts of a
    pixel; they see less of how often each class comes.

    Args:
        image_shape: (C, H, W). num_features: width of the features.

    Shapes:
        x (B, C, H, W) in [-1, 1]; features (B, num_features).

    References:
        Naeem et al. 2020, arXiv:2002.09797, who use random features for images unlike photographs.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_features: int = 64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)

        def uniform(*shape: int, variance: float) -> Tensor:
            # uniform numbers are the generator's own bits; normal ones depend on a processor's vector instructions
            return (2 * torch.rand(shape, generator=generator) - 1) * (3 * variance) ** 0.5

        width, height, breadth = image_shape
        for i, channels in enumerate(WIDTHS):
            self.register_buffer(f"kernel_{i}", uniform(channels, width, 3, 3, variance=2 / (9 * width)))
            width = channels
            if i:
                height, breadth = -(-height // 2), -(-breadth // 2)
        inputs = width * height * breadth
        self.register_buffer("projection", uniform(num_features, inputs, variance=1 / inputs))

    def features(self, x: Tensor) -> Tensor:
        """(B, num_features)."""
        for i in range(len(WIDTHS)):
            x = F.relu(F.conv2d(x, self.get_buffer(f"kernel_{i}"), stride=2 if i else 1, padding=1))
        return x.flatten(1) @ self.get_buffer("projection").T
