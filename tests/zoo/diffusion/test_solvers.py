import inspect
import itertools
import math

import numpy as np
import pytest
import torch

from zoo.diffusion.process import PROCESSES, NoiseProcess
from zoo.diffusion.samplers import ancestral, ddim
from zoo.diffusion.schedules import karras_timesteps, timesteps
from zoo.diffusion.solvers import SAMPLERS, dpm_solver_pp, heun, sampler_of
from zoo.errors import UserError

EVERY = {
    "heun": heun,
    "dpm++1": lambda *args, **options: dpm_solver_pp(*args, order=1, **options),
    "dpm++2m": dpm_solver_pp,
    "dpm++1-sde": lambda *args, **options: dpm_solver_pp(*args, order=1, sde=True, **options),
    "dpm++2m-sde": lambda *args, **options: dpm_solver_pp(*args, sde=True, **options),
}
every_sampler = pytest.mark.parametrize("sampler", EVERY.values(), ids=EVERY)
every_process = pytest.mark.parametrize("schedule", PROCESSES)


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
        denoise, process, draw(5, 3), times, on_step=lambda *step: reached.append(step), generator=seeded()
    )
    assert len(asked) == evaluations
    assert sorted(set(asked), reverse=True) == times[:-1]
    assert [t for t, _, _ in reached] == times[1:]
    assert torch.equal(reached[-1][1], x)
    assert torch.equal(reached[-1][2], x)


@pytest.mark.parametrize("sampler", [heun, dpm_solver_pp])
def test_deterministic_samplers_draw_no_number(sampler, gaussian):
    process, used = NoiseProcess("linear", 50), seeded()
    sampler(denoiser(gaussian, process), process, draw(5, 3), timesteps(50, 7), generator=used)
    assert torch.equal(used.get_state(), seeded().get_state())


def test_a_wrong_order_is_refused(gaussian):
    process = NoiseProcess("linear", 50)
    with pytest.raises(ValueError, match="order must be 1 or 2, got 3"):
        dpm_solver_pp(denoiser(gaussian, process), process, draw(5, 3), [50, 0], order=3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_on_step_is_given_the_estimate_that_led_there(name, gaussian):
    """Of the denoiser at the x that the step before reached."""
    process, times = NoiseProcess("cosine", 50), timesteps(50, 7)
    exact, start, reached = denoiser(gaussian, process), draw(5, 3), []
    SAMPLERS[name](exact, process, start, times, generator=seeded(), on_step=lambda *step: reached.append(step))
    before = [start, *(x for _, x, _ in reached)]
    for t, x, (_, _, x0) in zip(times, before, reached, strict=False):
        assert torch.equal(x0, exact(x, torch.full((5,), t)))


def test_every_sampler_has_one_signature():
    for name, sampler in SAMPLERS.items():
        first, *own, generator, on_step = inspect.signature(sampler).parameters.values()
        names = [first.name, *(parameter.name for parameter in own[:3]), generator.name, on_step.name]
        assert names == ["denoise", "process", "x", "times", "generator", "on_step"], name
        assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in (*own[3:], generator, on_step))
        assert all(parameter.default is not parameter.empty for parameter in (*own[3:], generator, on_step))


def test_a_sampler_takes_its_own_options_only():
    assert sampler_of("ddim", eta=0.5, variance=None).keywords == {"eta": 0.5}
    assert sampler_of("ddpm", eta=0.0, variance="large").keywords == {"variance": "large"}
    with pytest.raises(UserError, match=r"eta 0\.5 has no meaning for sampler 'heun': leave it out"):
        sampler_of("heun", eta=0.5)
    with pytest.raises(UserError, match=r"sampler must be one of ddim, ddpm, .*, got 'euler'"):
        sampler_of("euler")
