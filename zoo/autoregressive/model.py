"""Autoregressive models of images on a grid of grey levels: one model, several networks."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.autoregressive.masked import MaskedPerceptron
from zoo.autoregressive.nade import NADE
from zoo.autoregressive.pixelcnn import PixelCNN
from zoo.autoregressive.pixelrnn import PixelRNN
from zoo.autoregressive.transformer import Transformer
from zoo.autoregressive.wavenet import WaveNet
from zoo.errors import UserError
from zoo.flows.dequantise import check_on_grid
from zoo.heads import head, sample, to_level, to_value
from zoo.random import normal, per_row

NETWORKS = ("fvsbn", "made", "nade", "pixelcnn", "pixelrnn", "transformer", "wavenet")


class Autoregressive(nn.Module):
    """P(x) = prod_d P(x_d | x_1 ... x_{d-1}), with all D conditionals from one pass of a network.

    Entries are in raster order: row by row, pixel by pixel, the channels of a pixel in turn. With several orders the
    model is their mixture, P(x) = (1/K) sum_k P_k(x): the average of the probabilities of whole images.

    A network has `forward(x, condition) -> (B, D, P)`, of which entry d sees only those before it, and
    `steps(batch, condition)`, which gives the numbers of one entry after the other from a cache.

    Args:
        image_shape: (C, H, W).
        levels: grey levels of images in [-1, 1].
        network: one of NETWORKS.
        head: "categorical", "logistic" or "bernoulli"; see `zoo.heads`.
        components: of the head "logistic".
        width: units of a hidden layer, or channels.
        depth: hidden layers; "fvsbn" has none and "nade" one.
        heads: of the attention, of "transformer".
        orders: in which the entries are drawn, the first of them the raster order; of "made".
        dropout: probability of dropping a hidden unit.
        num_classes: of each label column, of a conditional model P(x | labels); 0 for none.
        nominal: whether levels are names and not amounts, as those of the codes of a VQ-VAE; of "pixelcnn".

    Raises:
        UserError: if an argument is out of range, or does not fit the others.

    References:
        001_7af9247201bdf7d9.txt, section 3; each network names its own.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        network: str = "made",
        head: str = "categorical",
        components: int = 5,
        width: int = 256,
        depth: int = 1,
        heads: int = 4,
        orders: int = 1,
        dropout: float = 0.0,
        num_classes: int | tuple[int, ...] = 0,
        nominal: bool = False,
    ) -> None:
        super().__init__()
        self.head = _head(head, levels, components)
        if min(*image_shape, width, depth, orders) < 1:
            raise UserError("image_shape, width, depth and orders must be positive")
        if network not in NETWORKS:
            raise UserError(f"network must be one of {', '.join(NETWORKS)}, got {network!r}")
        if orders > 1 and network != "made":
            raise UserError(f"orders must be 1 for the network {network!r}, got {orders}: use made for several")
        if nominal and network != "pixelcnn":
            raise UserError(f"nominal must be false for the network {network!r}: only pixelcnn reads names")
        self.shape, self.levels, self.orders, self.dims = tuple(image_shape), levels, orders, math.prod(image_shape)
        self.labels = (
            tuple(num_classes) if isinstance(num_classes, tuple | list) else (num_classes,) * (num_classes > 0)
        )
        condition, outputs = sum(self.labels), self.head.num_parameters
        if network == "nade":
            self.network: Any = NADE(self.dims, outputs, width, dropout, condition)
        elif network == "pixelcnn":
            self.network = PixelCNN(image_shape, outputs, width, depth, dropout, condition, levels * nominal)
        elif network == "pixelrnn":
            self.network = PixelRNN(image_shape, outputs, width, depth, dropout, condition)
        elif network == "wavenet":
            self.network = WaveNet(self.dims, outputs, width, depth, dropout, condition)
        elif network == "transformer":
            if heads < 1 or width % heads:
                raise UserError(f"width must be a multiple of heads, got width {width} and heads {heads}")
            self.network = Transformer(self.dims, outputs, width, depth, heads, dropout, condition)
        else:
            depth = depth if network == "made" else 0
            self.network = MaskedPerceptron(self.dims, outputs, width, depth, dropout, condition, orders)

    def extra_repr(self) -> str:
        return f"shape={self.shape}, levels={self.levels}, labels={self.labels}, orders={self.orders}"

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two images whose grey levels are all equally likely, with the labels of a conditional model."""
        x = self._image(torch.randint(self.levels, (2, self.dims), generator=generator))
        columns = [torch.randint(count, (2,), generator=generator) for count in self.labels]
        return {"x": x} | ({"labels": torch.stack(columns, 1)} if columns else {})

    def forward(self, x: Tensor, labels: Tensor | None = None, order: int = 0) -> Tensor:
        """log P(x_d | the entries before d) of images (B, C, H, W) on the grid, for each entry: (B, C, H, W) nats."""
        return self._raster(self._entries(x, labels, order))

    def log_prob(self, x: Tensor, labels: Tensor | None = None, order: int | None = None) -> Tensor:
        """log P(x) of images (B, C, H, W) on the grid, (B,) nats; of one order alone if that is given."""
        if order is None:
            every = torch.stack([self.log_prob(x, labels, k) for k in range(self.orders)])
            return every.logsumexp(0) - math.log(self.orders)
        return self._entries(x, labels, order).sum(1)

    @torch.no_grad()
    def log_likelihood(
        self, x: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """log P(x), exact.

        Args:
            x: images (B, C, H, W) in [-1, 1], on the grid of grey levels.
            labels: (B,) or (B, columns) classes, of a conditional model.
            generator: not used: nothing is random.

        Returns:
            (B,) nats.

        Raises:
            UserError: if the images are not on the grid, or labels are missing or not wanted.
        """
        check_on_grid(x, self.levels)
        return self.log_prob(x, labels)

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """Draws images (n, C, H, W) in [-1, 1] on the grid of grey levels, entry by entry.

        Args:
            n: at least 1.
            labels: (n,) or (n, columns) classes, of a conditional model.
            generator: source of the grey levels.
            temperature: T in P(x_d | ...)^(1/T); below 1 images are more alike.
            prefix: the first rows of each image (n, C, rows, W), which are kept: an exact sample of the others.

        Raises:
            UserError: if an argument is out of range, or the model draws in other orders than that of the prefix.
        """
        if n < 1:
            raise UserError(f"n must be at least 1, got {n!r}")
        if not 0 < temperature < math.inf:
            raise UserError(f"temperature must be above 0, got {temperature!r}")
        weights, source = next(self.parameters()), per_row(generator)
        condition = self._condition(labels, n)
        uniform = torch.special.ndtr(normal((n, self.dims), source, weights.device))
        x = torch.zeros(n, self.dims).to(weights)
        known = 0 if prefix is None else self._keep(prefix.to(weights), x)
        turn = torch.zeros(n, dtype=torch.long, device=weights.device)  # the order of each image
        if self.orders > 1:
            share = torch.special.ndtr(normal((n, 1), source, weights.device))[:, 0]
            turn = (share * self.orders).long().clamp(max=self.orders - 1)
        for k in turn.unique().tolist():
            rows = (turn == k).nonzero()[:, 0]
            given = None if condition is None else condition[rows]
            step = self.network.steps(len(rows), given, **self._order(k))
            places = self.network.order[k].tolist() if self.orders > 1 else range(self.dims)
            mine = x[rows]
            for i, d in enumerate(places):
                parameters = step(i, mine)
                if i >= known:
                    index = sample(self.head, _full(parameters), uniform[rows, d], temperature)
                    mine[:, d] = to_value(index, self.levels).to(mine)
            x[rows] = mine
        return self._raster(x)

    def _entries(self, x: Tensor, labels: Tensor | None, order: int) -> Tensor:
        """log P(x_d | the entries before d), (B, D) in raster order."""
        condition, sequence = self._condition(labels, len(x)), self._sequence(x)
        index = to_level(sequence, self.levels)
        return self.head.log_prob(_full(self.network(sequence, condition, **self._order(order))), index)

    def _order(self, order: int) -> dict[str, int]:
        return {"order": order} if self.orders > 1 else {}

    def _keep(self, prefix: Tensor, x: Tensor) -> int:
        """Writes the prefix into x (n, D), and returns how many entries it has."""
        channels, height, width = self.shape
        fits = prefix.ndim == 4 and prefix.shape[2] <= height and prefix.shape[::3] == (len(x), width)
        if not fits or prefix.shape[1] != channels:
            wanted = f"({len(x)}, {channels}, at most {height}, {width})"
            raise UserError(f"prefix must have the shape {wanted}, got {tuple(prefix.shape)}")
        if self.orders > 1:
            raise UserError("prefix must not be given: a model of several orders has no exact sample that keeps it")
        check_on_grid(prefix, self.levels)
        first = prefix.permute(0, 2, 3, 1).flatten(1)
        x[:, : first.shape[1]] = first
        return first.shape[1]

    def _condition(self, labels: Tensor | None, batch: int) -> Tensor | None:
        """The labels as ones and zeros, (B, classes of all columns)."""
        if labels is None:
            if self.labels:
                raise UserError(f"labels must be given: this model knows {_classes(self.labels)}")
            return None
        if not self.labels:
            raise UserError("labels must not be given: this model knows no classes")
        if labels.numel() != batch * len(self.labels):
            raise UserError(f"labels must be {len(self.labels)} for each of {batch}, got {labels.numel()}")
        weights = next(self.parameters())
        columns = labels.to(weights.device).view(batch, -1).long().unbind(1)
        for column, count in zip(columns, self.labels, strict=True):
            if not torch.compiler.is_compiling() and bool(((column < 0) | (column >= count)).any()):
                raise UserError(f"labels must be from 0 to {count - 1}, got {column.tolist()!s:.50}")
        pairs = zip(columns, self.labels, strict=True)
        return torch.cat([F.one_hot(column, count) for column, count in pairs], 1).to(weights.dtype)

    def _sequence(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D), in raster order."""
        return x.permute(0, 2, 3, 1).flatten(1)

    def _raster(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, C, H, W)."""
        channels, height, width = self.shape
        return x.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2).contiguous()

    def _image(self, index: Tensor) -> Tensor:
        return self._raster(to_value(index, self.levels))


_head = head  # the option of that name hides it


def _classes(labels: tuple[int, ...]) -> str:
    return " and ".join(f"the classes 0 ... {count - 1}" for count in labels)


def _full(x: Tensor) -> Tensor:
    """x in float32 or better: sums of log-probabilities need it, also under autocasting."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
