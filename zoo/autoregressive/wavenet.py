"""WaveNet: dilated causal convolutions over the raster."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.autoregressive.inputs import Inputs


class WaveNet(nn.Module):
    """z_d = tanh(a) sigmoid(b),    (a, b) = W (h_{d - s}, h_d),    h <- h + R z,    output from sum of all S z.

    A layer with dilation s sees entry d and entry d - s; the dilations 1, 2, 4, ... double until they reach D and then
    start again, so that ceil(log2 D) layers see every earlier entry. The layers are the same for one pass over all
    entries and for one entry with a cache of h_{d - s}: a sample costs as much as one pass.

    Args:
        dims: D.
        outputs: P, numbers for each entry.
        width: of h.
        depth: layers.
        dropout: probability of dropping an entry of z.
        condition: numbers in the condition, 0 for none.
        names: K, of entries that are names 0 ... K - 1; 0 for amounts.

    References:
        van den Oord et al. 2016, arXiv:1609.03499, equation 2 and figure 4; Bai et al. 2018, arXiv:1803.01271;
        001_7af9247201bdf7d9.txt, section 3.
    """

    def __init__(
        self, dims: int, outputs: int, width: int, depth: int, dropout: float, condition: int, names: int = 0
    ) -> None:
        super().__init__()
        self.dims = dims
        cycle = max(1, (dims - 1).bit_length())
        self.dilations = [2 ** (i % cycle) for i in range(depth)]
        self.inputs = Inputs(dims, width, condition, names=names)
        self.layers = nn.ModuleList(_Layer(width, dropout, last=i == depth - 1) for i in range(depth))
        self.output = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, outputs))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Numbers for each entry given those before it: x (B, D), condition (B, K) -> (B, D, P)."""
        h, total = self.inputs(x, condition), 0.0
        for layer, dilation in zip(self.layers, self.dilations, strict=True):
            h, skip = layer(F.pad(h, (0, 0, dilation, 0))[:, : self.dims], h)
            total = total + skip
        return self.output(total)

    def steps(self, batch: int, condition: Tensor | None = None) -> Callable[[int, Tensor], Tensor]:
        """Of entry i, given x (B, D) with those before it: (i, x) -> (B, P), for i = 0, 1, ... in turn."""
        past: list[list[Tensor]] = [[] for _ in self.layers]  # what each layer has read

        def step(i: int, x: Tensor) -> Tensor:
            h, total = self.inputs.at(i, x, condition).expand(batch, -1, -1), 0.0
            for layer, dilation, seen in zip(self.layers, self.dilations, past, strict=True):
                seen.append(h)
                h, skip = layer(seen[i - dilation] if i >= dilation else torch.zeros_like(h), h)
                total = total + skip
            return self.output(total)[:, 0]

        return step


class _Layer(nn.Module):
    """(h_{d-s}, h_d), each (B, T, width) -> the next h_d, of which the last layer has no need, and S z."""

    def __init__(self, width: int, dropout: float, last: bool) -> None:
        super().__init__()
        self.gates = nn.Linear(2 * width, 2 * width)
        self.residual = None if last else nn.Linear(width, width)
        self.skip = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, past: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = self.gates(torch.cat([past, now], -1)).chunk(2, dim=-1)
        z = self.dropout(value.tanh() * gate.sigmoid())
        return now if self.residual is None else now + self.residual(z), self.skip(z)
