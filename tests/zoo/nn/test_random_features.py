import pytest
import torch
from torch.nn import functional as F

from zoo.metrics.samples import FeatureFID
from zoo.nn.random_features import RandomFeatures


def test_the_weights_are_the_same_on_every_machine():
    """Their first numbers, which come from the bits of the generator: 2 (uniform of seed 0) - 1, of variance 2 / 9."""
    network = RandomFeatures((1, 28, 28))
    assert network.kernel_0.shape == (32, 1, 3, 3)
    expected = torch.tensor([-0.006112963, 0.438004375, -0.672013581, -0.600891709])
    torch.testing.assert_close(network.kernel_0.flatten()[:4], expected, rtol=1e-6, atol=0)
    again = RandomFeatures((1, 28, 28))
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), again.buffers(), strict=True))
    assert not list(network.parameters()), "nothing to train"


def test_the_variances_are_those_of_the_fan_in():
    for weights in RandomFeatures((3, 16, 12)).buffers():
        inputs = weights[0].numel()
        gain = 2 if weights.ndim == 4 else 1
        # 4 standard errors of the variance of uniform numbers, sqrt(4 / 5 / N) of it
        assert weights.var().item() * inputs / gain == pytest.approx(1, abs=4 * (0.8 / weights.numel()) ** 0.5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 5)])
def test_features_by_hand(shape):
    network = RandomFeatures(shape, num_features=6)
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    h = F.relu(F.conv2d(x, network.kernel_0, padding=1))
    h = F.relu(F.conv2d(h, network.kernel_1, stride=2, padding=1))
    h = F.relu(F.conv2d(h, network.kernel_2, stride=2, padding=1))
    torch.testing.assert_close(network.features(x), torch.einsum("fi, bi -> bf", network.projection, h.flatten(1)))


def test_blur_is_far_in_these_features():
    """Thin strokes: the FID of a blurred set exceeds that of another set of sharp ones."""
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(400, 1, 8, 8, generator=generator) > 0.7).float() * 2 - 1
    fid = FeatureFID(RandomFeatures((1, 8, 8)), images[:200])
    blurred = F.avg_pool2d(images[200:], 3, stride=1, padding=1)
    assert fid(blurred) > 5 * fid(images[200:])
