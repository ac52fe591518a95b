import itertools
import math

import numpy as np
import pytest
import torch

from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.samplers import ancestral, ddim, ddim_invert, slerp
from zoo.diffusion.schedules import timesteps

SCHEDULES = ("linear", "cosine")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed))


def orders(errors):
    """Observed order of convergence between successive halvings of the step."""
    return [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]


# a closed form: Gaussian data ---------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_ddim_is_of_first_order(schedule, spacing, gaussian):
    """With the exact denoiser, DDIM is an Euler method for the probability flow, whose solution is known."""
    process = NoiseProcess(schedule, 4096)
    x = draw(5, 3)
    exact = gaussian.flow(process, x, 4096)
    errors = [
        (ddim(gaussian.denoiser(process), process, x, timesteps(4096, steps, spacing)) - exact).abs().max().item()
        for steps in (20, 40, 80, 160, 320)
    ]
    slope = -np.polyfit(np.log([20, 40, 80, 160, 320]), np.log(errors), 1)[0]
    # at 20 steps the next term of the error still bends the line by a few per cent; order 0 or 2 is far away
    assert slope == pytest.approx(1, abs=0.1), orders(errors)
    assert errors[-1] < 0.02  # and it converges to the flow, not to something else: 0.3 at 10 steps, over 32


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_inversion_returns_as_steps_grow(schedule, gaussian):
    process = NoiseProcess(schedule, 4096)
    denoise = gaussian.denoiser(process)
    x0 = gaussian.mean + gaussian.std * draw(5, 3)
    errors = []
    for steps in (10, 20, 40, 80, 160, 320):
        times = timesteps(4096, steps)
        errors.append((ddim(denoise, process, ddim_invert(denoise, process, x0, times), times) - x0).abs().max().item())
    assert all(fine < coarse for coarse, fine in itertools.pairwise(errors))
    assert orders(errors)[-1] == pytest.approx(1, abs=0.1)  # both ways are of first order
    latent = ddim_invert(denoise, process, x0, timesteps(4096, 1024))
    # the way up alone: the flow carries the latent back to x0, up to an error of first order, 0.01 at 320 steps
    assert (gaussian.flow(process, latent, 4096) - x0).abs().max() < 0.01


def test_inversion_with_a_constant_eps_is_exact():
    """Then x_t lies on the straight line of x_0 and eps at every t, however long the steps."""
    process, x0 = NoiseProcess("linear", 100), draw(5, 3)
    times, eps = timesteps(100, 7), draw(5, 3, seed=1)

    def denoise(x_t, t):
        signal, sigma = process.at(int(t[0]))
        return (x_t - sigma * eps) / signal

    signal, sigma = process.at(100)
    torch.testing.assert_close(ddim_invert(denoise, process, x0, times), signal * x0 + sigma * eps)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ancestral_sampling_has_the_law_of_the_data(schedule, gaussian, generator):
    process = NoiseProcess(schedule, 1000)
    count = 10_000
    x = torch.randn(count, generator=generator, dtype=torch.float64)[:, None]
    x = ancestral(gaussian.denoiser(process), process, x, timesteps(1000, 1000), generator=generator)
    assert abs(x.mean() - gaussian.mean) < 4 * gaussian.std / math.sqrt(count)
    # 4 standard errors of a variance, and the 1.6 % that 1000 steps of the small variance lose (see the next test)
    assert abs(x.var() / gaussian.std**2 - 1) < 4 * math.sqrt(2 / count) + 0.016


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize(("steps", "spacing"), [(50, "trailing"), (8, "trailing"), (7, "linspace"), (6, "quadratic")])
def test_ancestral_sampling_has_the_law_of_its_recursion(variance, steps, spacing, gaussian, generator):
    """Every step is affine in x with Gaussian noise, so mean and variance of the samples follow by hand."""
    process = NoiseProcess("cosine", 50)
    times = timesteps(50, steps, spacing)
    abar = process.alpha_bar.tolist()
    mean, var = 0.0, 1.0
    for t, s in itertools.pairwise(times):
        beta = 1 - abar[t] / abar[s]
        gain = math.sqrt(abar[t]) * gaussian.std**2 / (abar[t] * gaussian.std**2 + 1 - abar[t])
        x0_weight = math.sqrt(abar[s]) * beta / (1 - abar[t])
        slope = x0_weight * gain + math.sqrt(1 - beta) * (1 - abar[s]) / (1 - abar[t])
        mean = slope * mean + x0_weight * (1 - gain * math.sqrt(abar[t])) * gaussian.mean
        noise = beta * (1 - abar[s]) / (1 - abar[t]) if variance == "small" else beta
        var = slope**2 * var + (noise if s > 0 else 0)
    count = 20_000
    x = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    x = ancestral(gaussian.denoiser(process), process, x, times, variance=variance, generator=generator)
    assert abs(x.mean() - mean) < 4 * math.sqrt(var / count)  # 4 standard errors
    assert abs(x.var() / var - 1) < 4 * math.sqrt(2 / count)


def test_large_and_small_variance_enclose_the_data(gaussian):
    """Both tend to the variance of the data, one from above, one from below (Ho et al. 2020, section 3.2)."""
    process = NoiseProcess("cosine", 1000)
    x = draw(20_000, 1)
    spread = {
        variance: ancestral(
            gaussian.denoiser(process), process, x, timesteps(1000, 20), variance=variance, generator=seeded()
        ).var()
        for variance in ("small", "large")
    }
    assert spread["small"] < gaussian.std**2 < spread["large"]


# identities ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("steps", "spacing"), [(50, "trailing"), (7, "trailing"), (9, "linspace"), (6, "leading")])
def test_ddim_with_eta_one_is_ancestral(schedule, steps, spacing, gaussian):
    process = NoiseProcess(schedule, 50)
    times, x = timesteps(50, steps, spacing), draw(5, 3)
    denoise = gaussian.denoiser(process)
    torch.testing.assert_close(
        ddim(denoise, process, x, times, eta=1.0, generator=seeded()),
        ancestral(denoise, process, x, times, variance="small", generator=seeded()),
        rtol=0,
        atol=1e-11,  # the same noise; float64, with differences of nearly equal numbers in the coefficients
    )


@pytest.mark.parametrize("variance", ["small", "large"])
def test_all_steps_are_the_textbook_algorithm(variance, gaussian):
    """Algorithm 2 of Ho et al. 2020, from the betas alone."""
    process = NoiseProcess("linear", 100)
    denoise, x = gaussian.denoiser(process), draw(5, 3)
    drawn = ancestral(denoise, process, x, timesteps(100, 100), variance=variance, generator=seeded())

    betas = np.linspace(1e-4, 0.02, 100) * 10
    alphas_bar = np.cumprod(1 - betas)
    generator = seeded()
    for i in reversed(range(100)):
        x0 = denoise(x, torch.full((5,), i + 1))
        eps = (x - math.sqrt(alphas_bar[i]) * x0) / math.sqrt(1 - alphas_bar[i])
        x = (x - betas[i] / math.sqrt(1 - alphas_bar[i]) * eps) / math.sqrt(1 - betas[i])
        if i > 0:
            tilde = (1 - alphas_bar[i - 1]) / (1 - alphas_bar[i]) * betas[i]
            x = x + math.sqrt(tilde if variance == "small" else betas[i]) * torch.randn(5, 3, generator=generator)
    torch.testing.assert_close(drawn, x, rtol=0, atol=1e-10)  # float64 over 100 steps


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), [(50, 31), (12, 11), (9, 0)])
def test_a_ddim_step_is_equations_12_and_16(t, s, eta):
    process = NoiseProcess("cosine", 50)
    x, x0 = draw(5, 3), draw(5, 3, seed=1)
    abar_t, abar_s = process.alpha_bar[t].item(), process.alpha_bar[s].item()
    sigma = eta * math.sqrt((1 - abar_s) / (1 - abar_t)) * math.sqrt(1 - abar_t / abar_s)
    eps = (x - math.sqrt(abar_t) * x0) / math.sqrt(1 - abar_t)
    noise = torch.randn(5, 3, generator=seeded())
    expected = math.sqrt(abar_s) * x0 + math.sqrt(1 - abar_s - sigma**2) * eps + sigma * noise
    stepped = ddim(lambda *_: x0, process, x, [t, s], eta=eta, generator=seeded())
    torch.testing.assert_close(stepped, expected, rtol=0, atol=1e-12)


def test_noise_free_ddim_does_not_touch_the_generator(gaussian):
    process, used = NoiseProcess("cosine", 50), seeded()
    ddim(gaussian.denoiser(process), process, draw(5, 3), timesteps(50, 7), generator=used)
    assert torch.equal(used.get_state(), seeded().get_state())


@pytest.mark.parametrize("sampler", [ddim, ancestral])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_an_oracle_is_believed(sampler, steps):
    """The last step returns the denoiser's x_0 itself, with no noise added."""
    process, x0 = NoiseProcess("linear", 50), draw(5, 3, 8, 6)
    drawn = sampler(lambda *_: x0, process, draw(5, 3, 8, 6, seed=1), timesteps(50, steps), generator=seeded())
    torch.testing.assert_close(drawn, x0, rtol=0, atol=1e-14)


def test_clipping_x0_rederives_eps(gaussian):
    """x_t and x_s lie on one line a x_0 + s eps through the clipped x_0, not through the unclipped one."""
    process, x = NoiseProcess("cosine", 50), 3 * draw(5, 3)
    exact = gaussian.denoiser(process)

    def clipped(x_t, t):
        return exact(x_t, t).clamp(0.1, 0.4)

    x0 = clipped(x, torch.full((5,), 40))
    assert (x0 != exact(x, torch.full((5,), 40))).any()
    (signal_t, sigma_t), (signal_s, sigma_s) = process.at(40), process.at(25)
    stepped = ddim(clipped, process, x, [40, 25])
    torch.testing.assert_close((stepped - signal_s * x0) / sigma_s, (x - signal_t * x0) / sigma_t)


@pytest.mark.parametrize("sampler", [ddim, ancestral])
def test_the_denoiser_sees_each_time_and_on_step_each_result(sampler, gaussian):
    process, times = NoiseProcess("linear", 50), timesteps(50, 7)
    asked, reached, exact = [], [], gaussian.denoiser(process)

    def denoise(x_t, t):
        assert t.shape == (5,)
        assert t.dtype == torch.int64
        asked.append(t.unique().item())
        return exact(x_t, t)

    x = sampler(denoise, process, draw(5, 3), times, on_step=lambda *step: reached.append(step))
    assert asked == times[:-1]
    assert [t for t, _, _ in reached] == times[1:]
    assert torch.equal(reached[-1][1], x)
    assert torch.equal(reached[-1][2], x)  # the last step returns its estimate


def test_wrong_options_are_named(gaussian):
    process = NoiseProcess("linear", 50)
    with pytest.raises(ValueError, match="variance must be 'small' or 'large'"):
        ancestral(gaussian.denoiser(process), process, draw(5, 3), [50, 0], variance="medium")
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="eta"):
            ddim(gaussian.denoiser(process), process, draw(5, 3), [50, 0], eta=eta)


# slerp --------------------------------------------------------------------------------------------


def test_slerp_keeps_the_length_of_equally_long_latents():
    a, b = draw(5, 3, 8, 6), draw(5, 3, 8, 6, seed=1)
    length = torch.arange(1.0, 6.0, dtype=torch.float64)  # one a sample
    a, b = (x * (length / x.flatten(1).norm(dim=1)).view(5, 1, 1, 1) for x in (a, b))
    for weight in (0.1, 0.25, 0.5, 0.9):
        torch.testing.assert_close(slerp(a, b, weight).flatten(1).norm(dim=1), length)


def test_slerp_moves_at_a_constant_angle():
    a, b = draw(5, 7), draw(5, 7, seed=1)
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    angle = (a * b).sum(1).acos()
    for weight in (0.2, 0.5, 0.7):
        between = (a * slerp(a, b, weight)).sum(1).acos()
        torch.testing.assert_close(between, weight * angle)


def test_slerp_keeps_its_ends():
    a, b = draw(5, 3, 8, 6), draw(5, 3, 8, 6, seed=1)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slerp_of_parallel_latents_is_the_straight_line(dtype):
    a = draw(5, 3, 8, 6).to(dtype)
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    torch.testing.assert_close(slerp(a, 2 * a, 0.3), 1.3 * a)
