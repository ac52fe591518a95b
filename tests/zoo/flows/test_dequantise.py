"""Grey levels and the unit cube: bins are whole, and likelihoods count every bit."""

import math

import pytest
import torch
from torch import nn

from zoo.errors import UserError
from zoo.flows.chain import Chain
from zoo.flows.dequantise import check_on_grid, dequantise, quantise
from zoo.flows.layers import Flatten, Logit
from zoo.flows.model import Flow
from zoo.metrics.likelihood import bits_per_dim

SHAPE = (2, 3, 4)
LEVELS = [2, 17, 256]


def grid(levels: int, n: int = 5) -> torch.Tensor:
    return torch.randint(levels, (n, *SHAPE)).double() * 2 / (levels - 1) - 1


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_and_back(levels, dtype):
    images = grid(levels).to(dtype)
    for noise in (torch.zeros_like(images), torch.rand_like(images), torch.full_like(images, 1 - 2**-10)):
        y = dequantise(images, levels, noise)
        assert bool(((y >= 0) & (y < 1)).all())
        torch.testing.assert_close(quantise(y, levels), images)


@pytest.mark.parametrize("levels", LEVELS)
def test_the_noise_fills_the_whole_bin(levels):
    images = torch.full((200_000,), -1 + 2 / (levels - 1)).double()  # level 1
    y = dequantise(images, levels, torch.rand_like(images))
    assert 1 / levels <= y.min() < 1 / levels + 1e-4 / levels
    assert 2 / levels - 1e-4 / levels < y.max() < 2 / levels


def test_beyond_the_cube_stand_the_outermost_levels():
    assert quantise(torch.tensor([-0.2, 1.0, 3.0]), 17).tolist() == [-1, 1, 1]


class Uniform(nn.Module):
    """To points that are logistic if y is uniform, by way of a logit of any alpha."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.logit, self.whole = Logit(alpha), Logit(0.0)

    def forward(self, y, context=None):
        z, first = self.logit(y)
        back, second = self.logit.inverse(z)
        z, third = self.whole(back)
        return z, first + second + third


@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("levels", LEVELS)
def test_a_uniform_model_scores_log2_levels(levels, alpha):
    model = Flow(SHAPE, Chain([Uniform(alpha), Flatten(SHAPE)]), "logistic", levels).double()
    nats = model.log_likelihood(grid(levels), draws=3)
    bits = bits_per_dim(nats, math.prod(SHAPE))
    torch.testing.assert_close(bits, torch.full((5,), math.log2(levels), dtype=torch.float64), rtol=0, atol=1e-12)


def test_mass_that_a_logit_leaves_outside_of_the_cube_is_paid_for():
    # uniform on the s of the logit: 0.9 of each axis lies in the cube
    model = Flow(SHAPE, Chain([Logit(0.05), Flatten(SHAPE)]), "logistic", 17).double()
    bits = bits_per_dim(model.log_likelihood(grid(17)), math.prod(SHAPE))
    expected = math.log2(17) - math.log2(0.9)
    torch.testing.assert_close(bits, torch.full((5,), expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_more_draws_raise_the_bound_towards_the_probability():
    model = Flow(SHAPE, Chain([Logit(0.05), Flatten(SHAPE)]), levels=2).double()
    images = grid(2, n=50)
    generator = torch.Generator().manual_seed(1)
    one = torch.stack([model.log_likelihood(images, draws=1, generator=generator) for _ in range(20)]).mean()
    many = model.log_likelihood(images, draws=20, generator=generator).mean()
    # the entries are independent: P of a level is the normal's mass between the ends of its bin
    edge = math.log(0.05 / 0.95)
    exact = math.prod(SHAPE) * math.log(torch.special.ndtr(torch.tensor(-edge)).item() - 0.5)
    assert one < many < exact + 0.05  # 20 draws of 24 dimensions, in the mean over 50 images
    assert exact - many < 0.5 * (exact - one)


def test_a_generator_fixes_the_noise():
    model = Flow(SHAPE, Chain([Logit(0.05), Flatten(SHAPE)]), levels=17)
    images = grid(17).float()
    first, second = (
        model.log_likelihood(images, draws=2, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, model.log_likelihood(images, draws=2))


@pytest.mark.parametrize("wrong", [0.03, -1.125, 1.125, math.nan])
def test_images_off_the_grid_are_refused(wrong):
    images = grid(17).float()
    check_on_grid(images, 17)
    images[2, 1, 0, 3] = wrong
    with pytest.raises(UserError, match=f"17 grey levels from -1 to 1, got the value {wrong}"):
        check_on_grid(images, 17)
