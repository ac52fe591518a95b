"""The gated PixelCNN: two stacks of convolutions without a blind spot."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelCNN(nn.Module):
    """Convolutions of all rows above a pixel, and of the pixels to its left, with gates tanh(a) sigmoid(b).

    The vertical stack reads the image shifted down by one row; the horizontal stack reads the image shifted right by
    one pixel, and the vertical stack. So both see earlier pixels only, and no kernel needs a mask: that of the vertical
    stack is 2 rows by 3 columns and ends at the pixel's row, that of the horizontal one is 1 by 2 and ends at it.
    After l layers the model sees l + 1 rows above with l columns to either side, and l + 1 pixels to the left. All of
    these count: a single stack of masked kernels has a blind spot to the right. The channels of a pixel follow each
    other: each has an output layer of its own, which also sees the channels before it.

    Args:
        shape: (C, H, W).
        outputs: P, numbers for each entry.
        width: channels of each stack.
        depth: layers.
        dropout: probability of dropping a channel of a gate.
        condition: numbers in the condition, 0 for none.

    References:
        van den Oord et al. 2016, arXiv:1606.05328, equation 2 and figure 2; the shifted inputs: Salimans et al. 2017,
        arXiv:1701.05517; 001_7af9247201bdf7d9.txt, section 3.
    """

    places: Tensor

    def __init__(
        self, shape: tuple[int, int, int], outputs: int, width: int, depth: int, dropout: float, condition: int
    ) -> None:
        super().__init__()
        self.shape = shape
        channels, rows, columns = shape
        down, across = torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns)
        grid = torch.stack([down[:, None].expand(rows, columns), across.expand(rows, columns)])
        self.register_buffer("places", grid[None], persistent=False)
        self.above = nn.Conv2d(channels + 3, width, 1)
        self.left = nn.Conv2d(channels + 3, width, 1)
        self.condition = nn.Linear(condition, 2 * width, bias=False) if condition else None
        self.layers = nn.ModuleList(_Gated(width, dropout, last=i == depth - 1) for i in range(depth))
        self.hidden = nn.ModuleList(nn.Conv2d(width + i, 2 * width, 1) for i in range(channels))
        self.output = nn.ModuleList(nn.Conv2d(2 * width, outputs, 1) for _ in range(channels))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Numbers for each entry given those before it: x (B, D), condition (B, K) -> (B, D, P)."""
        image = self._image(x)
        above, left = self._condition(condition)
        return self._across(image, self._down(image, above), left, self.places)

    def steps(self, batch: int, condition: Tensor | None = None) -> Callable[[int, Tensor], Tensor]:
        """Of entry i, given x (B, D) with those before it: (i, x) -> (B, P), for i = 0, 1, ... in turn.

        The rows above are looked at once a row, and the horizontal stack at one row alone: D / W + H passes and not D.
        """
        channels, _, columns = self.shape
        above, left = self._condition(condition)
        links: list[Tensor] = []

        def step(i: int, x: Tensor) -> Tensor:
            nonlocal links
            row, place = divmod(i, columns * channels)
            if not place or not links:
                links = [link[:, :, row:] for link in self._down(self._image(x)[:, :, : row + 1], above)]
            image = self._image(x)[:, :, row : row + 1]
            return self._across(image, links, left, self.places[:, :, row : row + 1])[:, place]

        return step

    def _down(self, image: Tensor, condition: Tensor | None) -> list[Tensor]:
        """What each layer of the vertical stack hands to the horizontal one."""
        seen = F.pad(_with_ones(image), (0, 0, 1, 0))[:, :, :-1]
        places = self.places[:, :, : image.shape[2]].expand(len(image), -1, -1, -1)
        h = self.above(torch.cat([seen, places], 1))
        h = h if condition is None else h + condition
        links = []
        for layer in self.layers:
            h, link = layer.down(h)  # type: ignore[operator]
            links.append(link)
        return links

    def _across(self, image: Tensor, links: list[Tensor], condition: Tensor | None, places: Tensor) -> Tensor:
        """Numbers for each entry of these rows, (B, rows W C, P)."""
        seen = F.pad(_with_ones(image), (1, 0))[:, :, :, :-1]
        h = self.left(torch.cat([seen, places.expand(len(image), -1, -1, -1)], 1))
        h = h if condition is None else h + condition
        for layer, link in zip(self.layers, links, strict=True):
            h = layer.across(h, link)  # type: ignore[operator]
        found = []
        for i, (hidden, output) in enumerate(zip(self.hidden, self.output, strict=True)):
            found.append(output(F.silu(hidden(torch.cat([F.silu(h), image[:, :i]], 1)))))
        return torch.stack(found, -1).permute(0, 2, 3, 4, 1).flatten(1, 3)  # (B, rows, W, C, P)

    def _image(self, x: Tensor) -> Tensor:
        channels, rows, columns = self.shape
        return x.unflatten(1, (rows, columns, channels)).permute(0, 3, 1, 2)

    def _condition(self, condition: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What is added to the input of each stack."""
        if self.condition is None:
            return None, None
        above, left = self.condition(condition)[..., None, None].chunk(2, dim=1)
        return above, left


class _Gated(nn.Module):
    """v <- v + W gate(conv v),    h <- h + W' gate(conv h + U conv v); the last layer has no use for the next v."""

    def __init__(self, width: int, dropout: float, last: bool) -> None:
        super().__init__()
        self.vertical = nn.Conv2d(width, 2 * width, (2, 3))
        self.horizontal = nn.Conv2d(width, 2 * width, (1, 2))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.vertical_out = None if last else nn.Conv2d(width, width, 1)
        self.horizontal_out = nn.Conv2d(width, width, 1)
        self.dropout = nn.Dropout2d(dropout)

    def down(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The next v, and the term of h."""
        a = self.vertical(F.pad(v, (1, 1, 1, 0)))
        v = v if self.vertical_out is None else v + self.vertical_out(self.dropout(_gate(a)))
        return v, self.link(a)

    def across(self, h: Tensor, link: Tensor) -> Tensor:
        return h + self.horizontal_out(self.dropout(_gate(self.horizontal(F.pad(h, (1, 0))) + link)))


def _with_ones(image: Tensor) -> Tensor:
    """The image and a channel of ones, which tells it from the padding."""
    return torch.cat([image, torch.ones_like(image[:, :1])], 1)


def _gate(a: Tensor) -> Tensor:
    value, gate = a.chunk(2, dim=1)
    return value.tanh() * gate.sigmoid()
