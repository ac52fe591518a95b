import math

import pytest
import torch

from zoo.diffusion import samplers
from zoo.diffusion.parameterization import (
    PARAMETERIZATIONS,
    SIGMA_DATA,
    check,
    lognormal_times,
    network_input,
    prediction_to_x0,
    training_target,
)
from zoo.diffusion.process import PROCESSES, NoiseProcess
from zoo.diffusion.schedules import timesteps


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_a_perfect_prediction_gives_x0(parameterization):
    x0, eps = draw(5, 3, 8, 6), draw(5, 3, 8, 6)
    angle = torch.tensor([0.01, 0.4, 0.8, 1.2, 1.56], dtype=torch.float64).view(5, 1, 1, 1)
    signal, sigma = angle.cos(), angle.sin()
    target = training_target(parameterization, x0, eps, signal, sigma)
    back = prediction_to_x0(parameterization, target, signal * x0 + sigma * eps, signal, sigma)
    torch.testing.assert_close(back, x0, rtol=0, atol=1e-12)  # 1 / signal = 93 times the rounding of float64


def test_v_is_the_velocity_along_the_circle():
    """With a = cos(angle), s = sin(angle), v is d x_t / d angle (Salimans & Ho 2022, appendix D)."""
    x0, eps = draw(5), draw(5)
    angle = torch.rand(5, dtype=torch.float64, requires_grad=True)
    (velocity,) = torch.autograd.grad((angle.cos() * x0 + angle.sin() * eps).sum(), angle)
    torch.testing.assert_close(training_target("v", x0, eps, angle.cos(), angle.sin()), velocity)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_samples_do_not_depend_on_what_the_network_predicts(schedule, gaussian):
    """Exact networks of the three parameterisations, for the same data, draw the same sample."""
    process = NoiseProcess(schedule, 100)
    exact = gaussian.denoiser(process)
    noise, times = draw(5, 3), timesteps(100, 20)

    def denoiser(parameterization):
        def denoise(x_t, t):
            signal, sigma = process.at(int(t[0]))
            x0 = exact(x_t, t)
            prediction = training_target(parameterization, x0, (x_t - signal * x0) / sigma, signal, sigma)
            return prediction_to_x0(parameterization, prediction, x_t, signal, sigma)

        return denoise

    expected = samplers.ddim(exact, process, noise, times)
    for parameterization in PARAMETERIZATIONS:
        drawn = samplers.ddim(denoiser(parameterization), process, noise, times)
        # eps multiplies rounding by 1 / sqrt(abar_T), at most 2e4
        torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-10)


def test_an_unknown_name_is_refused():
    one = torch.ones(1)
    for call in (
        lambda: check("score"),
        lambda: training_target("score", one, one, one, one),
        lambda: prediction_to_x0("score", one, one, one, one),
    ):
        with pytest.raises(ValueError, match="parameterization must be one of"):
            call()


# EDM ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", PROCESSES)
def test_edm_sees_and_predicts_unit_variance(schedule):
    """The design of the paper: with data of standard deviation SIGMA_DATA, at every noise level."""
    process, count = NoiseProcess(schedule, 50), 40_000
    generator = torch.Generator().manual_seed(0)
    x0 = SIGMA_DATA * torch.randn(count, generator=generator, dtype=torch.float64)
    eps = torch.randn(count, generator=generator, dtype=torch.float64)
    four_errors = 4 * math.sqrt(2 / count)
    for time in (1, 10, 25, 40, 50):
        t = torch.full((count,), time)
        signal, sigma = process.signal_and_noise(t, 1, torch.float64)
        seen = network_input("edm", process, signal * x0 + sigma * eps, t)
        target = training_target("edm", x0, eps, signal, sigma)
        assert seen.var().item() == pytest.approx(1, abs=four_errors)
        assert target.var().item() == pytest.approx(1, abs=four_errors)
        # of all skips, this one asks least of the network: for Gaussian data the best F is uncorrelated with its input,
        # and is 0
        assert abs((seen * target).mean()) < 4 / math.sqrt(count)


def test_edm_error_has_the_weight_of_the_paper():
    """lambda(sigma) = (sigma^2 + d^2) / (sigma d)^2 on the error of x_0 (table 1)."""
    x0, eps, prediction = draw(5, 3), draw(5, 3), draw(5, 3)
    signal = torch.tensor([0.999, 0.9, 0.5, 0.1, 0.01], dtype=torch.float64)[:, None]
    sigma = (1 - signal**2).sqrt()
    level = sigma / signal
    error = training_target("edm", x0, eps, signal, sigma) - prediction
    of_x0 = x0 - prediction_to_x0("edm", prediction, signal * x0 + sigma * eps, signal, sigma)
    weight = (level**2 + SIGMA_DATA**2) / (level * SIGMA_DATA) ** 2
    torch.testing.assert_close(error**2, weight * of_x0**2)


@pytest.mark.parametrize("parameterization", ["eps", "x0", "v"])
def test_others_are_shown_x_t_itself(parameterization):
    x_t = torch.randn(5, 3, 8, 6)
    assert network_input(parameterization, NoiseProcess("cosine", 50), x_t, torch.arange(1, 6)) is x_t


def test_what_explodes_is_scaled_before_it_is_shown():
    process, x0, noise = NoiseProcess("ve", 50), 0.5 * torch.randn(50, 3, 8, 600), torch.randn(50, 3, 8, 600)
    t = torch.arange(1, 51)
    seen = network_input("eps", process, process.add_noise(x0, noise, t), t)
    assert (seen.flatten(1).std(1) - 1).abs().max() < 0.03  # 14400 entries each: 4 standard errors are 2.4 %


@pytest.mark.parametrize("schedule", PROCESSES)
def test_lognormal_times_have_the_levels_of_the_paper(schedule):
    process, count = NoiseProcess(schedule, 1000, sigma_range=(0.002, 80.0)), 20_000
    t = lognormal_times(process, count, generator=torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64
    assert t.min() >= 1
    assert t.max() <= 1000
    levels = process.noise_levels[t].log()
    inside = levels > process.noise_levels[1].log()  # what lies below the first level is drawn at the first
    low = (process.noise_levels[1].log().item() + 1.2) / 1.2
    assert (~inside).double().mean().item() == pytest.approx(0.5 * math.erfc(-low / math.sqrt(2)), abs=0.003)
    # 4 standard errors of mean and standard deviation, and rounding to a time
    assert levels.mean().item() == pytest.approx(-1.2, abs=4 * 1.2 / math.sqrt(count) + 0.005)
    assert levels.std().item() == pytest.approx(1.2, abs=4 * 1.2 / math.sqrt(2 * count) + 0.02)
    again = lognormal_times(process, count, generator=torch.Generator().manual_seed(0))
    assert torch.equal(t, again)
