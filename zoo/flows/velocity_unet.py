"""A velocity field of images by a U-Net."""

from torch import Tensor, nn

from zoo.diffusion.autograd import vector_jacobian
from zoo.flows.velocity import Change
from zoo.nn.unet import UNet


class VelocityUNet(nn.Module):
    """v(t, x) = (2t - 1) s^2 x + s F(s x, t),   s = 1 / sqrt(t^2 + (1 - t)^2),   F a U-Net.

    On the paths x_t = (1 - t) z + t x of flow matching, with entries of x and z of unit variance and independent, s x_t
    has unit variance, the first term is the linear regression of x - z on x_t, and its residual has variance s^2. So
    the input and the target of F have unit variance at every time. At first F = 0 and the flow is the identity.

    Args:
        image_shape: (C, H, W). channels, channel_multipliers, patch_size, dropout, num_classes: see `zoo.nn.unet.UNet`,
            which has attention at its last level.

    Shapes:
        t () or (B,); x (B, C H W); context (B, num_classes), one-hot; v as x.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        patch_size: int = 1,
        dropout: float = 0.0,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        attention = (len(channel_multipliers) - 1,)
        self.network = UNet(
            image_shape, channels, channel_multipliers, 1, attention, dropout, num_classes, patch_size=patch_size
        )

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        t = t.expand(len(x))
        scale = (t**2 + (1 - t) ** 2).rsqrt()[:, None]
        labels = None if context is None else context.argmax(1)
        h = self.network((scale * x).view(-1, *self.image_shape), 1000 * t, labels)
        return (2 * t[:, None] - 1) * scale**2 * x + scale * h.flatten(1)

    velocity = forward  # in evaluation mode, where nothing is dropped

    def change(
        self, t: Tensor, x: Tensor, context: Tensor | None = None, probe: Tensor | None = None, exact: bool = False
    ) -> Change:
        """v and e . (dv/dx) e with the probe e (B, D); nothing is differentiated through them.

        References:
            Hutchinson 1990; Grathwohl et al. 2019, arXiv:1810.01367, eq. 7.
        """
        assert probe is not None
        v, (product,) = vector_jacobian(lambda leaf: self(t, leaf, context), x, [probe])
        return Change(v, (probe * product).sum(-1), product)
