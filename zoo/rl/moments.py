"""Running mean and variance of what environments give, as buffers: they are saved with the weights."""

import torch
from torch import Tensor, nn


class RunningMoments(nn.Module):
    """Mean and variance of everything seen so far; `normalize` gives clip((x - mean) / sqrt(var + 1e-8), -c, c).

    Sums are merged pairwise, in float64, so that the parts may come in any sizes and from any number of processes.

    Args:
        shape: of one item; () for numbers.
        clip: c.

    References:
        Chan, Golub, LeVeque 1979, Updating formulae and a pairwise algorithm for computing sample variances, eq. 2.1.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, shape: tuple[int, ...] = (), clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))

    def scale(self) -> Tensor:
        """1 / sqrt(var + 1e-8), float32."""
        return (self.variance + 1e-8).rsqrt().float()

    def normalize(self, x: Tensor) -> Tensor:
        """(..., *shape) -> the same in float32, centred, scaled and clipped."""
        return ((x - self.mean.float()) * self.scale()).clamp(-self.clip, self.clip)

    @staticmethod
    def sums(x: Tensor) -> Tensor:
        """What `merge` needs of items (n, *shape): (3, *shape) float64, the count, the sum and the sum of squares."""
        x = x.double()
        return torch.stack([torch.full_like(x[:1].sum(0), len(x)), x.sum(0), x.square().sum(0)])

    def merge(self, sums: Tensor) -> None:
        """Takes in the `sums` of new items, which may be added over processes first."""
        count, total, squares = sums[0].flatten()[0], sums[1], sums[2]
        if not count:
            return
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        whole = self.count + count
        share = count / whole
        shift = mean - self.mean
        # before the first item the variance of 1 stands for nothing: its share is 0
        self.variance.copy_((1 - share) * self.variance + share * variance + share * (1 - share) * shift.square())
        self.mean.add_(share * shift)
        self.count.copy_(whole)
