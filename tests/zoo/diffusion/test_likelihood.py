"""Densities by the probability flow, against closed forms."""

import math

import pytest
import torch
from torch.distributions import Normal

from tests.zoo.diffusion.mixture import Mixture
from zoo.diffusion.guidance import classifier_free, classifier_guidance
from zoo.diffusion.likelihood import dequantise, log_bin_volume, log_likelihood, probability_flow
from zoo.diffusion.process import PROCESSES, NoiseProcess
from zoo.diffusion.samplers import ddim
from zoo.diffusion.schedules import karras_timesteps
from zoo.diffusion.solvers import dpm_solver_pp, heun

MIXTURE = Mixture()
every_process = pytest.mark.parametrize("schedule", PROCESSES)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed))


class Correlated:
    """N(mean, S S^T) in three dimensions: a Jacobian that is neither diagonal nor alike in every direction."""

    mean = torch.tensor([0.2, -0.4, 0.1], dtype=torch.float64)
    root = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.2, 0.0], [-0.2, 0.1, 0.4]], dtype=torch.float64)
    covariance = root @ root.T

    def denoiser(self, process):
        def denoise(x_t, t):
            signal, sigma = process.at(t[0].item())
            total = signal**2 * self.covariance + sigma**2 * torch.eye(3, dtype=torch.float64)
            gain = signal * torch.linalg.solve(total, self.covariance)
            return self.mean + (x_t - signal * self.mean) @ gain

        return denoise

    def log_prob(self, process, x0):
        """Of the flow from N(0, prior_std^2 I): along each principal axis, z - mean grows as its standard deviation."""
        variance, axes = torch.linalg.eigh(self.covariance)
        first, last = (variance + process.noise_levels[t].item() ** 2 for t in (1, process.num_timesteps))
        z = self.mean + ((x0 - self.mean) @ axes * (last / first).sqrt()) @ axes.T
        prior = Normal(0.0, process.prior_std / process.at(process.num_timesteps)[0]).log_prob(z).sum(1)
        return prior + 0.5 * (last / first).log().sum()


CORRELATED = Correlated()


@every_process
def test_log_likelihood_of_a_gaussian(schedule):
    process = NoiseProcess(schedule, 500, sigma_range=(0.01, 500.0))
    x0 = CORRELATED.mean + draw(5, 3) @ CORRELATED.root.T
    found = log_likelihood(CORRELATED.denoiser(process), process, x0, trace="exact", steps=300)
    assert found.dtype == torch.float64
    assert found.shape == (5,)
    # the error of 300 steps of fourth order over 10 to 14 e-foldings of the noise; 2e-4 at 100 steps
    torch.testing.assert_close(found, CORRELATED.log_prob(process, x0), rtol=0, atol=5e-6)
    # and that is the density of the data, with the noise of t = 1 left in, but for the prior, off by a_T / sigma_T
    level = process.noise_levels[1].item()
    total = CORRELATED.covariance + level**2 * torch.eye(3, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(CORRELATED.mean, total).log_prob(x0)
    torch.testing.assert_close(found, exact, rtol=0, atol=5 * process.at(500)[0] / process.at(500)[1] + 5e-6)


@every_process
def test_log_likelihood_of_a_mixture(schedule):
    process = NoiseProcess(schedule, 500, sigma_range=(0.01, 500.0))
    x0 = torch.cat([MIXTURE.draw(6, seeded(1)), torch.tensor([[0.0, 0.0], [1.5, 1.5]], dtype=torch.float64)])
    found = log_likelihood(MIXTURE.denoiser(process), process, x0, trace="exact", steps=150)
    signal, _ = process.at(1)
    exact = MIXTURE.log_prob(process, signal * x0, 1) + 2 * math.log(signal)  # of x_1 / a_1
    # the prior is off by about a_T / sigma_T, here times latents of up to 3; 150 steps add less than 1e-3
    torch.testing.assert_close(found, exact, rtol=0, atol=3 * process.at(500)[0] / process.at(500)[1] + 1e-3)


def test_log_likelihood_is_of_fourth_order_in_the_steps():
    process = NoiseProcess("linear", 500)
    x0 = MIXTURE.draw(5, seeded(1))
    fine = log_likelihood(MIXTURE.denoiser(process), process, x0, trace="exact", steps=640)
    errors = [
        (log_likelihood(MIXTURE.denoiser(process), process, x0, trace="exact", steps=steps) - fine).abs().max().item()
        for steps in (40, 80, 160)
    ]
    assert math.log2(errors[0] / errors[2]) / 2 == pytest.approx(4, abs=0.6), errors


def test_hutchinson_is_unbiased():
    process = NoiseProcess("cosine", 500)
    x0 = (CORRELATED.mean + draw(1, 3) @ CORRELATED.root.T).expand(4000, 3)
    exact = log_likelihood(CORRELATED.denoiser(process), process, x0[:1], trace="exact", steps=30)
    estimates = log_likelihood(CORRELATED.denoiser(process), process, x0, steps=30, generator=seeded())
    assert estimates.std() > 0.01  # there is something to average
    assert abs(estimates.mean() - exact) < 4 * estimates.std() / math.sqrt(4000)
    again = log_likelihood(CORRELATED.denoiser(process), process, x0, steps=30, generator=seeded())
    assert torch.equal(estimates, again)


def test_hutchinson_is_exact_where_the_jacobian_is_diagonal():
    """With signs for probes: v_i^2 = 1. (With normal ones it would not be.)"""
    process = NoiseProcess("linear", 100)
    x0 = draw(5, 3)

    def denoise(x_t, t):
        return torch.tanh(x_t)

    exact, estimate = (
        log_likelihood(denoise, process, x0, trace=trace, steps=10, generator=seeded())
        for trace in ("exact", "hutchinson")
    )
    torch.testing.assert_close(estimate, exact)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_log_likelihood_works_in_inference_mode(trace):
    process, x0 = NoiseProcess("cosine", 100), MIXTURE.draw(5, seeded())
    denoise = MIXTURE.denoiser(process)
    plain = log_likelihood(denoise, process, x0, trace=trace, steps=5, generator=seeded())
    with torch.inference_mode():
        found = log_likelihood(denoise, process, x0 + 0, trace=trace, steps=5, generator=seeded())
    assert torch.equal(found, plain)
    assert not plain.requires_grad


def test_log_likelihood_of_images_in_float32():
    process, x0 = NoiseProcess("linear", 100), 0.5 * torch.randn(5, 3, 8, 6, generator=seeded())

    def denoise(x_t, t):  # of N(0, 0.25 I)
        signal, sigma = process.signal_and_noise(t, x_t.ndim, x_t.dtype)
        return x_t * signal * 0.25 / (signal**2 * 0.25 + sigma**2)

    found = log_likelihood(denoise, process, x0, steps=60, generator=seeded())
    level = process.noise_levels[1].item()
    exact = Normal(0.0, math.hypot(0.5, level)).log_prob(x0).sum((1, 2, 3))
    assert found.dtype == torch.float32
    # 144 dimensions: 1e-5 nats each of the steps and of float32, and the prior's variance, off by a_T^2 = 4e-5
    torch.testing.assert_close(found, exact, rtol=0, atol=144 * 5e-5)


def test_a_misspelt_trace_is_refused():
    with pytest.raises(ValueError, match="trace must be one of"):
        log_likelihood(lambda x, t: x, NoiseProcess("linear", 5), draw(5, 3), trace="hutch")
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        log_likelihood(lambda x, t: x, NoiseProcess("linear", 5), draw(5, 3), steps=0)


def test_dequantised_data_stay_in_their_bins():
    levels = 17
    x0 = torch.randint(0, levels, (5, 3, 8, 600), generator=seeded()) * 2 / (levels - 1) - 1
    noise = dequantise(x0, levels, seeded(1)) - x0
    half = 1 / (levels - 1)
    assert noise.abs().max() <= half + 1e-6  # float32
    assert noise.var().item() == pytest.approx(half**2 / 3, rel=0.02)  # 72000 draws: 4 standard errors are 1.3 %
    assert noise.mean().abs() < 4 * half / math.sqrt(3 * 72_000)
    with pytest.raises(ValueError, match="levels"):
        dequantise(x0, 1)


@every_process
def test_the_flow_keeps_the_standardised_value(schedule):
    """Of Gaussian data in one dimension; up, and down again."""
    process, x = NoiseProcess(schedule, 100), draw(5, 1)

    def denoise(x_t, t):  # of N(0.3, 0.25)
        signal, sigma = process.signal_and_noise(t, 2, torch.float64)
        return 0.3 + signal * 0.25 / (signal**2 * 0.25 + sigma**2) * (x_t - signal * 0.3)

    def standardised(x, t):
        signal, sigma = process.at(t)
        return (x - signal * 0.3) / math.hypot(signal * 0.5, sigma)

    for start, end in ((100, 1), (1, 100), (80.5, 3.25)):
        moved = probability_flow(denoise, process, x, start, end, 200)
        torch.testing.assert_close(standardised(moved, end), standardised(x, start), rtol=0, atol=5e-6)


# guidance beyond 1 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", PROCESSES)
@pytest.mark.parametrize("kind", ["classifier-free", "classifier"])
@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpm++2m"])
def test_samplers_agree_on_the_guided_flow(sampler, kind, schedule):
    """At scale 3, with the fine solution of the same guided equation (not with a tilted density: see the docs)."""
    process, labels = NoiseProcess(schedule, 4000), torch.arange(3).repeat(7)
    if kind == "classifier-free":
        denoise = classifier_free(MIXTURE.conditional(process), process, labels, torch.tensor([3]), 3.0)
    else:
        log_prob = MIXTURE.class_log_prob(process, labels)
        denoise = classifier_guidance(MIXTURE.denoiser(process), process, log_prob, 3.0)
    times = karras_timesteps(process, 300 if sampler == "ddim" else 100)
    x = process.at(times[0])[1] * draw(21, 2)
    reference = probability_flow(denoise, process, x, times[0], 1, 300)
    reference = denoise(reference, torch.ones(21, dtype=torch.float64))
    solve = {"ddim": ddim, "heun": heun, "dpm++2m": dpm_solver_pp}[sampler]
    error = (solve(denoise, process, x, times) - reference).abs().max()
    assert error < {"ddim": 0.02, "heun": 0.005, "dpm++2m": 0.007}[sampler]  # of points that lie 1 apart


def test_the_volume_of_a_bin():
    """An even density over the range of L levels gives each of them the probability 1 / L."""
    for levels in (2, 17, 256):
        density = -5 * math.log(2 * levels / (levels - 1))
        assert math.isclose(density + log_bin_volume(5, levels), -5 * math.log(levels))
