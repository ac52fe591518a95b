"""The way of grey levels into a flow: through each pixel's own histogram to uniform noise, and on to the base.

    u_i = F_i(y_i),    z_i = Q(alpha + (1 - 2 alpha) u_i),    y_i in [0, 1]

F_i is the cumulative function of a histogram with a bin for each grey level, Q the quantile function of the base.
Without couplings this is the density of independent pixels, exact but for alpha. What follows has their dependence to
learn, and not the edges of the bins, which no smooth map can follow: docs/flows.md says what that gives.
"""

import math

import torch
from torch import Tensor, nn

from zoo.flows.bijection import sum_entries


class Marginals(nn.Module):
    """u_i = c_k + (L y_i - k) pi_k in bin k = floor(L y_i), with learned shares pi of L bins for each entry.

    log |du/dy| = sum_i log (L pi_k). A linear spline on [0, 1]; its border lines go on outside.

    Args:
        shape: of y without the batch. levels: L. Until `fit`, the identity.
        pooling: counts of the histogram of all pixels together, above the lowest level, that `fit` adds to each
            pixel's own: 4,000 images do not tell 784 pixels apart at 256 levels.

    References:
        Müller et al. 2018, Neural importance sampling, arXiv:1808.03856, section 4.2.
    """

    SMOOTHING = 0.1  # added to each count: a level that no training image shows may still come

    def __init__(self, shape: tuple[int, ...], levels: int, pooling: float = 0.0) -> None:
        super().__init__()
        if not 0 <= pooling < math.inf:
            raise ValueError(f"pooling must be at least 0, got {pooling!r}")
        self.levels, self.pooling = levels, pooling
        self.logits = nn.Parameter(torch.zeros(*shape, levels))

    @property
    def is_fitted(self) -> bool:
        """Whether it is not the identity, with which it starts."""
        return bool(self.logits.any())

    @torch.no_grad()
    def fit(self, y: Tensor) -> None:
        """Starts with the shares of the grey levels in y (N, *shape)."""
        k = (self.levels * y).long().clamp(0, self.levels - 1)
        counts = torch.zeros_like(self.logits, dtype=torch.float64)
        counts.scatter_add_(-1, k.movedim(0, -1), torch.ones((), dtype=torch.float64).expand(*k.shape[1:], len(k)))
        counts += self.SMOOTHING
        lowest, above = counts.split([1, self.levels - 1], -1)
        together = above.flatten(0, -2).sum(0)
        pooled = above + self.pooling * together / together.sum()
        # the lowest level, a picture's background, keeps the pixel's own share
        above = pooled * (above.sum(-1, keepdim=True) / pooled.sum(-1, keepdim=True))
        log_share = (torch.cat([lowest, above], -1) / counts.sum(-1, keepdim=True)).log()
        self.logits.copy_(log_share - log_share.mean(-1, keepdim=True))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        k = (self.levels * x).floor().clamp(0, self.levels - 1).long()
        start, log_share = self._at(k)
        return start + (self.levels * x - k) * log_share.exp(), sum_entries(log_share + math.log(self.levels))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        starts = self._starts(self.logits.detach())
        k = (z[..., None] >= starts[..., 1:]).sum(-1)
        start, log_share = self._at(k)
        x = (k + (z - start) * (-log_share).exp()) / self.levels
        return x, -sum_entries(log_share + math.log(self.levels))

    def _at(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """c_k and log pi_k, (B, *shape), of the bins k."""
        table = torch.stack([self._starts(self.logits), self.logits.log_softmax(-1)])  # (2, *shape, L)
        index = k.movedim(0, -1)  # the batch last, where the bins are
        return table.gather(-1, index.expand(2, *index.shape)).movedim(-1, 1).unbind()  # type: ignore[return-value]

    @staticmethod
    def _starts(logits: Tensor) -> Tensor:
        share = logits.softmax(-1)
        return share.cumsum(-1) - share


class Probit(nn.Module):
    """z = Phi^-1(s) with s = alpha + (1 - 2 alpha) u, for u in [0, 1]: uniform noise becomes normal.

    log dz/du = log (1 - 2 alpha) + z^2 / 2 + log (2 pi) / 2. `Logit` is the same for the logistic distribution.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ValueError(f"alpha must be at least 0 and below 0.5, got {alpha!r}")
        self.alpha = alpha

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # bfloat16 has no quantiles
        z = torch.special.ndtri(self.alpha + (1 - 2 * self.alpha) * wide)
        return z.to(x.dtype), sum_entries(self._log_derivative(z))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        wide = z.to(torch.promote_types(z.dtype, torch.float32))
        x = (torch.special.ndtr(wide) - self.alpha) / (1 - 2 * self.alpha)
        return x.to(z.dtype), -sum_entries(self._log_derivative(wide))

    def _log_derivative(self, z: Tensor) -> Tensor:
        return math.log(1 - 2 * self.alpha) + 0.5 * math.log(2 * math.pi) + 0.5 * z.square()
