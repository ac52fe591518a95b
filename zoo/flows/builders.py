"""The named flows, from plain arguments.

Points are standardised first, images of grey levels pass through their pixels' histograms (`zoo.flows.marginals`);
both by statistics that the training data give.
"""

import math
from collections.abc import Callable, Iterable

from torch import nn

from zoo.errors import UserError
from zoo.flows.chain import Chain, MultiScale
from zoo.flows.coupling import Additive, Affine, Coupling, MaskedCoupling, Spline, Transform
from zoo.flows.layers import ActNorm, Flatten, InvertibleLinear, Logit, Permutation, Scale, Squeeze, Standardise
from zoo.flows.marginals import Marginals, Probit
from zoo.flows.masks import checkerboard
from zoo.flows.model import Flow
from zoo.flows.nets import MLP, ConvNet


def nice(
    shape: tuple[int, ...],
    levels: int = 0,
    num_classes: int = 0,
    hidden: int = 128,
    depth: int = 3,
    couplings: int = 4,
    base: str = "logistic",
    alpha: float = 1e-3,
    pooling: float = 0.0,
    dropout: float = 0.0,
) -> Flow:
    """Additive couplings, which preserve volume, and a diagonal scale.

    Args:
        shape: (D,), or of images (C, H, W), which are flattened.
        levels, num_classes, base: see `Flow`.
        hidden, depth, dropout: see `MLP`.
        couplings: at least 3 if every entry is to depend on every other.
        alpha, pooling: of images, see `zoo.flows.marginals`.

    References:
        Dinh et al. 2014, NICE, arXiv:1410.8516.
    """
    entries = _entries(shape)
    layers = [*_entrance(shape, levels, base, alpha, pooling), *_flat(shape)]
    layers += [
        Coupling(Additive(), _mlp(Additive(), entries, i, hidden, depth, num_classes, dropout), entries, bool(i % 2))
        for i in range(couplings)
    ]
    return Flow(shape, Chain([*layers, Scale((entries,))]), base, levels, num_classes)


def realnvp(
    shape: tuple[int, ...],
    levels: int = 0,
    num_classes: int = 0,
    coupling: str = "affine",
    couplings: int = 8,
    hidden: int = 128,
    depth: int = 2,
    bins: int = 8,
    bound: float = 3.0,
    dropout: float = 0.0,
    residual: bool = False,
    linear: bool = False,
    actnorm: bool = False,
    base: str = "normal",
    alpha: float = 1e-3,
    pooling: float = 0.0,
    scales: int = 0,
) -> Flow:
    """Couplings of alternating halves, by multilayer perceptrons or, of images at `scales`, by convolutional networks.

    Args:
        shape: (D,), or of images (C, H, W). Without scales images are flattened; halves are a checkerboard's colours.
        levels, num_classes, base: see `Flow`.
        coupling: "affine" or "spline".
        couplings: at least 3 if every entry is to depend on every other; at scales, of each mask (3 in the paper).
        hidden, depth, dropout, residual: see `MLP`; at scales, `ConvNet`.
        bins: of the spline. bound: of the affine log-scale, or half the spline's interval; see `zoo.flows.coupling`.
        linear, actnorm: whether `InvertibleLinear`, `ActNorm` precede each coupling.
        alpha, pooling: of images, see `zoo.flows.marginals`.
        scales: 0, or how many times pixels of images become channels; H and W divisible by 2^scales.

    References:
        Dinh et al. 2016, Real NVP, arXiv:1605.08803; Durkan et al. 2019, Neural spline flows, arXiv:1906.04032.
    """
    entries, transform = _entries(shape), _transform(coupling, bins, bound)
    if scales:
        if linear:
            raise UserError("linear must be false with scales: it would mix the colours of a checkerboard; see Glow")
        _check_scales(shape, scales)

        def conditioner(kept: int, moved: int) -> ConvNet:
            return ConvNet(kept, transform.size * moved, hidden, depth, num_classes, dropout, residual)

        body = _checkered(shape, scales, couplings, transform, conditioner, actnorm)
        return Flow(shape, Chain([*_entrance(shape, levels, base, alpha, pooling), body]), base, levels, num_classes)
    layers = [*_entrance(shape, levels, base, alpha, pooling), *_flat(shape)]
    for i in range(couplings):
        layers += [ActNorm(entries)] * actnorm + [InvertibleLinear(entries)] * linear
        net = _mlp(transform, entries, i, hidden, depth, num_classes, dropout, residual)
        layers.append(Coupling(transform, net, entries, bool(i % 2)))
    return Flow(shape, Chain(layers), base, levels, num_classes)


def glow(
    shape: tuple[int, ...],
    levels: int,
    num_classes: int = 0,
    scales: int = 2,
    steps: int = 8,
    channels: int = 64,
    depth: int = 2,
    coupling: str = "affine",
    bins: int = 8,
    bound: float = 3.0,
    dropout: float = 0.0,
    checkerboards: int = 0,
    base: str = "normal",
    alpha: float = 1e-3,
    pooling: float = 0.0,
) -> Flow:
    """(Squeeze, steps of ActNorm, 1x1 convolution and coupling) at several scales, by convolutional networks.

    Half of the channels leaves after each scale, through a coupling that standardises it given the other half: Glow's
    learned prior.

    Args:
        shape: (C, H, W); H and W divisible by 2^scales.
        levels, num_classes, base: see `Flow`.
        scales: squeezes. steps: of flow at each scale.
        channels, depth, dropout: see `ConvNet`.
        coupling: "affine" or "spline". bins, bound: see `realnvp`.
        checkerboards: couplings by checkerboard masks before the first squeeze, as in Real NVP.
        alpha, pooling: of images, see `zoo.flows.marginals`.

    References:
        Kingma and Dhariwal 2018, Glow, arXiv:1807.03039, figure 2.
    """
    _check_scales(shape, scales)
    count, height, width = shape
    transform = _transform(coupling, bins, bound)

    def net(kept: int, moved: int) -> ConvNet:
        return ConvNet(kept, transform.size * moved, channels, depth, num_classes, dropout)

    first = _entrance(shape, levels, base, alpha, pooling)
    for i in range(checkerboards):
        first += [ActNorm(count), MaskedCoupling(transform, net(count, count), checkerboard(shape, bool(i % 2)))]
    parts: list[nn.Module] = []
    shapes: list[tuple[int, int, int]] = []
    for scale in range(scales):
        count, height, width = 4 * count, height // 2, width // 2
        level: list[nn.Module] = [Squeeze()]
        for _ in range(steps):
            level += [ActNorm(count), InvertibleLinear(count, rotation=True)]
            level.append(Coupling(transform, net(count // 2, count // 2), count))
        if scale < scales - 1:
            level.append(Coupling(transform, net(count // 2, count // 2), count, flip=True))
        parts.append(Chain(level))
        shapes.append((count, height, width))
        count //= 2
    return Flow(shape, Chain([*first, MultiScale(parts, shapes)]), base, levels, num_classes)


def _checkered(
    shape: tuple[int, ...],
    scales: int,
    couplings: int,
    transform: Transform,
    net: Callable[[int, int], nn.Module],
    actnorm: bool,
) -> MultiScale:
    """Couplings by checkerboard masks, then by channel masks, at each scale (Real NVP, section 3.6, figure 3).

    The colours of a checkerboard are two of the four channels that a 2x2 square of pixels becomes, so that its
    couplings run squeezed, on a quarter of the positions. The last coupling of a scale moves what leaves after it.
    """
    count, height, width = shape
    parts: list[nn.Module] = []
    shapes: list[tuple[int, int, int]] = []
    for scale in range(scales):
        count, height, width = 4 * count, height // 2, width // 2
        colours = sorted(range(count), key=lambda channel: (channel % 4 in (1, 2), channel))
        level: list[nn.Module] = [Squeeze()]
        for order in (colours, sorted(range(count), key=colours.__getitem__)):  # the second one undoes the first
            level.append(Permutation(order))
            for i in reversed(range(couplings)):
                level += [ActNorm(count)] * actnorm
                level.append(Coupling(transform, net(count // 2, count // 2), count, flip=i % 2 == 0))
        if scale == scales - 1:
            for i in range(couplings + 1):
                level += [ActNorm(count)] * actnorm
                mask = checkerboard((count, height, width), bool(i % 2))
                level.append(MaskedCoupling(transform, net(count, count), mask))
        parts.append(Chain(level))
        shapes.append((count, height, width))
        count //= 2
    return MultiScale(parts, shapes)


def _check_scales(shape: tuple[int, ...], scales: int) -> None:
    if len(shape) != 3:
        raise UserError(f"scales are of images (C, H, W), got shape {shape!r}: for points take scales 0 of RealNVP")
    if scales < 1 or any(size % 2**scales for size in shape[1:]):
        raise UserError(
            f"scales must be at least 1 and halve height and width that often without a rest, got {scales!r} "
            f"of images of {shape[1]}x{shape[2]}"
        )


def _entries(shape: tuple[int, ...]) -> int:
    if math.prod(shape) < 2:
        raise UserError(
            f"couplings need at least two columns, one to condition the other, got shape {shape!r}: "
            "for a single column take --model CNF, which has none"
        )
    return math.prod(shape)


def _entrance(shape: tuple[int, ...], levels: int, base: str, alpha: float, pooling: float) -> list[nn.Module]:
    if not levels:
        return [Standardise(shape)]
    return [Marginals(shape, levels, pooling), Probit(alpha) if base == "normal" else Logit(alpha)]


def _flat(shape: tuple[int, ...]) -> Iterable[nn.Module]:
    """Images to vectors whose first half is one colour of a checkerboard."""
    if len(shape) > 1:
        yield Flatten(shape)
        height, width = shape[-2:]
        yield Permutation(sorted(range(math.prod(shape)), key=lambda i: (i % width + i // width % height) % 2))


def _mlp(
    transform: Transform,
    entries: int,
    index: int,
    hidden: int,
    depth: int,
    context: int,
    dropout: float,
    residual: bool = False,
) -> MLP:
    first, second = entries // 2, entries - entries // 2
    kept, moved = (second, first) if index % 2 else (first, second)
    return MLP(kept, transform.size * moved, hidden, depth, context, dropout, residual)


def _transform(coupling: str, bins: int, bound: float) -> Transform:
    if coupling == "affine":
        return Affine(bound)
    if coupling == "spline":
        return Spline(bins, bound)
    raise ValueError(f"coupling must be 'affine' or 'spline', got {coupling!r}")
