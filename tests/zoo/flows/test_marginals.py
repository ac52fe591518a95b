"""Pixels through their histograms: alone, the density of independent pixels, to the last digit."""

import math

import pytest
import torch

from zoo.errors import UserError
from zoo.flows.builders import nice, realnvp
from zoo.flows.chain import Chain
from zoo.flows.dequantise import dequantise
from zoo.flows.layers import Flatten, Logit
from zoo.flows.marginals import Marginals, Probit
from zoo.flows.model import Flow

SHAPE, LEVELS = (2, 3, 4), 5


def images(n: int, seed: int = 0) -> torch.Tensor:
    """Dark ones: level k has a share in proportion to 5 - k."""
    shares = torch.arange(LEVELS, 0, -1).double()
    levels = torch.multinomial(shares, n * 24, True, generator=torch.Generator().manual_seed(seed))
    return levels.double().view(n, *SHAPE) * 2 / (LEVELS - 1) - 1


def independent(train: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """log P of test images under the smoothed shares of each pixel's grey levels, (B,) nats."""
    count = torch.stack([(train == k / 2 - 1).sum(0) for k in range(LEVELS)], -1).double() + Marginals.SMOOTHING
    log_share = (count / count.sum(-1, keepdim=True)).log()
    k = ((test + 1) * 2).round().long()
    return log_share.expand(len(test), *SHAPE, LEVELS).gather(-1, k[..., None]).flatten(1).sum(1)


def alone(base: str, alpha: float) -> Flow:
    quantiles = Probit(alpha) if base == "normal" else Logit(alpha)
    return Flow(SHAPE, Chain([Marginals(SHAPE, LEVELS), quantiles, Flatten(SHAPE)]), base, LEVELS).double()


@pytest.mark.parametrize("base", ["normal", "logistic"])
def test_alone_they_are_the_density_of_independent_pixels(base):
    model, train, test = alone(base, 0.0), images(200), images(7, seed=1)
    model.equalise(train)
    # one draw of the noise is as good as any: the density is constant in each bin
    torch.testing.assert_close(model.log_likelihood(test), independent(train, test), rtol=0, atol=1e-9)


@pytest.mark.parametrize("base", ["normal", "logistic"])
def test_alpha_costs_what_lies_beyond_the_cube(base):
    models = [alone(base, alpha) for alpha in (0.0, 0.01)]
    for model in models:
        model.equalise(images(200))
    exact, less = (model.log_likelihood(images(300, seed=1), draws=4).mean().item() for model in models)
    # of the base, a share alpha lies beyond on either side; what is within is uniform for both
    assert exact - less == pytest.approx(-24 * math.log1p(-0.02), abs=1e-9)


@pytest.mark.parametrize("build", [nice, realnvp])
def test_a_flow_begins_there(build):
    model, train, test = build(SHAPE, LEVELS, hidden=8).double(), images(200), images(7, seed=1)
    model.equalise(train)
    # couplings start as the identity
    torch.testing.assert_close(model.log_likelihood(test), independent(train, test), rtol=0, atol=0.06)


def test_pooled_pixels_keep_their_share_of_the_lowest_level():
    """At the limit the other levels have the shares that they have in all pixels together."""
    k = torch.tensor([[0, 0, 0, 1], [0, 1, 2, 2]]).T  # four images of two pixels at three levels
    layers = [Marginals((2,), 3, pooling).double() for pooling in (0.0, 2.0, 1e12)]
    shares = []
    for layer in layers:
        layer.fit((k.double() + 0.5) / 3)
        shares.append(layer.logits.softmax(-1))
    above = torch.tensor([[1.1, 0.1], [1.1, 2.1]]).double()
    pooled = above.sum(0) / above.sum()  # 2.2 and 2.2 of 4.4
    for found, pooling in zip(shares, (0.0, 2.0, 1e12), strict=True):
        mixed = above + pooling * pooled
        mixed = mixed / mixed.sum(1, keepdim=True)
        lowest = torch.tensor([3.1, 1.1]).double() / 4.3
        torch.testing.assert_close(found[:, 0], lowest)
        torch.testing.assert_close(found[:, 1:], (1 - lowest)[:, None] * mixed)


def test_samples_of_the_start_have_the_shares_of_the_grey_levels():
    model = alone("normal", 1e-3)
    model.equalise(images(2000))
    drawn = model.sample(2000, generator=torch.Generator().manual_seed(2))
    for k in range(LEVELS):
        share = (drawn == k / 2 - 1).double().mean().item()
        assert share == pytest.approx((LEVELS - k) / 15, abs=0.01)  # 5 standard errors of 48,000 entries


def test_images_fit_the_model():
    with pytest.raises(UserError, match="density of points"):
        nice((5,)).equalise(images(3))
    with pytest.raises(UserError, match="17 grey levels"):
        nice(SHAPE, 17).equalise(images(3).float() * 0.9)


def test_the_spline_is_the_cumulative_function():
    layer = Marginals((1,), 3)
    layer.fit(dequantise(torch.tensor([[-1.0], [-1.0], [0.0], [1.0]]), 3, torch.tensor(0.5)))
    shares = torch.tensor([2.1, 1.1, 1.1]) / 4.3
    u, _ = layer(torch.tensor([[0.0], [1 / 6], [1 / 3], [2 / 3], [1.0]]))
    expected = [0, shares[0] / 2, shares[0], shares[:2].sum(), 1]
    torch.testing.assert_close(u[:, 0], torch.tensor([float(value) for value in expected]))
