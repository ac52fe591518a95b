"""A U-Net as the velocity of images: where it starts, its variances, and its trace by enumeration."""

from itertools import product

import pytest
import torch
from torch import nn

from zoo.errors import UserError
from zoo.flows.cnf_model import cnf
from zoo.flows.velocity_unet import VelocityUNet

SHAPE = (1, 4, 2)
DIMS = 8


def points(rows):
    return torch.randn(rows, DIMS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def unet(**options):
    torch.manual_seed(0)
    field = VelocityUNet(SHAPE, 4, **options).double().eval()
    for parameter in field.parameters():
        nn.init.normal_(parameter, std=0.3)
    return field


def test_a_new_flow_is_that_of_independent_pixels():
    model = cnf(SHAPE, 5, network="unet", channels=4, trace="hutchinson", solver="rk4", steps=16).eval().double()
    images = torch.arange(48).remainder(5).view(6, *SHAPE) / 2 - 1
    model.equalise(images)
    y = (images.double() + 1) * 0.4 + 0.05
    layers = model._way_to_field()
    z, ladj = layers(y)
    # the identity to the error of 16 steps of a method of fourth order; the trace of a diagonal Jacobian is exact
    torch.testing.assert_close(model.log_prob(y), model._base_log_prob(z) + ladj, rtol=0, atol=1e-4)
    torch.testing.assert_close(model.sample(6, noise=z), layers.inverse(z)[0].mul(5).floor() / 2 - 1, check_dtype=False)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_network_has_inputs_and_targets_of_unit_variance(t):
    x, z = points(20_000).split(10_000)
    x_t = (1 - t) * z + t * x
    field, seen = VelocityUNet(SHAPE, 4).double(), []
    field.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    scale = (t**2 + (1 - t) ** 2) ** -0.5
    target = (x - z - field(torch.tensor(t, dtype=torch.float64), x_t)) / scale  # while F = 0
    # 80,000 values: a variance is off by sqrt(2 / 80,000) = 0.005
    assert seen[0].var().item() == pytest.approx(1, abs=0.02)
    assert target.var().item() == pytest.approx(1, abs=0.02)
    assert (target * x_t).mean().item() == pytest.approx(0, abs=0.02)  # nothing linear is left


def test_the_mean_of_the_estimates_over_all_signs_is_the_trace():
    field, t = unet(num_classes=3), torch.tensor(0.4, dtype=torch.float64)
    x, context = points(1), torch.eye(3, dtype=torch.float64)[1:2]
    signs = torch.tensor([*product((-1.0, 1.0), repeat=DIMS)], dtype=torch.float64)  # (256, D)
    change = field.change(t, x.expand(len(signs), -1), context.expand(len(signs), -1), signs)
    jacobian = torch.autograd.functional.jacobian(lambda leaf: field(t, leaf, context), x).view(DIMS, DIMS)
    assert change.divergence.mean().item() == pytest.approx(jacobian.trace().item(), rel=1e-9)
    torch.testing.assert_close(change.velocity[:1], field(t, x, context))
    torch.testing.assert_close(change.product, signs @ jacobian)


def test_samples_go_the_way_of_the_density():
    torch.manual_seed(0)
    model = cnf(SHAPE, 5, network="unet", channels=4, trace="hutchinson", solver="rk4", steps=3).eval()
    for parameter in model.cnf.field.parameters():
        nn.init.normal_(parameter, std=0.1)
    z = points(4).float()
    y, _ = model.decode(z)
    torch.testing.assert_close(model.sample(4, noise=z), y.mul(5).floor().clamp(0, 4) / 2 - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "cnn"}, "network must be one of mlp, unet, got 'cnn'"),
        ({"network": "unet"}, "'unet' is for images with trace 'hutchinson', .* trace 'exact'"),
        ({"network": "unet", "trace": "hutchinson", "levels": 0, "shape": (3,)}, r"'unet' is for images.*shape \(3,\)"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        cnf(**{"shape": SHAPE, "levels": 5, **options})
