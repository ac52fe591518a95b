"""Couplings with the weights of zuko and nflows: the same points, densities and determinants."""

import math

import pytest
import torch
import zuko
from nflows.distributions.normal import StandardNormal
from nflows.flows import Flow as PeerFlow
from nflows.transforms import (
    AdditiveCouplingTransform,
    CompositeTransform,
    Permutation,
    PiecewiseRationalQuadraticCouplingTransform,
    SqueezeTransform,
)
from torch import Tensor, nn
from zuko.transforms import MonotonicAffineTransform

from tests.zoo.flows.families import awake
from zoo.flows.builders import nice, realnvp
from zoo.flows.chain import Chain
from zoo.flows.coupling import Coupling
from zoo.flows.model import Flow
from zoo.flows.splines import SMALLEST, UNIT

D, BINS, BOUND = 7, 5, 2.0
CLOSE = {"rtol": 0, "atol": 1e-10}  # float64; zuko and nflows take other roads to the same numbers


def couplings(flow: Flow) -> list[Coupling]:
    return [layer for layer in flow.modules() if isinstance(layer, Coupling)]


class Net(nn.Module):
    """Our conditioner as nflows calls it."""

    hidden_features = 1  # nflows divides by its root what the softmax of a spline is given

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(x)


class SplineNet(Net):
    """nflows wants each entry's parameters side by side, and its derivatives at zero are softplus(0) + 1e-3, ours 1."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        raw = self.net(x).unflatten(1, (self.size, -1)).transpose(1, 2)
        return torch.cat([raw[..., : 2 * BINS], raw[..., 2 * BINS :] + UNIT], -1).flatten(1)


class ImageSplineNet(SplineNet):
    """nflows wants each channel's parameters side by side."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        raw = self.net(x).unflatten(1, (self.size, -1)).transpose(1, 2)  # (B, channels, size, H, W)
        return torch.cat([raw[:, :, : 2 * BINS], raw[:, :, 2 * BINS :] + UNIT], 2).flatten(1, 2)


def of_nflows(kind, flow: Flow) -> PeerFlow:
    transforms = []
    for coupling in couplings(flow):
        kept = torch.arange(D) < D // 2
        mask = torch.where(kept ^ coupling.flip, -1, 1)  # nflows moves what is positive
        if kind == "spline":
            make = lambda *_, c=coupling: SplineNet(c.net, c.transform.size)  # noqa: E731
            options = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
            transforms.append(PiecewiseRationalQuadraticCouplingTransform(mask, make, **options))
        else:
            make = lambda *_, c=coupling: Net(c.net, 1)  # noqa: E731
            transforms.append(AdditiveCouplingTransform(mask, make))
    return PeerFlow(CompositeTransform(transforms), StandardNormal([D])).double().eval()


@pytest.mark.parametrize("kind", ["additive", "spline"])
def test_couplings_of_nflows(kind):
    assert SMALLEST == 1e-3  # nflows' default
    if kind == "spline":
        ours = realnvp((D,), coupling="spline", couplings=4, hidden=16, bins=BINS, bound=BOUND)
    else:
        ours = nice((D,), hidden=16, base="normal")
    awake(ours, spread=0.2)
    if kind == "additive":  # the one layer that nflows' flow lacks
        nn.init.zeros_(ours.bijection.bijections[-1].log_scale)
    theirs = of_nflows(kind, ours)
    x = 2 * torch.randn(37, D).double()
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), **CLOSE)
    z, ladj = theirs._transform(x)
    torch.testing.assert_close(ours.encode(x)[0], z, **CLOSE)
    torch.testing.assert_close(ours.encode(x)[1], ladj, **CLOSE)
    torch.testing.assert_close(ours.decode(z)[0], theirs._transform.inverse(z)[0], **CLOSE)


def of_zuko(flow: Flow) -> list[zuko.transforms.Transform]:
    """zuko's couplings and affine maps over our conditioners, whose bounded log-scale its soft clip is made to give."""
    least = math.exp(-100.0)  # zuko's bound is exp(-+100), wide of our exp(-+bound)
    transforms = []
    for coupling in couplings(flow):
        kept = (torch.arange(D) < D // 2) ^ coupling.flip

        def meta(x: Tensor, c: Coupling = coupling):
            shift, r = c.net(x).chunk(2, -1)
            log_scale = c.transform.bound * torch.tanh(r / c.transform.bound)
            unclipped = log_scale / (1 - log_scale.abs() / 100.0)
            map_ = MonotonicAffineTransform(shift, unclipped, slope=least)
            return zuko.transforms.DependentTransform(map_, 1)

        transforms.append(zuko.transforms.CouplingTransform(meta, kept))
    return transforms


def test_affine_couplings_of_zuko():
    ours = realnvp((D,), couplings=4, hidden=16, bound=BOUND)
    awake(ours, spread=0.2)
    x = torch.randn(37, D).double()
    z, total = x, torch.zeros(37).double()
    for transform in of_zuko(ours):
        z, ladj = transform.call_and_ladj(z)
        total = total + ladj
    found, log_determinant = ours.encode(x)
    torch.testing.assert_close(found, z, **CLOSE)
    torch.testing.assert_close(log_determinant, total, **CLOSE)
    for transform in reversed(of_zuko(ours)):
        z = transform.inv(z)
    torch.testing.assert_close(ours.decode(found)[0], z, **CLOSE)


def test_a_scale_of_convolutional_couplings_of_nflows():
    ours = realnvp((1, 6, 4), 17, coupling="spline", couplings=3, scales=1, hidden=8, bins=BINS, bound=BOUND)
    awake(ours, spread=0.2)
    [level] = ours.bijection.bijections[-1].levels
    ours = Chain(level.bijections[:9])  # without the checkerboards of the last scale, which nflows cannot mask
    # the even colour is the upper left and the lower right of four pixels; then rows are halves
    theirs = [SqueezeTransform()]
    for order, kept in (([0, 3, 1, 2], "checkerboard"), ([0, 2, 3, 1], "channels")):
        theirs.append(Permutation(torch.tensor(order), dim=1))
        for mask in ([1, 1, -1, -1], [-1, -1, 1, 1], [1, 1, -1, -1]):  # nflows moves what is positive
            coupling = couplings(ours)[len(theirs) - (2 if kept == "checkerboard" else 3)]
            make = lambda *_, c=coupling: ImageSplineNet(c.net, c.transform.size)  # noqa: E731
            options = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
            theirs.append(PiecewiseRationalQuadraticCouplingTransform(torch.tensor(mask), make, **options))
    theirs = CompositeTransform(theirs).double().eval()
    x = 2 * torch.randn(11, 1, 6, 4).double()
    (z, ladj), (found, log_determinant) = theirs(x), ours(x)
    torch.testing.assert_close(found, z, **CLOSE)
    torch.testing.assert_close(log_determinant, ladj, **CLOSE)
    torch.testing.assert_close(ours.inverse(z)[0], x, **CLOSE)
