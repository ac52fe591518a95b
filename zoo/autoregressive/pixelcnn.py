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
        names: levels of entries that are names and not amounts, which are read as one-hot vectors; 0 for amounts.

    References:
        van den Oord et al. 2016, arXiv:1606.05328, equation 2 and figure 2; the shifted inputs: Salimans et al. 2017,
        arXiv:1701.05517; 001_7af9247201bdf7d9.txt, section 3.
    """

    places: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        width: int,
        depth: int,
        dropout: float,
        condition: int,
        names: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.names = shape, names
        channels, rows, columns = shape
        down, across = torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns)
        grid = torch.stack([down[:, None].expand(rows, columns), across.expand(rows, columns)])
        self.register_buffer("places", grid[None], persistent=False)
        entry = names or 1  # numbers by which an entry is read
        self.above = nn.Conv2d(channels * entry + 3, width, 1)
        self.left = nn.Conv2d(channels * entry + 3, width, 1)
        self.condition = nn.Linear(condition, 2 * width, bias=False) if condition else None
        self.layers = nn.ModuleList(_Gated(width, dropout, last=i == depth - 1) for i in range(depth))
        self.hidden = nn.ModuleList(nn.Conv2d(width + i * entry, 2 * width, 1) for i in range(channels))
        self.output = nn.ModuleList(nn.Conv2d(2 * width, outputs, 1) for _ in range(channels))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Numbers for each entry given those before it: x (B, D), condition (B, K) -> (B, D, P)."""
        image, (above, left) = self._image(x), self._condition(condition)
        v = self._start(self.above, F.pad(_with_ones(image), (0, 0, 1, 0))[:, :, :-1], self.places, above)
        h = self._start(self.left, F.pad(_with_ones(image), (1, 0))[:, :, :, :-1], self.places, left)
        for layer in self.layers:
            v, link = layer.down(v, F.pad(v, (1, 1, 1, 0)))  # type: ignore[operator]
            h = layer.across(h, F.pad(h, (1, 0)), link)  # type: ignore[operator]
        found = [self._read(h, image, i) for i in range(self.shape[0])]
        return torch.stack(found, -1).permute(0, 2, 3, 4, 1).flatten(1, 3)  # (B, H, W, C, P)

    def steps(self, batch: int, condition: Tensor | None = None) -> Callable[[int, Tensor], Tensor]:
        """Of entry i, given x (B, D) with those before it: (i, x) -> (B, P), for i = 0, 1, ... in turn.

        Each layer keeps what it read at the row above and at the pixel to the left: a sample costs as much as one pass.
        """
        channels, _, columns = self.shape
        above, left = self._condition(condition)
        rows: list[Tensor] = []  # input of each layer of the vertical stack at the row above
        pixels: list[Tensor] = []  # input of each layer of the horizontal stack at the pixel to the left
        links: list[Tensor] = []
        h = torch.empty(0)

        def begin_row(image: Tensor, row: int) -> None:
            nonlocal rows, links, pixels
            seen = _with_ones(image[:, :, row - 1 : row]) if row else _nothing(image[:, :, :1])
            v = self._start(self.above, seen, self.places[:, :, row : row + 1], above)
            before, rows, links, pixels = rows, [], [], []
            for j, layer in enumerate(self.layers):
                rows.append(v)
                both = torch.cat([before[j] if row else torch.zeros_like(v), v], 2)
                v, link = layer.down(v, F.pad(both, (1, 1)))  # type: ignore[operator]
                links.append(link)

        def begin_pixel(image: Tensor, row: int, column: int) -> None:
            nonlocal pixels, h
            here = image[:, :, row : row + 1]
            seen = _with_ones(here[:, :, :, column - 1 : column]) if column else _nothing(here[:, :, :, :1])
            h = self._start(self.left, seen, self.places[:, :, row : row + 1, column : column + 1], left)
            before, pixels = pixels, []
            for j, (layer, link) in enumerate(zip(self.layers, links, strict=True)):
                pixels.append(h)
                both = torch.cat([before[j] if column else torch.zeros_like(h), h], 3)
                h = layer.across(h, both, link[:, :, :, column : column + 1])  # type: ignore[operator]

        def step(i: int, x: Tensor) -> Tensor:
            image, (row, place) = self._image(x), divmod(i, columns * channels)
            column, channel = divmod(place, channels)
            if not place:
                begin_row(image, row)
            if not channel:
                begin_pixel(image, row, column)
            return self._read(h, image[:, :, row : row + 1, column : column + 1], channel)[..., 0, 0]

        return step

    def _start(self, read: nn.Module, seen: Tensor, places: Tensor, condition: Tensor | None) -> Tensor:
        """The input of the first layer of a stack, from what it sees of the image."""
        h = read(torch.cat([seen, places.expand(len(seen), -1, -1, -1)], 1))
        return h if condition is None else h + condition

    def _read(self, h: Tensor, image: Tensor, channel: int) -> Tensor:
        """Numbers for the entries of a channel, which also sees the channels before it: (B, P, H, W)."""
        earlier = image[:, : channel * (self.names or 1)]
        return self.output[channel](F.silu(self.hidden[channel](torch.cat([F.silu(h), earlier], 1))))

    def _image(self, x: Tensor) -> Tensor:
        channels, rows, columns = self.shape
        image = x.unflatten(1, (rows, columns, channels)).permute(0, 3, 1, 2)
        if not self.names:
            return image
        index = ((image + 1) * ((self.names - 1) / 2)).round().long().clamp(0, self.names - 1)
        return F.one_hot(index, self.names).permute(0, 1, 4, 2, 3).flatten(1, 2).to(x)

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

    def down(self, v: Tensor, padded: Tensor) -> tuple[Tensor, Tensor]:
        """The next v, from the rows of v and the one above them, padded at the sides; and the term of h."""
        a = self.vertical(padded)
        v = v if self.vertical_out is None else v + self.vertical_out(self.dropout(_gate(a)))
        return v, self.link(a)

    def across(self, h: Tensor, padded: Tensor, link: Tensor) -> Tensor:
        """The next h, from the pixels of h and the one to their left."""
        return h + self.horizontal_out(self.dropout(_gate(self.horizontal(padded) + link)))


def _with_ones(image: Tensor) -> Tensor:
    """The image and a channel of ones, which tells it from the padding."""
    return torch.cat([image, torch.ones_like(image[:, :1])], 1)


def _nothing(image: Tensor) -> Tensor:
    """The padding about the image, in the form of `_with_ones`."""
    return torch.zeros_like(_with_ones(image))


def _gate(a: Tensor) -> Tensor:
    value, gate = a.chunk(2, dim=1)
    return value.tanh() * gate.sigmoid()
