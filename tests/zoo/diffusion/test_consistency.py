import itertools
import math

import numpy as np
import pytest
import torch

from zoo.diffusion.consistency import (
    consistency_loss,
    doubled,
    flow_step,
    grid,
    multistep,
    pseudo_huber,
    random_intervals,
)
from zoo.diffusion.process import PROCESSES, NoiseProcess
from zoo.diffusion.samplers import ddim
from zoo.diffusion.schedules import karras_timesteps, timesteps
from zoo.diffusion.solvers import heun

SOLVER = {"ddim": ddim, "heun": heun}
every_process = pytest.mark.parametrize("schedule", PROCESSES)
every_solver = pytest.mark.parametrize("solver", SOLVER)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed))


def denoiser(gaussian, process):
    """E[x_0 | x_t] of Gaussian data."""

    def denoise(x_t, t):
        signal, sigma = process.signal_and_noise(t, x_t.ndim, torch.float64)
        gain = signal * gaussian.std**2 / (signal**2 * gaussian.std**2 + sigma**2)
        return (gaussian.mean + gain * (x_t - signal * gaussian.mean)).to(x_t.dtype)

    return denoise


def exact(gaussian, process):
    """The consistency function of Gaussian data: the flow keeps the standardised value."""

    def function(x_t, t):
        signal, sigma = process.signal_and_noise(t, x_t.ndim, torch.float64)
        spread = (signal**2 * gaussian.std**2 + sigma**2).sqrt()
        return gaussian.mean + gaussian.std * (x_t - signal * gaussian.mean) / spread

    return function


# Gaussian data, whose flow is known -------------------------------------------------------------------------------


@every_process
def test_the_exact_function_has_no_loss_along_the_flow(schedule, gaussian):
    process, function = NoiseProcess(schedule, 1000), exact(gaussian, NoiseProcess(schedule, 1000))
    t, s = torch.tensor([1000, 700, 300, 1]), torch.tensor([999, 300, 20, 0])
    (a_t, b_t), (a_s, b_s) = (process.signal_and_noise(time, 2, torch.float64) for time in (t, s))
    z = draw(4, 3)  # the standardised value, which names a path
    x_t, x_s = (a * gaussian.mean + z * (a**2 * gaussian.std**2 + b**2).sqrt() for a, b in ((a_t, b_t), (a_s, b_s)))
    torch.testing.assert_close(function(x_s, torch.zeros(4)), x_s)
    loss = consistency_loss(function, process, x_t, t, x_s, s, c=1e-3)
    # the difference is of rounding; pseudo-Huber is its square over 2c, divided by a difference of levels above 1e-3
    assert loss.abs().max() < 1e-12
    wrong = consistency_loss(lambda x, t: 1.01 * function(x, t), process, x_t, t, x_t, s, c=1e-3)
    assert (wrong > 1e-9).all()


@every_process
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2)])
def test_the_distilled_function_converges_to_the_exact_one(schedule, solver, order, gaussian):
    """What distillation learns is the composition of the solver's steps; its order is that of the solver."""
    process = NoiseProcess(schedule, 16_384, sigma_range=(1e-3, 50.0))
    denoise, start, counts = denoiser(gaussian, process), round(process.time_of(10.0)), (16, 32, 64, 128)
    x, errors = draw(5, 3), []
    reached = exact(gaussian, process)(x, torch.full((5,), start))
    for count in counts:
        roots = np.linspace(math.sqrt(10), math.sqrt(process.noise_levels[1].item()), count)
        times, y = [*(round(process.time_of(root**2)) for root in roots), 0], x
        for t, s in itertools.pairwise(times):
            y = flow_step(denoise, process, y, torch.full((5,), t), torch.full((5,), s), solver)
        errors.append((y - reached).abs().max().item())
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    # few steps, whose next term of the error bends the line; orders 1 and 2 stay apart
    assert slope == pytest.approx(order, abs=0.3), errors


@every_solver
def test_the_minimiser_of_the_distillation_loss_is_the_solvers_map(solver, gaussian):
    """Descent over linear functions at each time, from the wrong start f = x, ends at what the sampler would draw."""
    process, intervals = NoiseProcess("ve", 10, sigma_range=(0.05, 5.0)), 5
    times = grid(process, intervals, "trailing")[0]  # 0, 2, ... 10
    denoise = denoiser(gaussian, process)
    slopes = torch.ones(intervals, dtype=torch.float64, requires_grad=True)
    shifts = torch.zeros(intervals, dtype=torch.float64, requires_grad=True)

    def function(x, t):
        place = t // 2
        a, b = torch.cat([slopes.new_ones(1), slopes]), torch.cat([shifts.new_zeros(1), shifts])  # f(x, 0) = x
        return a[place, None] * x + b[place, None]

    optimizer = torch.optim.Adam([slopes, shifts], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    place = torch.arange(1, intervals + 1).repeat(8)
    t, s = times[place], times[place - 1]
    for step in range(400):
        a, b = process.signal_and_noise(t, 2, torch.float64)
        x_t = a * (gaussian.mean + gaussian.std * draw(40, 1, seed=step)) + b * draw(40, 1, seed=10_000 + step)
        x_s = flow_step(denoise, process, x_t, t, s, solver)
        loss = consistency_loss(function, process, x_t, t, x_s, s, c=1.0)
        optimizer.zero_grad()
        (loss * (process.noise_levels[t] - process.noise_levels[s])).mean().backward()  # all times alike
        optimizer.step()
        schedule.step()
    for last in range(1, intervals + 1):
        x = draw(6, 1)
        drawn = SOLVER[solver](denoise, process, x, times[: last + 1].tolist()[::-1])
        # descent has come to within a thousandth; f = x is wrong by about 1
        torch.testing.assert_close(function(x, times[last].expand(6)).detach(), drawn, rtol=0, atol=5e-3)


@every_process
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_samples_of_the_exact_function_have_the_moments_of_the_data(schedule, steps, gaussian):
    process, n = NoiseProcess(schedule, 1000), 40_000
    x = process.prior_std * draw(n, 1)
    times = timesteps(1000, steps)
    drawn = multistep(exact(gaussian, process), process, x, times, generator=seeded(1))
    # four standard errors; the start leaves out the mean of x_T, at most 0.3 of 50 levels for "ve" (linear: 0.006)
    assert drawn.mean().item() == pytest.approx(gaussian.mean, abs=4 * gaussian.std / n**0.5 + 0.01)
    assert drawn.std().item() == pytest.approx(gaussian.std, rel=4 / (2 * n) ** 0.5 + 1e-4)


def test_each_step_after_the_first_draws_fresh_noise():
    process, x, seen = NoiseProcess("cosine", 1000), draw(3, 2), []

    def function(x, t):
        seen.append((x, int(t[0])))
        return 0 * x + 0.5

    reached = []
    drawn = multistep(
        function, process, x, [1000, 400, 0], generator=seeded(7), on_step=lambda t, x, x0: reached.append((t, x))
    )
    noise = torch.randn((3, 2), generator=seeded(7))
    signal, sigma = process.at(400)
    torch.testing.assert_close(seen[1][0], 0.5 * signal + sigma * noise.double())
    assert [t for _, t in seen] == [1000, 400]
    assert [t for t, _ in reached] == [400, 0]
    assert torch.equal(drawn, torch.full_like(x, 0.5))


# steps ----------------------------------------------------------------------------------------------------------------


@every_process
@every_solver
def test_a_step_is_the_samplers_to_the_bit(schedule, solver):
    process = NoiseProcess(schedule, 1000)
    t, s = torch.tensor([1000, 640, 12, 1]), torch.tensor([981, 20, 11, 0])
    x = draw(4, 3, 2)

    def denoise(x_t, t):  # products alone, which are the same for every batch size
        return x_t * (0.3 + 0.001 * t.view(-1, 1, 1)).to(x_t.dtype)

    for dtype in (torch.float32, torch.float64):
        together = flow_step(denoise, process, x.to(dtype), t, s, solver)
        assert together.dtype == dtype
        alone = [SOLVER[solver](denoise, process, x[i : i + 1].to(dtype), [int(t[i]), int(s[i])]) for i in range(4)]
        if dtype == torch.float32:
            assert torch.equal(together, torch.cat(alone))
        else:  # `ddim` takes the root of sigma^2, which is sigma but for the last bit of a float64
            torch.testing.assert_close(together, torch.cat(alone), rtol=1e-14, atol=1e-14)


@every_process
def test_training_without_a_teacher_is_ddim_with_a_denoiser_that_knows_the_image(schedule):
    process, x0, noise = NoiseProcess(schedule, 1000), draw(3, 4), draw(3, 4, seed=1)
    t, s = torch.tensor([1000, 500, 1]), torch.tensor([990, 400, 0])
    x_t, x_s = (a * x0 + b * noise for a, b in (process.signal_and_noise(time, 2, torch.float64) for time in (t, s)))
    torch.testing.assert_close(flow_step(lambda *_: x0, process, x_t, t, s, "ddim"), x_s)


# the loss -------------------------------------------------------------------------------------------------------------


def test_the_distance_is_a_square_near_zero_and_a_norm_far_off():
    d = draw(2, 3, 4)
    length = d.flatten(1).norm(dim=1)
    torch.testing.assert_close(pseudo_huber(1e-4 * d, 1.0), (1e-4 * length) ** 2 / 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(pseudo_huber(1e4 * d, 1.0), 1e4 * length - 1, rtol=1e-6, atol=0)


def test_the_target_is_a_constant():
    """The gradient is that of a loss whose target was computed before; through both it would be another."""
    process = NoiseProcess("cosine", 1000)
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x_t, x_s, t, s = draw(3, 2), draw(3, 2, seed=1), torch.tensor([900, 500, 20]), torch.tensor([850, 400, 0])
    loss = consistency_loss(lambda x, t: weight * x, process, x_t, t, x_s, s, c=0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), weight)
    levels = process.noise_levels
    free = pseudo_huber(weight * x_t - 0.7 * x_s, 0.1) / (levels[t] - levels[s])
    torch.testing.assert_close(loss, free)
    torch.testing.assert_close(gradient, torch.autograd.grad(free.sum(), weight)[0])
    both = pseudo_huber(weight * (x_t - x_s), 0.1) / (levels[t] - levels[s])
    assert not torch.isclose(gradient, torch.autograd.grad(both.sum(), weight)[0], rtol=0.1)


def test_both_evaluations_drop_the_same_features():
    masks = []

    def function(x, t):
        masks.append(torch.nn.functional.dropout(torch.ones(50), 0.5))
        return x

    x, t = draw(2, 3), torch.tensor([5, 9])
    for _ in range(2):
        consistency_loss(function, NoiseProcess("cosine", 10), x, t, x, t - 1, c=0.1)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[0], masks[2])


def test_autocast_leaves_the_gradient():
    """It keeps weights that it has cast; those of an evaluation without gradient must not serve the other one."""
    layer, x, t = torch.nn.Linear(4, 4), torch.randn(3, 4, generator=seeded()), torch.tensor([900, 500, 20])
    with torch.autocast("cpu", torch.bfloat16):
        loss = consistency_loss(lambda x, t: layer(x).float(), NoiseProcess("cosine"), x, t, x / 2, t - 10, c=0.1)
    loss.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().max() > 0


# grids of times -------------------------------------------------------------------------------------------------------


def test_the_doubling_of_the_paper():
    """Table 1 with s_0 = 10 and s_1 = 1280 over 400,000 steps: eight stages of 50,000; N counts one more."""
    stages = [doubled(k, 400_000, 10, 1280) for k in (0, 49_999, 50_000, 100_000, 349_999, 350_000, 399_999)]
    assert stages == [10, 10, 20, 40, 640, 1280, 1280]
    assert doubled(399, 400, 10, 35) == 35  # never beyond the last
    assert [doubled(k, 3, 18, 18) for k in range(3)] == [18, 18, 18]
    assert doubled(10**9, math.inf, 10, 1280) == 10
    assert [doubled(k, 2, 1, 8) for k in range(4)] == [1, 2, 4, 8]  # a run shorter than its stages


@every_process
def test_a_grid_is_that_of_the_samplers(schedule):
    process = NoiseProcess(schedule, 1000)
    times, log_levels = grid(process, 18, "karras")
    assert times.tolist() == karras_timesteps(process, 18)[::-1]
    assert times[0] == 0
    assert log_levels[0] == -math.inf
    torch.testing.assert_close(log_levels[1:].exp(), process.noise_levels[times[1:]])


def test_intervals_are_drawn_by_their_share_of_a_lognormal():
    log_levels = torch.tensor([-math.inf, -3.0, -1.1, 0.0, 4.0], dtype=torch.float64)
    count = 40_000
    drawn = random_intervals(log_levels, count, generator=seeded()).bincount(minlength=4) / count
    below = [0.5 * (1 + math.erf((level + 1.1) / 2 / math.sqrt(2))) for level in log_levels.tolist()]
    shares = torch.tensor(below).diff() / below[-1]
    # a binomial share deviates by 0.0025 at most
    torch.testing.assert_close(drawn, shares, rtol=0, atol=0.01)
