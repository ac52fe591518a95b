"""One of every bijection and of every composed flow, with weights that are not at their start."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from zoo.flows import layers, marginals
from zoo.flows.builders import glow, nice, realnvp
from zoo.flows.chain import Chain, MultiScale
from zoo.flows.coupling import Additive, Affine, Coupling, MaskedCoupling, Spline
from zoo.flows.masks import checkerboard, half
from zoo.flows.model import Flow
from zoo.flows.nets import MLP, ConvNet

CONTEXT = 4
IMAGE = (6, 4, 2)


def _coupling(transform, flip=False, **options) -> Coupling:
    kept, moved = (4, 3) if flip else (3, 4)
    return Coupling(transform, MLP(kept, transform.size * moved, hidden=16, **options), 7, flip)


def _masked(transform, mask: Callable[..., Tensor], flip: bool, **options) -> MaskedCoupling:
    net = ConvNet(IMAGE[0], transform.size * IMAGE[0], hidden=8, **options)
    return MaskedCoupling(transform, net, mask(IMAGE, flip))


def _convolutional(transform, **options) -> Coupling:
    return Coupling(transform, ConvNet(3, 3 * transform.size, hidden=8, depth=3, dropout=0.2, **options), 6)


def _standardise(shape) -> layers.Standardise:
    layer = layers.Standardise(shape)
    layer.fit(3 + 2 * torch.randn(50, *shape))
    return layer


def _multiscale() -> MultiScale:
    levels = [Chain([layers.Squeeze(), layers.InvertibleLinear(24)]), layers.ActNorm(12), layers.Scale((6, 2, 1))]
    return MultiScale(levels, [(24, 2, 1), (12, 2, 1), (6, 2, 1)])


# name -> (shape of x, builder, width of the context)
BIJECTIONS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module], int]] = {
    "additive": ((7,), lambda: _coupling(Additive()), 0),
    "affine": ((7,), lambda: _coupling(Affine(2.0)), 0),
    "affine, flipped, of a context": ((7,), lambda: _coupling(Affine(), True, context=CONTEXT), CONTEXT),
    "affine, residual network": ((7,), lambda: _coupling(Affine(), residual=True, depth=3, dropout=0.1), 0),
    "spline": ((7,), lambda: _coupling(Spline(5, 2.0)), 0),
    "spline, flipped, of a context": ((7,), lambda: _coupling(Spline(), True, context=CONTEXT), CONTEXT),
    "affine channels": (IMAGE, lambda: _convolutional(Affine()), 0),
    "affine channels, residual network": (IMAGE, lambda: _convolutional(Affine(), residual=True), 0),
    "spline channels": (IMAGE, lambda: _convolutional(Spline(4)), 0),
    "affine checkerboard": (IMAGE, lambda: _masked(Affine(), checkerboard, False), 0),
    "affine checkerboard of a context": (
        IMAGE,
        lambda: _masked(Affine(), checkerboard, True, context=CONTEXT),
        CONTEXT,
    ),
    "additive half": (IMAGE, lambda: _masked(Additive(), half, True), 0),
    "spline half": (IMAGE, lambda: _masked(Spline(3), half, False), 0),
    "standardise": ((7,), lambda: _standardise((7,)), 0),
    "logit": (IMAGE, layers.Logit, 0),
    "logit to the border": ((7,), lambda: layers.Logit(0.0), 0),
    "marginals": (IMAGE, lambda: marginals.Marginals(IMAGE, 5), 0),
    "probit": (IMAGE, lambda: marginals.Probit(0.1), 0),
    "scale": (IMAGE, lambda: layers.Scale(IMAGE), 0),
    "actnorm": ((7,), lambda: layers.ActNorm(7), 0),
    "actnorm of channels": (IMAGE, lambda: layers.ActNorm(6), 0),
    "permutation": ((7,), lambda: layers.Permutation([3, 1, 4, 0, 5, 2, 6]), 0),
    "linear": ((7,), lambda: layers.InvertibleLinear(7), 0),
    "linear from a rotation": ((7,), lambda: layers.InvertibleLinear(7, rotation=True), 0),
    "1x1 convolution": (IMAGE, lambda: layers.InvertibleLinear(6, rotation=True), 0),
    "squeeze": (IMAGE, layers.Squeeze, 0),
    "flatten": (IMAGE, lambda: layers.Flatten(IMAGE), 0),
    "multi-scale": (IMAGE, _multiscale, 0),
    "chain": ((7,), lambda: Chain([_coupling(Affine()), layers.ActNorm(7), _coupling(Spline(), True)]), 0),
}

FLOWS: dict[str, Callable[[], Flow]] = {
    "nice": partial(nice, (5,), hidden=16),
    "nice of images": partial(nice, (2, 3, 4), levels=7, hidden=16, num_classes=3),
    "realnvp": partial(realnvp, (5,), hidden=16),
    "realnvp, mixed": partial(realnvp, (7,), hidden=16, couplings=4, linear=True, actnorm=True, base="logistic"),
    "realnvp, splines": partial(realnvp, (2,), hidden=16, coupling="spline", couplings=4, num_classes=3),
    "realnvp of images": partial(realnvp, (1, 5, 3), levels=17, coupling="spline", couplings=4, hidden=16),
    "realnvp at scales": partial(realnvp, (1, 8, 4), 17, scales=2, couplings=3, hidden=6, residual=True, actnorm=True),
    "realnvp at one scale": partial(
        realnvp, (3, 4, 2), 5, num_classes=4, scales=1, couplings=3, hidden=6, coupling="spline", bound=7.0
    ),
    "glow": partial(glow, (1, 8, 4), 17, steps=2, channels=8, checkerboards=2),
    "glow, conditional": partial(glow, (3, 4, 8), 5, num_classes=4, steps=1, channels=8, coupling="spline"),
}


def awake(module: nn.Module, spread: float = 0.05) -> nn.Module:
    """In float64 and evaluation, each weight moved by a normal draw."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(spread * torch.randn_like(weight))
    return module.double().eval()


def bijection(name: str) -> tuple[nn.Module, Tensor, Tensor | None]:
    """A bijection of the family, five inputs in (0, 1), and its context."""
    shape, build, width = BIJECTIONS[name]
    context = torch.randn(5, width).double() if width else None
    return awake(build()), torch.rand(5, *shape).double(), context


def flow(name: str) -> tuple[Flow, Tensor, Tensor | None]:
    """A flow of the family after a first training batch, five inputs, and its labels."""
    model = FLOWS[name]()
    awake(model)
    x = torch.rand(64, *model.shape).double()
    labels = torch.arange(64) % model.labels[0] if model.labels else None
    model.train().log_prob(x, labels)
    return model.eval(), x[:5].clone(), None if labels is None else labels[:5]
