"""Layers of Transformers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layer(nn.Module):
    """A layer of a Transformer; each part reads the layer-normed h and adds to h.

        h <- h + O softmax(q k^T / sqrt(width / heads) + M) v        q, k, v of h
        h <- h + O' softmax(q' k'^T / sqrt(width / heads) + M') v'   q' of h, k' and v' of a memory; only if `cross`
        h <- h + W_2 gelu(W_1 h)

    Args:
        width: of h and of the memory, a multiple of the heads.
        heads: of each attention.
        dropout: probability of dropping what a part adds to h, by entry.
        cross: whether the layer reads a memory.

    References:
        Vaswani et al. 2017, arXiv:1706.03762, equation 1 and figure 1; Radford et al. 2019 for the norm before each
        part, where the paper has it after; 004_2b20c020fc470ac5.txt, section 1.2.1.
    """

    def __init__(self, width: int, heads: int, dropout: float, cross: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.project, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.cross = CrossAttention(width, heads) if cross else None
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, h: Tensor, memory: Tensor | None = None, mask: Tensor | None = None, *, causal: bool = True
    ) -> Tensor:
        """(B, T, width) -> the same.

        Args:
            h: the entries.
            memory: what `read` made of it, of a layer with `cross`.
            mask: (B, 1, 1, S) true where a key may be seen, of the memory, or of h if the layer is not causal.
            causal: whether an entry sees itself and those before it, or all that the mask lets through.
        """
        q, k, v = self._project(h)
        own = F.scaled_dot_product_attention(q, k, v, None if causal else mask, is_causal=causal)
        return self._add(h, own, memory, mask)

    def next(
        self, h: Tensor, past: Tensor | None, memory: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One entry (B, 1, width) -> the same, and the keys and values up to it, (2, B, heads, T, width / heads)."""
        q, k, v = self._project(h)
        new = torch.stack([k, v])
        past = new if past is None else torch.cat([past, new], dim=3)
        return self._add(h, F.scaled_dot_product_attention(q, past[0], past[1]), memory, mask), past

    def _project(self, h: Tensor) -> Tensor:
        """Queries, keys and values, (3, B, heads, T, width / heads)."""
        return self.project(self.norm(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def _add(self, h: Tensor, own: Tensor, memory: Tensor | None, mask: Tensor | None) -> Tensor:
        h = h + self.dropout(self.out(own.transpose(1, 2).flatten(2)))
        if self.cross is not None:
            h = h + self.dropout(self.cross(h, memory, mask))
        return h + self.dropout(self.perceptron(h))


class CrossAttention(nn.Module):
    """O softmax(q k^T / sqrt(width / heads) + M) v, with q of the layer-normed h, and k and v of a memory."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.query, self.out = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)

    def read(self, memory: Tensor) -> Tensor:
        """Keys and values of a memory (B, S, width): (2, B, heads, S, width / heads)."""
        return self.key_value(memory).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, h: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        q = self.query(self.norm(h)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.out(F.scaled_dot_product_attention(q, memory[0], memory[1], mask).transpose(1, 2).flatten(2))
