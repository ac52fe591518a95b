import pytest
import torch

from zoo.diffusion import samplers
from zoo.diffusion.parameterization import PARAMETERIZATIONS, check, prediction_to_x0, training_target
from zoo.diffusion.process import NoiseProcess


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
    noise, times = draw(5, 3), samplers.timesteps(100, 20)

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
