"""A recurrent network of the pixels: an LSTM along the raster."""

from collections.abc import Callable

from torch import Tensor, nn

from zoo.autoregressive.inputs import Inputs


class PixelRNN(nn.Module):
    """h_d^l = h_d^{l-1} + LSTM_l(h_1^{l-1}, ..., h_d^{l-1}),    h^0_d = e_d, of the entries up to one row before d.

    The sequence is the raster itself, so that the state alone reaches beyond the row above: the Row LSTM and the
    Diagonal BiLSTM of the paper carry a state for each column instead, and are not here. A sample keeps the state: it
    costs as much as one pass.

    Args:
        shape: (C, H, W).
        outputs: P, numbers for each entry.
        width: of h, and of the state of each layer.
        depth: layers.
        dropout: probability of dropping what a layer adds to h, by entry.
        condition: numbers in the condition, 0 for none.

    References:
        van den Oord et al. 2016, arXiv:1601.06759, section 3; 001_7af9247201bdf7d9.txt, section 3.
    """

    def __init__(
        self, shape: tuple[int, int, int], outputs: int, width: int, depth: int, dropout: float, condition: int
    ) -> None:
        super().__init__()
        channels, rows, columns = shape
        self.inputs = Inputs(channels * rows * columns, width, condition, window=channels * (columns + 1))
        self.layers = nn.ModuleList(nn.LSTM(width, width, batch_first=True) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, outputs))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Numbers for each entry given those before it: x (B, D), condition (B, K) -> (B, D, P)."""
        h = self.inputs(x, condition)
        for layer in self.layers:
            h = h + self.dropout(layer(h)[0])
        return self.output(h)

    def steps(self, batch: int, condition: Tensor | None = None) -> Callable[[int, Tensor], Tensor]:
        """Of entry i, given x (B, D) with those before it: (i, x) -> (B, P), for i = 0, 1, ... in turn."""
        states: list[tuple[Tensor, Tensor] | None] = [None for _ in self.layers]

        def step(i: int, x: Tensor) -> Tensor:
            h = self.inputs.at(i, x, condition).expand(batch, -1, -1)
            for j, layer in enumerate(self.layers):
                found, states[j] = layer(h, states[j])
                h = h + found
            return self.output(h)[:, 0]

        return step
