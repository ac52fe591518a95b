"""What single layers promise beyond being bijections: statistics, masks, spline tails, borders."""

import copy
import math

import pytest
import torch
import torch.distributed as dist

from tests.zoo.flows.families import awake
from zoo.errors import UserError
from zoo.flows.coupling import Affine
from zoo.flows.layers import ActNorm, InvertibleLinear, Logit, Permutation, Squeeze, Standardise
from zoo.flows.masks import checkerboard, half
from zoo.flows.nets import MLP, ConvNet
from zoo.flows.splines import spline

# ActNorm


@pytest.mark.parametrize("shape", [(5,), (5, 4, 3)])
def test_actnorm_normalises_the_first_training_batch_only(shape):
    layer = ActNorm(5)
    first, second = (7 + 3 * torch.randn(64, *shape) for _ in range(2))
    torch.testing.assert_close(layer.eval()(first)[0], first)  # evaluation before training changes nothing
    assert not layer.initialised
    z, _ = layer.train()(first)
    values = z.transpose(0, 1).flatten(1)
    # float32 roundings; the variance lacks the 1e-6 that keeps a constant feature finite
    torch.testing.assert_close(values.mean(1), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(values.var(1, correction=0), torch.ones(5), rtol=1e-5, atol=0)
    mean = layer.mean.clone()
    layer(second + 100)
    assert torch.equal(layer.mean, mean)


def test_actnorm_remembers_in_its_state():
    layer = ActNorm(5)
    layer(torch.randn(64, 5))
    other = ActNorm(5)
    other(9 + torch.randn(64, 5))
    other.load_state_dict(layer.state_dict())
    other(50 + torch.randn(64, 5))
    assert torch.equal(other.mean, layer.mean)
    # and a state from before the first batch starts anew
    other.load_state_dict(ActNorm(5).state_dict())
    other(50 + torch.randn(64, 5))
    assert bool((other.mean > 40).all())
    assert torch.equal(copy.deepcopy(layer)(torch.ones(3, 5))[0], layer(torch.ones(3, 5))[0])


def test_actnorm_of_a_constant_feature_stays_finite():
    layer = ActNorm(3)
    z, ladj = layer(torch.tensor([1.0, 2.0, 3.0]).expand(8, 3))
    assert bool(z.isfinite().all())
    assert bool(ladj.isfinite().all())


def test_actnorm_refuses_a_batch_of_one_vector():
    with pytest.raises(UserError, match="batch_size must be at least 2"):
        ActNorm(3)(torch.randn(1, 3))


def test_with_other_processes_the_statistics_are_those_of_all_batches(monkeypatch):
    batches = torch.randn(20, 3)
    mine, theirs = batches.split([13, 7])

    def add_theirs(sums):
        other = theirs.double()
        sums += torch.cat([other.sum(0), other.square().sum(0), torch.tensor([7.0])])

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", add_theirs)
    layer = ActNorm(3)
    layer(mine)
    torch.testing.assert_close(layer.mean.data, batches.mean(0))
    torch.testing.assert_close((-2 * layer.log_scale.data).exp(), batches.var(0, correction=0) + 1e-6)


# the border between data and flow


def test_standardise_takes_the_statistics_of_data():
    layer = Standardise((3,))
    x = torch.tensor([1e6, -5.0, 0.0]) + torch.tensor([10.0, 0.1, 1.0]) * torch.randn(1000, 3)
    layer.fit(x)
    z, ladj = layer(x)
    # float32 resolves 1e6 to 0.06; the points are rounded, their mean is not
    torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3), rtol=1e-5, atol=0)
    assert ladj[0].item() == pytest.approx(-layer.std.log().sum().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_standardise_centres_in_float64(dtype):
    """Seconds since 1970 within ten: float32 resolves them to 128."""
    layer = Standardise((2,)).to(dtype)
    centred = 10 * torch.randn(500, 2, dtype=torch.float64)
    x = centred + torch.tensor([1.7e9, 2000.0])
    layer.fit(x)
    layer = copy.deepcopy(layer).to(dtype)
    assert layer.mean.dtype == torch.float64
    z, _ = layer(x)
    assert z.dtype == dtype
    expected = (centred - centred.mean(0)) / centred.std(0, correction=0)
    torch.testing.assert_close(
        z.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6 if dtype != torch.bfloat16 else 0.02
    )
    back, _ = layer.inverse(z)
    assert back.dtype == torch.float64, "float32 would round them"
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5 if dtype != torch.bfloat16 else 0.2)


def test_standardise_keeps_float32_where_that_resolves_the_data():
    layer = Standardise((2,))
    layer.set(torch.tensor([2000.0, 0.0]), torch.tensor([1.0, 1e-9]))
    x = layer.mean.float() + layer.std * torch.randn(50, 2)
    assert torch.equal(layer(x)[0], (x - layer.mean.float()) / layer.std)
    z = torch.randn(50, 2)
    assert layer.inverse(z)[0].dtype == torch.float32
    assert torch.equal(layer.inverse(z)[0], layer.mean.float() + layer.std * z)


@pytest.mark.parametrize("broken", [torch.tensor([1.0, 0.0]), torch.tensor([1.0, torch.nan])])
def test_standardise_refuses_what_does_not_vary(broken):
    with pytest.raises(UserError, match="must vary in every column"):
        Standardise((2,)).set(torch.zeros(2), broken)


@pytest.mark.parametrize("alpha", [-0.1, 0.5])
def test_logit_refuses_an_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match="alpha must be"):
        Logit(alpha)


def test_logit_is_finite_at_the_borders():
    z, ladj = Logit(0.05)(torch.tensor([[0.0, 1.0]]))
    edge = math.log(0.05 / 0.95)
    torch.testing.assert_close(z, torch.tensor([[edge, -edge]]))
    assert ladj.item() == pytest.approx(2 * math.log(0.9 / (0.05 * 0.95)))


# masks and mixing


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("mask", [checkerboard, half])
def test_a_mask_and_its_flip_part_all_entries(mask, shape):
    first, second = mask(shape), mask(shape, flip=True)
    assert first.shape == (1, *shape)
    assert bool((first ^ second).all())
    assert 0 < first.sum() < first.numel()


def test_a_checkerboard():
    assert checkerboard((1, 2, 3))[0, 0].tolist() == [[True, False, True], [False, True, False]]
    assert half((5,))[0].tolist() == [True, True, False, False, False]


def test_squeeze_keeps_neighbours_together():
    z, _ = Squeeze()(torch.arange(24.0).view(1, 2, 2, 6))
    assert z.shape == (1, 8, 1, 3)
    assert z[0, :4, 0, 0].tolist() == [0, 1, 6, 7]


def test_a_linear_layer_starts_as_a_permutation_or_a_rotation():
    x = torch.randn(5, 7)
    z, ladj = InvertibleLinear(7)(x)
    torch.testing.assert_close(z.sort(1).values, x.sort(1).values)
    z, ladj = InvertibleLinear(7, rotation=True)(x)
    torch.testing.assert_close(z.norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(ladj, torch.zeros(5), rtol=0, atol=1e-5)  # seven logarithms in float32
    assert not torch.allclose(z.sort(1).values, x.sort(1).values)


@pytest.mark.parametrize("order", [[0, 0], [1, 2]])
def test_what_is_no_permutation_is_refused(order):
    with pytest.raises(ValueError, match="order must hold each of 0"):
        Permutation(order)


# transforms and networks


def test_a_spline_is_the_identity_outside_and_continuous():
    raw = torch.randn(3 * 6 - 1).double()
    x = torch.tensor([-9.0, -2.0 - 1e-9, -2.0, -2.0 + 1e-9, 2.0 - 1e-9, 2.0, 2.0 + 1e-9, 9.0]).double()
    y, log_derivative = spline(x, raw[:, None].expand(-1, 8), bound=2.0)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-8)  # 1e-9 times the slope near the ends
    torch.testing.assert_close(log_derivative, torch.zeros(8).double(), rtol=0, atol=1e-6)  # slope 1 at both ends


@pytest.mark.parametrize("inverse", [False, True])
def test_a_spline_rises_and_survives_extreme_parameters(inverse):
    raw = 60 * torch.randn(23, 4)
    x = torch.linspace(-3.5, 3.5, 701)
    y, log_derivative = spline(x.expand(4, -1), raw[..., None].expand(-1, -1, 701), 3.0, inverse)
    assert bool(y.isfinite().all())
    assert bool(log_derivative.isfinite().all())
    assert bool((y.diff(dim=1) >= -1e-5).all())  # float32 on [-3, 3]


def test_an_affine_scale_is_bounded_on_both_sides():
    x, raw = torch.randn(5, 3), torch.cat([torch.zeros(5, 3), 1e4 * torch.randn(5, 3)], 1)
    _, log_scale = Affine(2.0).forward(x, raw)
    torch.testing.assert_close(log_scale, 2 * raw[:, 3:].sign())
    _, small = Affine(2.0).forward(x, 1e-3 * raw.sign())
    torch.testing.assert_close(small, 2 * torch.tanh(1e-3 * raw[:, 3:].sign() / 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("net", [MLP(3, 5, dropout=0.5), ConvNet(3, 5, dropout=0.5, depth=1)], ids=["mlp", "conv"])
def test_a_network_starts_at_zero_and_drops_in_training_only(net):
    x = torch.randn(2, 3, 4, 5) if isinstance(net, ConvNet) else torch.randn(2, 3)
    assert not net(x).any()
    awake(net)
    x = x.double()
    assert torch.equal(net(x), net(x))
    net.train()
    assert not torch.equal(net(x), net(x))
