"""The causal Transformer."""

from collections.abc import Callable

from torch import Tensor, nn

from zoo.autoregressive.inputs import Inputs
from zoo.nn.attention import Layer


class Transformer(nn.Module):
    """h <- h + O softmax(q k^T / sqrt(width / heads) + M) v,    h <- h + W_2 gelu(W_1 h), each of layer-normed h.

    M is minus infinity where a key lies after its query. Input d holds entry d - 1, and nothing the first, so that the
    diagonal of M may stay. A sample keeps the keys and values of earlier entries: it costs as much as one pass.

    Args:
        dims: D.
        outputs: P, numbers for each entry.
        width: of h, a multiple of the heads.
        depth: layers.
        heads: of the attention.
        dropout: probability of dropping what a layer adds to h, by entry.
        condition: numbers in the condition, 0 for none.
        names: K, of entries that are names 0 ... K - 1; 0 for amounts.

    References:
        Vaswani et al. 2017, arXiv:1706.03762, equation 1; Radford et al. 2019 for the norm before each layer;
        001_7af9247201bdf7d9.txt, section 3.1; 004_2b20c020fc470ac5.txt, section 1.2.1.
    """

    def __init__(
        self,
        dims: int,
        outputs: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        condition: int,
        names: int = 0,
    ) -> None:
        super().__init__()
        self.inputs = Inputs(dims, width, condition, names=names)
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(depth))
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Numbers for each entry given those before it: x (B, D), condition (B, K) -> (B, D, P)."""
        h = self.inputs(x, condition)
        for layer in self.layers:
            h = layer(h)
        return self.output(h)

    def steps(self, batch: int, condition: Tensor | None = None) -> Callable[[int, Tensor], Tensor]:
        """Of entry i, given x (B, D) with those before it: (i, x) -> (B, P), for i = 0, 1, ... in turn."""
        past: list[Tensor | None] = [None for _ in self.layers]  # keys and values, (2, B, heads, i, width / heads)

        def step(i: int, x: Tensor) -> Tensor:
            h = self.inputs.at(i, x, condition).expand(batch, -1, -1)
            for j, layer in enumerate(self.layers):
                h, past[j] = layer.next(h, past[j])  # type: ignore[operator]
            return self.output(h)[:, 0]

        return step
