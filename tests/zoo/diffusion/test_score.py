"""Scores, the reverse SDE and score matching, with exact denoisers."""

import itertools
import math

import pytest
import torch

from tests.zoo.diffusion.mixture import Mixture
from zoo.diffusion.losses import denoising_loss
from zoo.diffusion.process import PROCESSES, NoiseProcess
from zoo.diffusion.samplers import euler_maruyama, predictor_corrector
from zoo.diffusion.schedules import timesteps
from zoo.diffusion.score import denoising_score_matching, score

MIXTURE = Mixture()
every_process = pytest.mark.parametrize("schedule", PROCESSES)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed))


def denoiser(gaussian, process):
    """E[x_0 | x_t] of Gaussian data, for every process."""

    def denoise(x_t, t):
        signal, sigma = process.signal_and_noise(t, x_t.ndim, torch.float64)
        gain = signal * gaussian.std**2 / (signal**2 * gaussian.std**2 + sigma**2)
        return gaussian.mean + gain * (x_t - signal * gaussian.mean)

    return denoise


@every_process
def test_score_is_the_gradient_of_the_log_density(schedule):
    process = NoiseProcess(schedule, 60)
    for t in (1, 7, 30, 60):
        x = (process.at(t)[0] * MIXTURE.draw(5, seeded(1)) + process.at(t)[1] * draw(5, 2)).requires_grad_()
        (gradient,) = torch.autograd.grad(MIXTURE.log_prob(process, x, t).sum(), x)
        found = score(MIXTURE.denoiser(process), process, x.detach(), torch.full((5,), t))
        # float64, from a difference of numbers up to 1 / sigma^2 = 1e4 times as large
        torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_score_is_eps_over_the_noise(schedule):
    """-eps / sqrt(1 - abar_t), for any network."""
    process, x, eps = NoiseProcess(schedule, 60), draw(5, 3, 8, 6), draw(5, 3, 8, 6, seed=1)
    t = torch.tensor([1, 12, 30, 44, 60])
    abar = process.alpha_bar[t].view(5, 1, 1, 1)
    found = score(lambda x, t: (x - (1 - abar).sqrt() * eps) / abar.sqrt(), process, x, t)
    torch.testing.assert_close(found, -eps / (1 - abar).sqrt(), rtol=1e-9, atol=1e-9)


@every_process
@pytest.mark.parametrize(("corrector_steps", "snr"), [(0, 0.16), (1, 0.16), (2, 0.3)])
def test_samples_have_the_law_of_the_recursion(schedule, corrector_steps, snr, gaussian):
    """Every step is affine in x with Gaussian noise, so mean and variance of the samples follow by hand."""
    process, count = NoiseProcess(schedule, 60), 20_000
    times = timesteps(60, 20)
    mean, var = 0.0, process.prior_std**2

    def score_line(t):
        """slope and offset of the score of x_t."""
        signal, sigma = process.at(t)
        slope = -1 / (signal**2 * gaussian.std**2 + sigma**2)
        return slope, -slope * signal * gaussian.mean

    for t, s in itertools.pairwise(times[:-1]):
        shrink = process.at(t)[0] / process.at(s)[0]
        forward = process.at(t)[1] ** 2 - (shrink * process.at(s)[1]) ** 2
        slope, offset = score_line(t)
        factor = 2 - shrink + forward * slope
        mean, var = factor * mean + forward * offset, factor**2 * var + forward
        size = 2 * (snr * process.at(s)[1]) ** 2
        slope, offset = score_line(s)
        for _ in range(corrector_steps):
            mean, var = (1 + size * slope) * mean + size * offset, (1 + size * slope) ** 2 * var + 2 * size
    signal, sigma = process.at(times[-2])
    gain = signal * gaussian.std**2 / (signal**2 * gaussian.std**2 + sigma**2)
    mean, var = gaussian.mean + gain * (mean - signal * gaussian.mean), gain**2 * var

    x = process.prior_std * torch.randn(count, 1, dtype=torch.float64, generator=seeded(1))
    x = predictor_corrector(
        denoiser(gaussian, process), process, x, times, corrector_steps=corrector_steps, snr=snr, generator=seeded(2)
    )
    assert x.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(var / count))  # 4 standard errors
    assert x.var().item() == pytest.approx(var, rel=4 * math.sqrt(2 / count))


@every_process
@pytest.mark.parametrize("sampler", [euler_maruyama, predictor_corrector])
def test_samples_have_the_law_of_the_data(schedule, sampler, gaussian):
    process, count = NoiseProcess(schedule, 1000), 4000
    x = process.prior_std * torch.randn(count, 1, dtype=torch.float64, generator=seeded(1))
    x = sampler(denoiser(gaussian, process), process, x, timesteps(1000, 1000), generator=seeded(2))
    assert abs(x.mean() - gaussian.mean) < 4 * gaussian.std / math.sqrt(count)
    # 4 standard errors, 2 % for 1000 steps, and snr^2 = 2.6 % for Langevin's own steps, whose variance is too large
    assert abs(x.var() / gaussian.std**2 - 1) < 4 * math.sqrt(2 / count) + 0.046


@every_process
def test_euler_maruyama_is_the_predictor_alone(schedule, gaussian):
    process = NoiseProcess(schedule, 60)
    denoise, x = denoiser(gaussian, process), draw(5, 3)
    drawn = euler_maruyama(denoise, process, x, timesteps(60, 20), generator=seeded())
    other = predictor_corrector(denoise, process, x, timesteps(60, 20), corrector_steps=0, generator=seeded())
    assert torch.equal(drawn, other)


@every_process
def test_the_last_step_returns_the_estimate_and_a_sample_ignores_its_batch(schedule):
    process, seen, reached = NoiseProcess(schedule, 60), [], []

    def denoise(x, t):
        seen.append(int(t[0]))
        return (3 * x).clamp(-1, 1)

    x = process.prior_std * draw(5, 3)
    drawn = predictor_corrector(
        denoise, process, x, [60, 30, 5, 0], generator=seeded(), on_step=lambda t, *_: reached.append(t)
    )
    assert drawn.abs().max() <= 1
    assert seen == [60, 30, 30, 5, 5]
    assert reached == [30, 5, 0]
    other = predictor_corrector(denoise, process, torch.cat([x[:1], 5 * x[1:]]), [60, 30, 5, 0], generator=seeded())
    torch.testing.assert_close(other[:1], drawn[:1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"snr": 0.0}, "snr"),
        ({"snr": math.nan}, "snr"),
        ({"corrector_steps": -1}, "corrector_steps must be at least 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    process = NoiseProcess("ve", 60)
    with pytest.raises(ValueError, match=message):
        predictor_corrector(lambda x, t: x, process, draw(5, 3), [60, 0], **options)


# score matching -----------------------------------------------------------------------------------


@every_process
def test_score_matching_is_the_loss_of_eps(schedule):
    process = NoiseProcess(schedule, 60)
    x0, noise = torch.randn(5, 3, 8, 6, generator=seeded()), torch.randn(5, 3, 8, 6, generator=seeded(1))
    t = torch.tensor([1, 12, 30, 44, 60])
    _, sigma = process.signal_and_noise(t)

    def network(x_t, t, labels=None):
        return torch.tanh(x_t)

    matching = denoising_score_matching(lambda x_t, t: -network(x_t, t) / sigma, process, x0, t, noise)
    assert matching.shape == (5,)
    torch.testing.assert_close(matching, denoising_loss(network, process, "eps", x0, t, noise))  # float32


@every_process
def test_score_matching_is_least_at_the_score(schedule):
    """Its gradient there is 0 in the mean: moving the true score along any direction does not help."""
    process, count = NoiseProcess(schedule, 60), 40_000
    x0, noise = MIXTURE.draw(count, seeded(1)), draw(count, 2)
    denoise = MIXTURE.denoiser(process)
    for time in (4, 25):
        t = torch.full((count,), time)
        sigma = process.at(time)[1]

        def loss(shift, t=t, sigma=sigma):
            def moved(x, t):
                return score(denoise, process, x, t) + shift * torch.sin(3 * x) / sigma

            return denoising_score_matching(moved, process, x0, t, noise)

        slope = (loss(0.1) - loss(-0.1)) / 0.2
        assert abs(slope.mean()) < 4 * slope.std() / math.sqrt(count)
        assert loss(0.1).mean() > loss(0.0).mean() < loss(-0.1).mean()
