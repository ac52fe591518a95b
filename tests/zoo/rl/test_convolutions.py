"""Convolutions before hidden layers: what they compute, where they begin, what is refused."""

import math

import pytest
import torch

from zoo.rl.convolutions import Convolutions
from zoo.rl.off_policy.q_network import QNetwork
from zoo.rl.policies import ActorCritic

SHAPE = (7, 6, 3)


def test_features_are_sums_over_neighbourhoods():
    torch.manual_seed(0)
    layer = Convolutions(SHAPE, (4, 2)).double()
    pictures = torch.randn(2, 3, *SHAPE, dtype=torch.float64)
    features = layer(pictures.flatten(2))
    assert features.shape == (2, 3, layer.features) == (2, 3, 3 * 2 * 2)
    x = pictures
    for convolution in layer.layers:
        height, width = x.shape[2] - 2, x.shape[3] - 2
        x = torch.stack(
            [
                torch.einsum("nbhwc,ochw->nbo", x[:, :, i : i + 3, j : j + 3], convolution.weight) + convolution.bias
                for i in range(height)
                for j in range(width)
            ],
            2,
        ).relu()
        x = x.unflatten(2, (height, width))
    torch.testing.assert_close(features, x.flatten(2))


def test_orthogonal_weights_if_asked():
    layer = Convolutions(SHAPE, (4,), gain=math.sqrt(2)).layers[0]
    weights = layer.weight.flatten(1)
    torch.testing.assert_close(weights @ weights.mT, 2 * torch.eye(4))
    assert not layer.bias.any()


@pytest.mark.parametrize("kind", [QNetwork, ActorCritic])
def test_policies_see_pictures(kind):
    torch.manual_seed(0)
    policy = kind(SHAPE, (5,), hidden=(8,), channels=(4,))
    pictures = torch.rand(3, *SHAPE)
    outputs = policy.outputs(pictures)[0]
    shifted = policy.outputs(pictures.roll(1, 2))[0]
    assert outputs.shape == (3, 5)
    assert not torch.allclose(outputs, shifted)
    assert policy.predict(pictures[0].numpy()) == policy.predict(pictures.numpy())[0]


@pytest.mark.parametrize(
    ("shape", "channels", "words"),
    [((4,), (4,), r"observations \(H, W, C\)"), ((4, 7, 1), (4, 4), "above 4"), (SHAPE, (0,), "positive")],
)
def test_what_is_no_picture_is_refused(shape, channels, words):
    with pytest.raises(ValueError, match=words):
        QNetwork(shape, (2,), channels=channels)
