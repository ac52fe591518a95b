"""Velocity fields v(t, x) with their divergence, computed forwards in one pass instead of by a differentiation each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import UserError


def _tanh(a: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.tanh(a)
    return value, 1 - value * value


def _silu(a: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(a)
    value = a * gate
    return value, gate + value * (1 - gate)


def _softplus(a: Tensor) -> tuple[Tensor, Tensor]:
    return F.softplus(a), torch.sigmoid(a)


ACTIVATIONS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "tanh": _tanh,
    "silu": _silu,
    "softplus": _softplus,
}  # a -> (value, derivative): smooth ones, since a solver's order is that of its field


class Change(NamedTuple):
    """v (B, D); its divergence (B,), or an estimate; (dv/dx) e (B, D), if a probe e was given."""

    velocity: Tensor
    divergence: Tensor
    product: Tensor | None


class VelocityMLP(nn.Module):
    """v(t, x) = W h_L + b + alpha(t) x + beta(t),   h_l = phi((W_l h_{l-1} + b_l) (1 + g_l(t)) + s_l(t)),   h_0 = x.

    Gates g, shifts s, alpha and beta are linear in the features cos(pi k t), k = 0 ... `frequencies` - 1, and in the
    context. At first v = 0. Where data is Gaussian, the term alpha(t) x is the whole of the velocity.

    The trace of dv/dx comes exactly, with d_l = (1 + g_l) * phi'(a_l):
        one hidden layer:   sum_k d_1k (W_1 W)_kk
        two hidden layers:  d_2^T (W_2 * (W_1 W)^T) d_1, one more product with a hidden matrix whatever D is
        more:               D tangents carried through the layers

    Args:
        dims: D. hidden: width. depth: hidden layers. context: size of the context vector, 0 for none.
        activation: "tanh", "silu" or "softplus".
        dropout: of hidden features, in `forward` while training; a solve never drops, so that it has one field.
        frequencies: time features.

    References:
        Grathwohl et al. 2019, arXiv:1810.01367 (gates and shifts by time: its "concatsquash" layers, appendix B.1).
    """

    phases: Tensor

    def __init__(
        self,
        dims: int,
        hidden: int = 64,
        depth: int = 3,
        context: int = 0,
        activation: str = "tanh",
        dropout: float = 0.0,
        frequencies: int = 8,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UserError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        for name, value in {"dims": dims, "hidden": hidden, "depth": depth, "frequencies": frequencies}.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value!r}")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout must be at least 0 and below 1, got {dropout!r}")
        self.dims, self.depth, self.activation, self.dropout = dims, depth, activation, dropout
        self.layers: Any = nn.ModuleList(nn.Linear(dims if i == 0 else hidden, hidden) for i in range(depth))
        self.head = nn.Linear(hidden, dims)
        self.modulation = nn.Linear(frequencies + context, 2 * depth * hidden + 2 * dims)
        for layer in (self.head, self.modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("phases", torch.pi * torch.arange(frequencies), persistent=False)
        self._sizes = [hidden] * (2 * depth) + [dims] * 2

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """v (B, D) at times t of shape () or (B,), points x (B, D), context (B, C)."""
        h, _, scale, shift = self._hidden(t, x, context, derivatives=False)
        return torch.addcmul(self.head(h) + shift, scale, x)

    def velocity(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`forward` without dropout."""
        dropout, self.dropout = self.dropout, 0.0
        try:
            return self(t, x, context)
        finally:
            self.dropout = dropout

    def change(
        self, t: Tensor, x: Tensor, context: Tensor | None = None, probe: Tensor | None = None, exact: bool = True
    ) -> Change:
        """v and its divergence: exact, or e . (dv/dx) e with the probe e (B, D), which has E e e^T = I.

        Args:
            t: () or (B,). x: (B, D). context: (B, C). probe: needed unless `exact`; also gives (dv/dx) e.

        References:
            Hutchinson 1990; Grathwohl et al. 2019, arXiv:1810.01367, eq. 7.
        """
        h, slopes, scale, shift = self._hidden(t, x, context)
        v = torch.addcmul(self.head(h) + shift, scale, x)
        product = None
        if probe is not None:
            tangent = self._carry(F.linear(probe, self.layers[0].weight), slopes)
            product = torch.addcmul(F.linear(tangent, self.head.weight), scale, probe)
        if not exact:
            assert probe is not None
            assert product is not None
            return Change(v, (probe * product).sum(-1), product)
        return Change(v, self._trace(slopes) + scale.sum(-1), product)

    def _hidden(
        self, t: Tensor, x: Tensor, context: Tensor | None, derivatives: bool = True
    ) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """h_L, the slopes d_l, alpha and beta."""
        features = torch.cos(self.phases * t[..., None])
        if context is not None:
            features = torch.cat([features.expand(len(x), -1), context], -1)
        *gates, scale, shift = self.modulation(features).split(self._sizes, -1)
        h, slopes = x, []
        for i, layer in enumerate(self.layers):
            gate = 1 + gates[2 * i]
            h, slope = ACTIVATIONS[self.activation](torch.addcmul(gates[2 * i + 1], layer(h), gate))
            if derivatives:
                slopes.append(slope * gate)
            elif self.dropout:
                h = F.dropout(h, self.dropout, self.training)
        return h, slopes, scale, shift

    def _carry(self, tangents: Tensor, slopes: list[Tensor]) -> Tensor:
        """Tangents of the first layer's input (..., B, H), times W_1, become those of h_L."""
        tangents = tangents * slopes[0]
        for layer, slope in zip(self.layers[1:], slopes[1:], strict=True):
            tangents = F.linear(tangents, layer.weight) * slope
        return tangents

    def _trace(self, slopes: list[Tensor]) -> Tensor:
        """Trace of W diag(d_L) W_L ... diag(d_1) W_1, (B,)."""
        inner: Tensor = self.layers[0].weight  # (H, D)
        if self.depth == 1:
            return slopes[0] @ (inner * self.head.weight.T).sum(1)
        if self.depth == 2:
            cycle = self.layers[1].weight * (inner @ self.head.weight).T
            return (F.linear(slopes[0], cycle) * slopes[1]).sum(-1)
        tangents = self._carry(inner.T[:, None], slopes)  # (D, B, H)
        return (tangents * self.head.weight[:, None]).sum((0, 2))
