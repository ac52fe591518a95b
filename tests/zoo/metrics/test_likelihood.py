import math

import pytest
import torch

from zoo.metrics.likelihood import bits_per_dim


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_equally_likely_levels_cost_their_logarithm(levels):
    dims = 3 * 8 * 6
    log_prob = torch.full((5,), -dims * math.log(levels), dtype=torch.float64)
    torch.testing.assert_close(bits_per_dim(log_prob, dims), torch.full((5,), math.log2(levels)).double())


def test_each_sample_has_its_own_bits():
    torch.testing.assert_close(
        bits_per_dim(torch.tensor([0.0, -7 * math.log(2), -14 * math.log(2)]), 7), torch.tensor([0.0, 1.0, 2.0])
    )


def test_a_density_becomes_a_probability_by_the_volume_of_a_bin():
    """The docstring's rule: a density even over the L bins of [-1, 1], each 2 / (L - 1) wide, scores log2 L."""
    levels, dims = 17, 7
    width = 2 / (levels - 1)
    log_density = torch.full((5,), -dims * math.log(levels * width), dtype=torch.float64)
    bits = bits_per_dim(log_density + dims * math.log(width), dims)
    torch.testing.assert_close(bits, torch.full((5,), math.log2(levels)).double())
