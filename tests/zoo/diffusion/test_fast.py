import itertools
import math

import numpy as np
import pytest
import torch

from zoo.diffusion.fast import dpm_solver_pp, heun, karras_timesteps, times_for
from zoo.diffusion.process import PROCESSES, NoiseProcess
from zoo.diffusion.samplers import SPACINGS, ancestral, ddim, timesteps

EVERY = {
    "heun": lambda *args, **options: heun(*args, **without(options, "generator")),
    "dpm++1": lambda *args, **options: dpm_solver_pp(*args, order=1, **options),
    "dpm++2m": dpm_solver_pp,
    "dpm++1-sde": lambda *args, **options: dpm_solver_pp(*args, order=1, sde=True, **options),
    "dpm++2m-sde": lambda *args, **options: dpm_solver_pp(*args, sde=True, **options),
}
every_sampler = pytest.mark.parametrize("sampler", EVERY.values(), ids=EVERY)
every_process = pytest.mark.parametrize("schedule", PROCESSES)


def without(options, name):
    return {key: value for key, value in options.items() if key != name}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed))


def slope(counts, errors):
    """Observed order of convergence."""
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


def denoiser(gaussian, process):
    """E[x_0 | x_t] of Gaussian data, for every process."""

    def denoise(x_t, t):
        signal, sigma = process.signal_and_noise(t, x_t.ndim, torch.float64)
        gain = signal * gaussian.std**2 / (signal**2 * gaussian.std**2 + sigma**2)
        return gaussian.mean + gain * (x_t - signal * gaussian.mean)

    return denoise


def flow(gaussian, process, x_t, t):
    """The end of the probability flow from x_t: it keeps the standardised value."""
    signal, sigma = process.at(t)
    return gaussian.mean + gaussian.std * (x_t - signal * gaussian.mean) / math.hypot(signal * gaussian.std, sigma)


# Karras' times ------------------------------------------------------------------------------------


@every_process
@pytest.mark.parametrize("num_timesteps", [1, 2, 3, 5, 20, 50, 1000])
def test_karras_times_fall_from_at_most_the_last_to_zero(schedule, num_timesteps):
    process = NoiseProcess(schedule, num_timesteps)
    counts = range(1, num_timesteps + 1) if num_timesteps < 1000 else (1, 2, 7, 10, 18, 50, 333, 999, 1000)
    for steps in counts:
        times = karras_timesteps(process, steps)
        assert len(times) == steps + 1
        assert all(isinstance(t, int) for t in times)
        assert all(t > s for t, s in itertools.pairwise(times)), times
        assert times[-1] == 0
        assert 1 <= times[-2] <= times[0] <= num_timesteps
        if steps == num_timesteps:
            assert times == list(range(num_timesteps, -1, -1))


@every_process
@pytest.mark.parametrize("steps", [5, 10, 18])
def test_karras_levels_are_even_in_their_seventh_root(schedule, steps):
    """On a process so fine that rounding to a whole time moves a level by little."""
    process = NoiseProcess(schedule, 20_000)
    levels = process.noise_levels[karras_timesteps(process, steps)[:-1]] ** (1 / 7)
    top = min(80.0, process.noise_levels[-1].item())
    assert levels[0].item() ** 7 == pytest.approx(top, rel=0.01)
    assert levels[-1].item() == pytest.approx(process.noise_levels[1].item() ** (1 / 7), rel=1e-12)
    gaps = levels.diff()
    assert (gaps / gaps.mean() - 1).abs().max() < 0.03  # half a time of 20000, in the widest places


def test_times_for_knows_every_spacing():
    process = NoiseProcess("cosine", 50)
    for spacing in SPACINGS:
        assert times_for(process, 7, spacing) == timesteps(50, 7, spacing)
    assert times_for(process, 7, "karras") == karras_timesteps(process, 7)
    with pytest.raises(ValueError, match=r"spacing must be one of \('trailing', .* 'karras'\), got 'even'"):
        times_for(process, 7, "even")
    for spacing in (*SPACINGS, "karras"):
        with pytest.raises(ValueError, match="steps must be between 1 and the model's 50, got 51"):
            times_for(process, 51, spacing)


# a closed form: Gaussian data ---------------------------------------------------------------------


@every_process
@pytest.mark.parametrize(("sampler", "order"), [("heun", 2), ("dpm++2m", 2), ("dpm++1", 1)])
def test_order_of_convergence(schedule, sampler, order, gaussian):
    """Towards the probability flow, whose solution is known."""
    process, x = NoiseProcess(schedule, 65_536, sigma_range=(1e-3, 50.0)), draw(5, 3)
    # not from T: the first step of the cosine schedule would fall from a level of 1e6
    start = round(process.time_of(10.0))
    counts, errors = (64, 128, 256, 512), []  # on fewer the next term of the error still bends the line
    denoise = denoiser(gaussian, process)
    exact = flow(gaussian, process, x, start)
    for steps in counts:
        # even in the root of the level, down to the lowest, 1e-3, whose last step then costs 1e-6 at most; the process
        # is so fine that rounding to a whole time moves no level by much
        roots = np.linspace(math.sqrt(10), math.sqrt(process.noise_levels[1].item()), steps)
        times = [*(round(process.time_of(root**2)) for root in roots), 0]
        errors.append((EVERY[sampler](denoise, process, x, times) - exact).abs().max().item())
    assert slope(counts, errors) == pytest.approx(order, abs=0.2), errors
    assert errors[-1] < {1: 0.03, 2: 1e-3}[order], errors


@every_process
def test_order_one_is_ddim(schedule, gaussian):
    process = NoiseProcess(schedule, 1000)
    denoise, x, times = denoiser(gaussian, process), process.prior_std * draw(5, 3), timesteps(1000, 10)
    drawn = dpm_solver_pp(denoise, process, x, times, order=1)
    torch.testing.assert_close(drawn, ddim(denoise, process, x, times), rtol=0, atol=1e-12)
    # in the form of the paper, e^{-h} = (sigma / a) of s over that of t
    for t, s in itertools.pairwise(times[:-1]):
        (signal_t, sigma_t), (signal_s, sigma_s) = process.at(t), process.at(s)
        shrink = sigma_s / signal_s / (sigma_t / signal_t)
        x0 = denoise(x, torch.full((5,), t))
        x_s = sigma_s / sigma_t * x + signal_s * (1 - shrink) * x0
        torch.testing.assert_close(dpm_solver_pp(denoise, process, x, [t, s], order=1), x_s)
        noise = torch.randn(x.shape, generator=seeded())
        x_s = sigma_s / sigma_t * shrink * x + signal_s * (1 - shrink**2) * x0
        x_s = x_s + sigma_s * math.sqrt(1 - shrink**2) * noise
        drawn = dpm_solver_pp(denoise, process, x, [t, s], order=1, sde=True, generator=seeded())
        # float64; 1 - shrink^2 is a difference of nearly equal numbers for neighbouring levels
        torch.testing.assert_close(drawn, x_s, rtol=1e-9, atol=1e-12)


@every_process
@pytest.mark.parametrize("sde", [False, True])
def test_order_two_is_exact_to_first_order_within_a_step(schedule, sde):
    """If x_0 is linear in lambda along the path, the step uses its value halfway, however long the last one."""
    process, x = NoiseProcess(schedule, 1000), draw(5, 3)

    def at(lam):
        return 0.3 + 0.1 * lam

    def lam(t):
        signal, sigma = process.at(t)
        return math.log(signal / sigma)

    drawn = dpm_solver_pp(
        lambda x, t: 0 * x + at(lam(int(t[0]))), process, x, [900, 700, 100], sde=sde, generator=seeded()
    )
    source = seeded()
    x = dpm_solver_pp(lambda x, t: 0 * x + at(lam(900)), process, x, [900, 700], sde=sde, generator=source)
    halfway = at((lam(700) + lam(100)) / 2)
    x = dpm_solver_pp(lambda x, t: 0 * x + halfway, process, x, [700, 100], sde=sde, generator=source)
    torch.testing.assert_close(drawn, x)


@every_process
def test_order_one_of_the_sde_is_ancestral_and_ddim_with_eta_one(schedule, gaussian):
    process = NoiseProcess(schedule, 1000)
    denoise, x, times = denoiser(gaussian, process), process.prior_std * draw(5, 3), timesteps(1000, 10)
    drawn = dpm_solver_pp(denoise, process, x, times, order=1, sde=True, generator=seeded())
    for other in (
        ancestral(denoise, process, x, times, variance="small", generator=seeded()),
        ddim(denoise, process, x, times, eta=1.0, generator=seeded()),
    ):
        torch.testing.assert_close(drawn, other, rtol=0, atol=1e-12)


@every_process
@pytest.mark.parametrize("sampler", ["dpm++1-sde", "dpm++2m-sde"])
def test_sde_samples_have_the_law_of_the_data(schedule, sampler, gaussian):
    process, count = NoiseProcess(schedule, 1000), 10_000
    x = process.prior_std * torch.randn(count, 1, dtype=torch.float64, generator=seeded(1))
    x = EVERY[sampler](denoiser(gaussian, process), process, x, karras_timesteps(process, 150), generator=seeded(2))
    assert abs(x.mean() - gaussian.mean) < 4 * gaussian.std / math.sqrt(count)
    # 4 standard errors of a variance, and the bias of 150 steps: 10 % of the first order, 1 % of the second
    bias = 0.1 if sampler == "dpm++1-sde" else 0.01
    assert abs(x.var() / gaussian.std**2 - 1) < 4 * math.sqrt(2 / count) + bias


def test_the_second_order_sde_is_of_smaller_bias(gaussian):
    """Every step is affine in x with Gaussian noise: drawn with and without noise, mean and variance follow."""
    process, count = NoiseProcess("cosine", 1000), 20_000
    errors = {}
    for sampler, steps in itertools.product(("dpm++1-sde", "dpm++2m-sde"), (10, 20, 40)):
        x = torch.randn(count, 1, dtype=torch.float64, generator=seeded(1))
        times = karras_timesteps(process, steps)
        x = EVERY[sampler](denoiser(gaussian, process), process, x, times, generator=seeded(2))
        errors[sampler, steps] = abs(x.var().item() / gaussian.std**2 - 1)
    for steps in (10, 20, 40):
        assert errors["dpm++2m-sde", steps] < errors["dpm++1-sde", steps] / 2, errors


# every sampler ------------------------------------------------------------------------------------


@every_sampler
@every_process
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_an_oracle_is_believed(sampler, schedule, steps):
    """The last step returns the denoiser's x_0 itself, where h is infinite, with no noise added."""
    process, x0 = NoiseProcess(schedule, 50), draw(5, 3, 8, 6)
    x = process.prior_std * draw(5, 3, 8, 6, seed=1)
    drawn = sampler(lambda *_: x0, process, x, timesteps(50, steps), generator=seeded())
    torch.testing.assert_close(drawn, x0, rtol=0, atol=1e-14)


@every_sampler
@every_process
def test_the_result_keeps_the_range_of_a_clipped_denoiser(sampler, schedule):
    process, x = NoiseProcess(schedule, 50), draw(5, 3, 8, 6)

    def denoise(x_t, t):
        return (3 * x_t).clamp(-1, 1)

    assert sampler(denoise, process, process.prior_std * x, timesteps(50, 7), generator=seeded()).abs().max() <= 1


@pytest.mark.parametrize(("sampler", "evaluations"), [("heun", 13), ("dpm++1", 7), ("dpm++2m", 7), ("dpm++2m-sde", 7)])
def test_evaluations_and_steps_are_as_told(sampler, evaluations, gaussian):
    process, times = NoiseProcess("linear", 50), timesteps(50, 7)
    asked, reached, exact = [], [], denoiser(gaussian, process)

    def denoise(x_t, t):
        asked.append(t.unique().item())
        return exact(x_t, t)

    x = EVERY[sampler](
        denoise, process, draw(5, 3), times, on_step=lambda t, x: reached.append((t, x)), generator=seeded()
    )
    assert len(asked) == evaluations
    assert sorted(set(asked), reverse=True) == times[:-1]
    assert [t for t, _ in reached] == times[1:]
    assert torch.equal(reached[-1][1], x)


def test_deterministic_samplers_draw_no_number(gaussian):
    process, used = NoiseProcess("linear", 50), seeded()
    dpm_solver_pp(denoiser(gaussian, process), process, draw(5, 3), timesteps(50, 7), generator=used)
    assert torch.equal(used.get_state(), seeded().get_state())


def test_a_wrong_order_is_refused(gaussian):
    process = NoiseProcess("linear", 50)
    with pytest.raises(ValueError, match="order must be 1 or 2, got 3"):
        dpm_solver_pp(denoiser(gaussian, process), process, draw(5, 3), [50, 0], order=3)
