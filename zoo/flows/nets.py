"""Conditioners: what a coupling computes its parameters with. The last layer starts at zero: the coupling is then the
identity, which keeps a deep flow finite at the start (Glow, arXiv:1807.03039, section 3.3)."""

from typing import Any

from torch import Tensor, nn


class MLP(nn.Module):
    """(B, inputs) -> (B, outputs) through `depth` hidden layers, with ReLU.

    Args:
        inputs, outputs, hidden: widths. depth: hidden layers, at least 1.
        context: width of the context, added to the first hidden layer by a linear map; 0 for none.
        dropout: probability of dropping a hidden unit, after each activation but the first.
        residual: whether hidden layers but the first add to what they are given.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int = 128,
        depth: int = 2,
        context: int = 0,
        dropout: float = 0.0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.first = nn.Linear(inputs, hidden)
        self.context = nn.Linear(context, hidden, bias=False) if context else None
        self.hidden = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth - 1))
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.last = _zero(nn.Linear(hidden, outputs))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.first(x)
        if self.context is not None:
            x = x + self.context(context)
        for layer in self.hidden:
            new = layer(x.relu() if self.residual else x.relu_())
            new = new if self.dropout is None else self.dropout(new)
            x = x + new if self.residual else new
        return self.last(x.relu_())


class ConvNet(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H, W): 3x3, `depth` - 1 times 1x1, 3x3, with ReLU; Glow's own at depth 2.

    Args:
        inputs, outputs, hidden: channels. depth: hidden layers, at least 1.
        context: width of the context, added to the first hidden layer by a linear map; 0 for none.
        dropout: probability of dropping a channel before the last layer.
        residual: whether hidden layers but the first are 3x3 and add to what they are given, as in Real NVP.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int = 64,
        depth: int = 2,
        context: int = 0,
        dropout: float = 0.0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.residual, size = residual, 3 if residual else 1
        self.first = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.context = nn.Linear(context, hidden, bias=False) if context else None
        self.hidden = nn.ModuleList(nn.Conv2d(hidden, hidden, size, padding="same") for _ in range(depth - 1))
        self.dropout = nn.Dropout2d(dropout) if dropout else None
        self.last = _zero(nn.Conv2d(hidden, outputs, 3, padding=1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.first(x)
        if self.context is not None:
            x = x + self.context(context)[..., None, None]
        for layer in self.hidden:
            x = x + layer(x.relu()) if self.residual else layer(x.relu_())
        x = x.relu_()
        return self.last(x if self.dropout is None else self.dropout(x))


def _zero(layer: Any) -> Any:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
