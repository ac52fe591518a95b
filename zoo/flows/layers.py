"""Bijections with no network: normalisation, mixing, reshaping, and the border between data and flow."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.flows.bijection import sum_entries


class Standardise(nn.Module):
    """z = (x - mean) / std, fixed: a density of z becomes one of x in the units of the data.

    Points are centred in float64, whatever the type of the weights: float32 resolves the seconds since 1970 to two
    minutes. `inverse` gives float64 too where the type of z cannot resolve a thousandth of a standard deviation.

    Args:
        shape: of x without the batch. Until `fit`, the identity.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("std", torch.ones(shape))

    @property
    def is_fitted(self) -> bool:
        """Whether it is not the identity, with which it starts."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    @torch.no_grad()
    def set(self, mean: Tensor, std: Tensor) -> None:
        """Takes the statistics of the training data, of the shape of x.

        Raises:
            UserError: if one is not finite, or a standard deviation is not above zero.
        """
        if not (bool(mean.isfinite().all()) and bool(std.isfinite().all()) and bool((std > 0).all())):
            raise UserError("the data must be finite and must vary in every column: drop the columns that do not")
        self.mean.copy_(mean.expand_as(self.mean))
        self.std.copy_(std.expand_as(self.std))

    def fit(self, x: Tensor) -> None:
        """Takes mean and standard deviation of x (N, *shape)."""
        x = x.double()
        self.set(x.mean(0), x.std(0, correction=0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (x - self.mean).to(self.std.dtype) / self.std, -self.std.log().sum().expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.mean + self.std * z
        coarse = self.mean.abs() * torch.finfo(z.dtype).eps > 1e-3 * self.std
        return x if bool(coarse.any()) else x.to(z.dtype), self.std.log().sum().expand(len(z))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Moves the layer as `fn` does, as for `half()` or `to("cuda")`, but keeps the mean in float64."""
        mean = self.mean
        self.mean = mean.float()  # Apple's GPUs know no float64: there the mean is rounded
        super()._apply(fn, recurse)
        device = self.mean.device
        self.mean = mean.to(device, torch.float32 if device.type == "mps" else torch.float64)
        return self


class Logit(nn.Module):
    """z = logit(s) with s = alpha + (1 - 2 alpha) y, for y in [0, 1].

    dz/dy = (1 - 2 alpha) / (s (1 - s)). With alpha 0, z is infinite where y is 0 or 1.

    References:
        Dinh et al. 2016, arXiv:1605.08803, section 4.1.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ValueError(f"alpha must be at least 0 and below 0.5, got {alpha!r}")
        self.alpha = alpha

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        s = self.alpha + (1 - 2 * self.alpha) * x
        log_s, log_rest = s.log(), torch.log1p(-s)
        return log_s - log_rest, sum_entries(math.log(1 - 2 * self.alpha) - log_s - log_rest)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)
        return y, sum_entries(F.logsigmoid(z) + F.logsigmoid(-z) - math.log(1 - 2 * self.alpha))


class Scale(nn.Module):
    """z = x exp(s), one s an entry: what gives the volume-preserving NICE a volume.

    References:
        Dinh et al. 2014, arXiv:1410.8516, section 3.3.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z * (-self.log_scale).exp(), -self.log_scale.sum().expand(len(z))


class ActNorm(nn.Module):
    """z = (x - m) exp(s), one m and s a feature (or channel), at first such that a batch has mean 0 and variance 1.

    The first training batch sets them, once; evaluation never does. With several processes the statistics are those of
    all their batches together.

    References:
        Kingma and Dhariwal 2018, Glow, arXiv:1807.03039, section 3.1.
    """

    initialised: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.register_buffer("initialised", torch.tensor(False))
        self._ready = False  # what the buffer says, without asking the device at every step
        self.register_load_state_dict_post_hook(_ask_again)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.training and not self._ready:
            self._initialise(x)
        mean, log_scale = self._broadcast(x)
        return (x - mean) * log_scale.exp(), self._ladj(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_scale = self._broadcast(z)
        return mean + z * (-log_scale).exp(), -self._ladj(z)

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        self._ready = True
        if self.initialised:
            return
        values = x.transpose(0, 1).flatten(1).double()  # (features, values of each)
        count = values.new_tensor([values.shape[1]])
        sums = torch.cat([values.sum(1), values.square().sum(1), count])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        if sums[-1] < 2:
            raise UserError("batch_size must be at least 2: the first batch sets the scale of the ActNorm layers")
        self.mean.copy_(mean)
        self.log_scale.copy_(-0.5 * (square - mean.square() + 1e-6).clamp(min=1e-6).log())
        self.initialised.fill_(True)

    def _broadcast(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (x.ndim - 2))
        return self.mean.view(shape), self.log_scale.view(shape)

    def _ladj(self, x: Tensor) -> Tensor:
        return (self.log_scale.sum() * math.prod(x.shape[2:])).expand(len(x))


def _ask_again(module: nn.Module, _: object) -> None:
    module._ready = False  # type: ignore[assignment]


class Permutation(nn.Module):
    """z_i = x_order[i] along dimension 1.

    Args:
        order: each of 0 ... n - 1 once.
    """

    order: Tensor
    undo: Tensor

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        if sorted(order) != list(range(len(order))):
            raise ValueError(f"order must hold each of 0 ... {len(order) - 1} once, got {list(order)!r}")
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("undo", torch.tensor(sorted(range(len(order)), key=order.__getitem__)), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.index_select(1, self.undo), z.new_zeros(len(z))


class InvertibleLinear(nn.Module):
    """z = W x along dimension 1, W = P L (U + diag(sign * exp(s))): of images, an invertible 1x1 convolution.

    log |det| = H W sum(s), one position for vectors. P is fixed, L is unit lower and U strictly upper triangular.

    Args:
        features: the size of dimension 1.
        rotation: whether W starts as a random rotation; else as a random permutation, which leaves each feature itself.

    References:
        Kingma and Dhariwal 2018, Glow, arXiv:1807.03039, section 3.2, equation 10.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, features: int, rotation: bool = False) -> None:
        super().__init__()
        start = torch.eye(features)[torch.randperm(features)]
        if rotation:
            start = torch.linalg.qr(torch.randn(features, features)).Q
        permutation, lower, upper = torch.linalg.lu(start)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_scale = nn.Parameter(diagonal.abs().log())

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper = self._factors()
        return _apply(self.permutation @ lower @ upper, x), self._ladj(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper = self._factors()
        inner = torch.linalg.solve_triangular(lower, self.permutation.T, upper=False, unitriangular=True)
        return _apply(torch.linalg.solve_triangular(upper, inner, upper=True), z), -self._ladj(z)

    def _factors(self) -> tuple[Tensor, Tensor]:
        diagonal = torch.diag(self.sign * self.log_scale.exp())
        return self.lower.tril(-1) + torch.eye(len(diagonal)).to(diagonal), self.upper.triu(1) + diagonal

    def _ladj(self, x: Tensor) -> Tensor:
        return (self.log_scale.sum() * math.prod(x.shape[2:])).expand(len(x))


def _apply(weight: Tensor, x: Tensor) -> Tensor:
    return F.linear(x, weight) if x.ndim == 2 else (weight @ x.flatten(2)).view_as(x)


class Squeeze(nn.Module):
    """Space to depth: each 2x2 square of pixels becomes 4 channels, (B, C, H, W) -> (B, 4 C, H / 2, W / 2).

    References:
        Dinh et al. 2016, arXiv:1605.08803, section 3.6.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return F.pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return F.pixel_shuffle(z, 2), z.new_zeros(len(z))


class Flatten(nn.Module):
    """(B, *shape) -> (B, D)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.unflatten(1, self.shape), z.new_zeros(len(z))
