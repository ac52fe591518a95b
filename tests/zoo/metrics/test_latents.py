"""The mutual information gap in cases that are known."""

import torch

from zoo.metrics.latents import information_gaps


def test_gaps_are_one_for_a_latent_of_its_own_and_zero_for_two_copies():
    torch.manual_seed(0)
    factors = torch.stack([torch.randn(2000), torch.randint(3, (2000,)).float()], 1)
    noise = torch.randn(2000)
    own = torch.stack([noise, factors[:, 0].exp(), 5 - 2 * factors[:, 1]], 1)
    # 20 x 20 bins of 2,000 independent pairs have 19^2 / 4000 = 0.09 nats of 3.0, and 20 x 3 have 0.01 of 1.1
    torch.testing.assert_close(information_gaps(own, factors), torch.tensor([0.97, 0.99]).double(), rtol=0, atol=0.02)
    copies = torch.cat([own, factors], 1)
    torch.testing.assert_close(information_gaps(copies, factors), torch.zeros(2).double(), rtol=0, atol=1e-12)


def test_a_rotation_of_two_factors_closes_the_gap():
    torch.manual_seed(0)
    factors = torch.rand(5000, 2)
    mixed = torch.stack([factors.sum(1), factors[:, 0] - factors[:, 1]], 1)
    assert (information_gaps(mixed, factors) < 0.03).all()
    assert (information_gaps(factors, factors) > 0.9).all()
