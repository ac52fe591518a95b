import itertools
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from zoo.diffusion.bound import discretised_gaussian_log_prob, variational_bound
from zoo.diffusion.process import NoiseProcess
from zoo.metrics.likelihood import bits_per_dim


def grid(levels):
    return torch.linspace(-1, 1, levels, dtype=torch.float64)


def quantise(x, levels):
    return ((x.clamp(-1, 1) + 1) / 2 * (levels - 1)).round() * 2 / (levels - 1) - 1


# the decoder --------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 5, 17, 256])
@pytest.mark.parametrize("std", [1e-6, 1e-3, 0.03, 0.4, 5.0, 1e3])
def test_levels_sum_to_one(levels, std):
    means = torch.tensor([-3.0, -1.0, -0.51, -0.1234, 0.0, 0.25, 0.999, 1.4], dtype=torch.float64)
    log_prob = discretised_gaussian_log_prob(grid(levels)[:, None], means[None, :], std, levels)
    assert log_prob.shape == (levels, 8)
    assert log_prob.isfinite().all()
    # float32 results: a probability errs by 6e-8 |p log p| < 3e-8 a level, and two ends of a bin by a few 1e-8 more
    torch.testing.assert_close(log_prob.double().exp().sum(0), torch.ones(8).double(), rtol=0, atol=256 * 1e-7)


@pytest.mark.parametrize("std", [0.05, 0.4, 5.0])
def test_a_level_is_the_mass_of_its_bin(std):
    levels, mean = 17, torch.tensor([-0.93, 0.11, 0.4], dtype=torch.float64)
    edges = (grid(17)[1:] + grid(17)[:-1]) / 2
    cumulative = Normal(mean[None, :], std).cdf(edges[:, None])
    mass = torch.cat([torch.zeros(1, 3), cumulative, torch.ones(1, 3)]).diff(dim=0)
    log_prob = discretised_gaussian_log_prob(grid(levels)[:, None], mean[None, :], std, levels)
    torch.testing.assert_close(log_prob.double().exp(), mass, rtol=1e-5, atol=1e-12)  # float32 result


def test_a_level_far_in_the_tail_keeps_its_precision():
    """log of the mass beyond z is -z^2 / 2 - log(z sqrt(2 pi)) for large z, where the mass is 0 in float64."""
    std, x = 1e-3, torch.tensor([1.0], dtype=torch.float64)
    z = (2 - 1 / 16) / std
    log_prob = discretised_gaussian_log_prob(x, -x, std, 17)
    assert log_prob.item() == pytest.approx(-(z**2) / 2 - math.log(z * math.sqrt(2 * math.pi)), rel=1e-6)


def test_the_decoder_is_symmetric():
    x, mean = grid(17)[:, None], torch.tensor([[-0.8, 0.07, 1.3]], dtype=torch.float64)
    forward = discretised_gaussian_log_prob(x, mean, 0.1, 17)
    torch.testing.assert_close(discretised_gaussian_log_prob(-x, -mean, 0.1, 17), forward)


def test_a_single_level_is_refused():
    with pytest.raises(ValueError, match="levels"):
        discretised_gaussian_log_prob(torch.zeros(5), torch.zeros(5), 0.1, 1)


# the terms, one by one ----------------------------------------------------------------------------


class Recorder:
    """A denoiser that is far from right, and remembers what it was asked."""

    def __init__(self):
        self.asked = {}

    def __call__(self, x_t, t):
        answer = (0.7 * x_t + 0.1).clamp(-1, 1)
        (time,) = t.unique().tolist()
        assert time not in self.asked
        self.asked[time] = (x_t, answer)
        return answer


@pytest.mark.parametrize("num_timesteps", [1, 2, 3, 11])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_terms_are_their_definitions(num_timesteps, schedule, variance, generator):
    process = NoiseProcess(schedule, num_timesteps)
    x0 = quantise(torch.randn(5, 3, 8, 6, generator=generator), 17)
    denoise = Recorder()
    bound = variational_bound(denoise, process, x0, levels=17, variance=variance, generator=generator)
    assert sorted(denoise.asked) == list(range(1, num_timesteps + 1))
    assert all(term.shape == (5,) for term in bound)
    torch.testing.assert_close(bound.total, bound.prior + bound.denoising + bound.reconstruction)

    signal, sigma = process.at(num_timesteps)
    prior = kl_divergence(Normal(signal * x0.double(), sigma), Normal(0.0, 1.0)).sum((1, 2, 3))
    # float32 sums of 144 squares, in the magnitude of the sum itself; the constant part cancels to about 1e-12
    torch.testing.assert_close(bound.prior.double(), prior, rtol=1e-5, atol=1e-9)

    denoising = torch.zeros(5, dtype=torch.float64)
    for t in range(2, num_timesteps + 1):
        x_t, estimate = (x.double() for x in denoise.asked[t])
        q = process.posterior(t, t - 1)
        std = math.sqrt(q.variance if variance == "small" else q.forward_variance)
        true = Normal(q.x0_weight * x0.double() + q.xt_weight * x_t, math.sqrt(q.variance))
        model = Normal(q.x0_weight * estimate + q.xt_weight * x_t, std)
        denoising += kl_divergence(true, model).sum((1, 2, 3))
    torch.testing.assert_close(bound.denoising.double(), denoising, rtol=1e-5, atol=0)

    # at t = 1 "small" would be 0: it borrows that of t = 2, or beta_1 where there is no t = 2
    small_std = math.sqrt(process.posterior(2, 1).variance) if num_timesteps > 1 else 1.0
    beta_std = math.sqrt(1 - process.alpha_bar[1].item())
    std = small_std if variance == "small" and num_timesteps > 1 else beta_std
    log_prob = discretised_gaussian_log_prob(x0, denoise.asked[1][1], std, 17).sum((1, 2, 3))
    torch.testing.assert_close(bound.reconstruction, -log_prob)


def test_each_time_is_seen_at_its_own_noise(generator):
    process, denoise = NoiseProcess("cosine", 11), Recorder()
    x0 = torch.full((4000, 3), 0.5)
    variational_bound(denoise, process, x0, levels=17, generator=generator)
    for t, (x_t, _) in denoise.asked.items():
        signal, sigma = process.at(t)
        assert abs(x_t.mean() - signal * 0.5) < 4 * sigma / math.sqrt(12_000), t  # 4 standard errors
        assert abs(x_t.std() / sigma - 1) < 4 / math.sqrt(2 * 12_000), t


def test_a_misspelt_variance_is_refused():
    with pytest.raises(ValueError, match="variance must be 'small' or 'large'"):
        variational_bound(lambda x, t: x, NoiseProcess("linear", 5), torch.zeros(5, 3), levels=17, variance="Small")


# the whole, against a known entropy ---------------------------------------------------------------


def expected_bound(process, gaussian, variance, bin_width):
    """E of the bound, nats a dimension, on a grid so fine that a bin is its width times the density at its centre."""
    abar = process.alpha_bar.tolist()
    last = process.num_timesteps
    second_moment = gaussian.std**2 + gaussian.mean**2
    total = 0.5 * (abar[last] * second_moment - abar[last] - math.log(1 - abar[last]))
    for t in range(2, last + 1):
        beta = 1 - abar[t] / abar[t - 1]
        shrink = (1 - abar[t - 1]) / (1 - abar[t])  # true over forward variance
        # KL of the means: half the difference of signal-to-noise ratios times the squared error of the estimate
        mean_term = abar[t - 1] / (1 - abar[t - 1]) - abar[t] / (1 - abar[t])
        mean_term *= gaussian.posterior_variance(process, t)
        ratio = 1.0 if variance == "small" else shrink
        total += 0.5 * (ratio - 1 - math.log(ratio) + ratio * mean_term)
        if t == 2:
            decoder = shrink * beta if variance == "small" else 1 - abar[1]
    return (
        total
        + 0.5 * (math.log(2 * math.pi * decoder) + gaussian.posterior_variance(process, 1) / decoder)
        - (math.log(bin_width))
    )


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_bound_of_gaussian_data_on_a_fine_grid(schedule, variance, narrow_gaussian, generator):
    """With the exact denoiser and no quantisation to speak of, mean and limit of the bound are known.

    "large" is the exact variance of the last steps, so its bound tends to the entropy; "small" is exact for data
    without noise of their own, which these are not, and its bound stays above by a constant.
    """
    levels, count = 8001, 4000
    x0 = quantise(narrow_gaussian.mean + narrow_gaussian.std * torch.randn(count, 3, generator=generator), levels)
    surprise = -Normal(narrow_gaussian.mean, narrow_gaussian.std).log_prob(x0).sum(1) - 3 * math.log(2 / (levels - 1))
    entropy = 0.5 * math.log(2 * math.pi * math.e * narrow_gaussian.std**2) - math.log(2 / (levels - 1))
    gaps = []
    for num_timesteps in (50, 200, 1000):
        process = NoiseProcess(schedule, num_timesteps)
        bound = variational_bound(
            narrow_gaussian.denoiser(process), process, x0, levels=levels, variance=variance, generator=generator
        )
        gap = (bound.total - surprise) / 3  # of mean bound - entropy, but with less spread than the bound itself
        four_errors = 4 * gap.std().item() / math.sqrt(count)
        gaps.append(expected_bound(process, narrow_gaussian, variance, 2 / (levels - 1)) - entropy)
        assert gap.mean().item() == pytest.approx(gaps[-1], abs=four_errors)
        assert gap.mean() > -four_errors
    if variance == "large":
        assert gaps[0] / 3 > gaps[1] > gaps[2] * 4  # it falls like 1 / T, four- and fivefold
        assert gaps[2] < 0.02
    else:
        assert gaps[2] > 0.3


def grid_denoiser(process, log_weights):
    """E[x_0 | x_t] for data on a grid with the given log-probabilities."""
    points = grid(len(log_weights))

    def denoise(x_t, t):
        abar = process.alpha_bar[t].view(-1, 1, 1)
        log_posterior = log_weights - (x_t.double()[..., None] - abar.sqrt() * points) ** 2 / (2 * (1 - abar))
        return (log_posterior.softmax(-1) * points).sum(-1).float()

    return denoise


def test_bound_of_data_on_a_coarse_grid(generator):
    """With the exact denoiser the small variance leads to the entropy, and the large one stays well above it."""
    levels, count = 5, 4000
    log_weights = (-((grid(levels) - 0.1) ** 2) / (2 * 0.3**2)).log_softmax(0)
    index = torch.multinomial(log_weights.exp(), 3 * count, replacement=True, generator=generator).view(count, 3)
    x0 = grid(levels)[index].float()
    surprise = -log_weights[index].sum(1)  # its mean is the entropy
    means = {}
    for variance, num_timesteps in itertools.product(("small", "large"), (50, 100, 200)):
        process = NoiseProcess("cosine", num_timesteps)
        bound = variational_bound(
            grid_denoiser(process, log_weights), process, x0, levels=levels, variance=variance, generator=generator
        )
        gap = (bound.total - surprise) / 3
        means[variance, num_timesteps] = gap.mean().item()
        assert gap.mean() > -4 * gap.std() / math.sqrt(count)  # no code is shorter than the entropy
    assert means["small", 50] > means["small", 100] > means["small", 200]
    assert means["small", 200] < 0.07  # of an entropy of 0.90 nats; it halves when T doubles
    for num_timesteps in (50, 100, 200):
        assert means["large", num_timesteps] > means["small", num_timesteps] + 0.1


def test_bound_is_repeatable():
    process, x0 = NoiseProcess("cosine", 11), quantise(torch.randn(5, 3, 8, 6), 17)
    first, second, other = (
        variational_bound(Recorder(), process, x0, levels=17, generator=torch.Generator().manual_seed(seed)).total
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_useless_model_scores_the_bits_of_a_level():
    """A model that spreads its mass evenly over 17 levels costs log2 17 bits a dimension."""
    log_prob = torch.full((5,), 3 * 8 * 6 * -math.log(17))
    torch.testing.assert_close(bits_per_dim(log_prob, 3 * 8 * 6), torch.full((5,), math.log2(17)))
