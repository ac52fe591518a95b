import math

import pytest
import torch

from zoo.diffusion.process import PROCESSES, SCHEDULES, NoiseProcess

LENGTHS = (1, 2, 5, 20, 50, 400, 1000, 4000)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_timesteps", LENGTHS)
def test_alpha_bar_starts_at_one_and_falls(schedule, num_timesteps):
    abar = NoiseProcess(schedule, num_timesteps).alpha_bar
    assert abar.dtype == torch.float64
    assert abar.shape == (num_timesteps + 1,)
    assert abar[0] == 1
    assert (abar.diff() < 0).all()
    assert abar[-1] > 0  # else eps and x_0 cannot be told apart, and the conversions divide by zero


@pytest.mark.parametrize(
    ("schedule", "num_timesteps", "limit"),
    # the linear schedule ends at exp(-10.05) = 4.3e-5 in the limit of many steps and below that on few;
    # the last beta of the cosine schedule is 0.999, and abar before it is at most 1
    [("linear", t, 4.4e-5) for t in LENGTHS if t >= 50] + [("cosine", t, 1.001e-3) for t in LENGTHS],
)
def test_alpha_bar_ends_in_noise_for_any_number_of_steps(schedule, num_timesteps, limit):
    assert NoiseProcess(schedule, num_timesteps).alpha_bar[-1] < limit


@pytest.mark.parametrize("num_timesteps", [50, 400])
def test_linear_schedule_hardly_depends_on_the_number_of_steps(num_timesteps):
    fine, coarse = NoiseProcess("linear", 4000).alpha_bar, NoiseProcess("linear", num_timesteps).alpha_bar
    # at the same share of the process; a product of 1 - beta nears its limit like 1 / T (unscaled betas miss by 0.6)
    assert (fine[:: 4000 // num_timesteps] - coarse).abs().max() < 1 / num_timesteps


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_posterior_is_bayes_rule(schedule):
    """Conditions the joint Gaussian of (x_s, x_t) given x_0, built from the forward chain, on x_t."""
    process = NoiseProcess(schedule, 60)
    abar = process.alpha_bar.tolist()
    for t in range(1, 61):
        for s in range(t):
            step = abar[t] / abar[s]  # x_t = sqrt(step) x_s + sqrt(1 - step) z
            mean_s, mean_t = math.sqrt(abar[s]), math.sqrt(step) * math.sqrt(abar[s])  # times x_0
            var_s = 1 - abar[s]
            covariance, var_t = math.sqrt(step) * var_s, step * var_s + (1 - step)
            gain = covariance / var_t
            expected = (mean_s - gain * mean_t, gain, var_s - gain * covariance, 1 - step)
            # float64; the subtractions of nearly equal numbers cost up to five of the sixteen digits
            assert process.posterior(t, s) == pytest.approx(expected, rel=1e-9, abs=1e-12), (t, s)


@pytest.mark.parametrize(("t", "s"), [(17, 9), (17, 16), (60, 3)])
def test_posterior_matches_a_numerical_product_of_densities(t, s):
    process = NoiseProcess("cosine", 60)
    x0, x_t = 0.4, -0.7
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    ratio = process.alpha_bar[t] / process.alpha_bar[s]
    log_density = -((grid - process.alpha_bar[s].sqrt() * x0) ** 2) / (2 * (1 - process.alpha_bar[s]))
    log_density -= (x_t - ratio.sqrt() * grid) ** 2 / (2 * (1 - ratio))
    weight = log_density.softmax(0)
    mean = (weight * grid).sum()
    variance = (weight * (grid - mean) ** 2).sum()
    q = process.posterior(t, s)
    # sums over an equally spaced grid converge faster than any power while the spacing, 8e-4, is below the width
    assert q.x0_weight * x0 + q.xt_weight * x_t == pytest.approx(mean.item(), abs=1e-9)
    assert q.variance == pytest.approx(variance.item(), rel=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_posterior_at_the_data(schedule):
    process = NoiseProcess(schedule, 30)
    for t in range(1, 31):
        assert process.posterior(t, 0)[:3] == (1, 0, 0)  # the last step returns x_0 itself, bit by bit


def test_lookups_agree_with_the_table_and_broadcast():
    process = NoiseProcess("cosine", 50)
    t = torch.tensor([0, 1, 7, 25, 50])
    signal, sigma = process.signal_and_noise(t)
    assert signal.shape == sigma.shape == (5, 1, 1, 1)
    assert signal.dtype == torch.float32
    for i, time in enumerate(t.tolist()):
        exact = process.alpha_bar[time].sqrt().item(), (1 - process.alpha_bar[time]).sqrt().item()
        assert process.at(time) == pytest.approx(exact, rel=1e-15)
        assert (signal[i].item(), sigma[i].item()) == pytest.approx(exact, rel=6e-8)  # rounded once to float32
    torch.testing.assert_close(process.snr(t[1:]).double(), 1 / (1 / process.alpha_bar[t[1:]] - 1), rtol=1e-6, atol=0)


def test_add_noise_mixes_sample_by_sample():
    process = NoiseProcess("linear", 50)
    x0, noise = torch.randn(5, 3, 8, 6), torch.randn(5, 3, 8, 6)
    t = torch.tensor([50, 1, 30, 0, 2])
    x_t = process.add_noise(x0, noise, t)
    for i, time in enumerate(t.tolist()):
        signal, sigma = process.at(time)
        torch.testing.assert_close(x_t[i], signal * x0[i] + sigma * noise[i])
    assert torch.equal(x_t[3], x0[3])
    assert process.add_noise(x0[:, :, 0, 0], noise[:, :, 0, 0], t).shape == (5, 3)


def test_adding_noise_step_by_step_reaches_the_same_law():
    """Variance recursion v <- (1 - beta) v + beta of the forward chain, from 0, ends at 1 - abar_t at every t."""
    process = NoiseProcess("cosine", 40)
    variance = 0.0
    for t in range(1, 41):
        beta = process.posterior(t, t - 1).forward_variance
        variance = (1 - beta) * variance + beta
        assert variance == pytest.approx(process.at(t)[1] ** 2, rel=1e-12)


def test_tables_are_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        process = NoiseProcess("cosine", 20)
    assert process.at(20) == NoiseProcess("cosine", 20).at(20)
    assert process.signal_and_noise(torch.arange(5))[0].device.type == "cpu"


def test_tables_made_in_inference_mode_serve_training():
    with torch.inference_mode():
        process = NoiseProcess("linear", 20)
    weight = torch.ones(5, 3, requires_grad=True)
    process.add_noise(weight, torch.randn(5, 3), torch.arange(1, 6)).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(("arguments", "name"), [(("quadratic", 10), "schedule"), (("linear", 0), "num_timesteps")])
def test_wrong_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        NoiseProcess(*arguments)


# variance-exploding, and times between whole ones ---------------------------------------------------


def test_exploding_levels_are_geometric():
    process = NoiseProcess("ve", 40, sigma_range=(0.02, 30.0))
    signal, sigma = zip(*(process.at(t) for t in range(41)), strict=True)
    assert set(signal) == {1.0}
    assert sigma[0] == 0
    assert (sigma[1], sigma[40]) == (pytest.approx(0.02), pytest.approx(30.0))
    for t in range(1, 40):
        assert sigma[t + 1] / sigma[t] == pytest.approx(1500 ** (1 / 39), rel=1e-9)
    assert process.prior_std == sigma[40]
    assert NoiseProcess("ve", 1, sigma_range=(0.02, 30.0)).at(1) == (1, pytest.approx(30.0))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_prior_of_a_preserving_process_is_standard(schedule):
    assert NoiseProcess(schedule, 20).prior_std == 1


def test_exploding_posterior_is_bayes_rule():
    process = NoiseProcess("ve", 30)
    for t in range(1, 31):
        for s in range(t):
            var_s, var_t = process.at(s)[1] ** 2, process.at(t)[1] ** 2  # x_t = x_s + sqrt(var_t - var_s) z
            gain = var_s / var_t
            expected = (1 - gain, gain, var_s - gain * var_s, var_t - var_s)
            # float64; differences of nearly equal numbers
            assert process.posterior(t, s) == pytest.approx(expected, rel=1e-9, abs=1e-15), (t, s)
        assert process.posterior(t, 0)[:3] == (1, 0, 0)


@pytest.mark.parametrize("schedule", PROCESSES)
@pytest.mark.parametrize("num_timesteps", [1, 2, 50])
def test_log_snr_is_linear_between_whole_times(schedule, num_timesteps):
    process = NoiseProcess(schedule, num_timesteps)

    def level(t):
        signal, sigma = process.at(t)
        return math.log(sigma / signal)

    for t in range(1, num_timesteps):
        assert level(t + 0.3) == pytest.approx(0.7 * level(t) + 0.3 * level(t + 1), rel=1e-9, abs=1e-9)
    assert level(0.25) == pytest.approx(level(1) - math.log(4))  # the level itself is linear below 1
    signal, sigma = process.at(num_timesteps - 0.5)
    if schedule != "ve":
        assert signal**2 + sigma**2 == pytest.approx(1, rel=1e-12)
    assert process.at(1.0) == process.at(1)


@pytest.mark.parametrize("schedule", PROCESSES)
def test_batched_lookups_agree_at_every_time(schedule):
    process = NoiseProcess(schedule, 50)
    times = [0.0, 0.4, 1.0, 1.5, 17.0, 48.9, 49.0, 49.3, 50.0]
    signal, sigma = process.signal_and_noise(torch.tensor(times, dtype=torch.float64), 1, torch.float64)
    for i, t in enumerate(times):
        assert (signal[i].item(), sigma[i].item()) == pytest.approx(process.at(t), rel=1e-9), t  # 1 / a is up to 1e3
    single, _ = process.signal_and_noise(torch.tensor([1.5, 49.3]))
    assert single.shape == (2, 1, 1, 1)
    assert single.dtype == torch.float32
    whole = process.signal_and_noise(torch.tensor([3, 50]), 1, torch.float64)
    assert [x.tolist() for x in whole] == [list(x) for x in zip(process.at(3), process.at(50), strict=True)]


@pytest.mark.parametrize("schedule", PROCESSES)
def test_time_of_undoes_the_noise_level(schedule):
    process = NoiseProcess(schedule, 50)
    for t in (1.0, 1.2, 2.0, 30.7, 49.5, 50.0):
        signal, sigma = process.at(t)
        assert process.time_of(sigma / signal) == pytest.approx(t, rel=1e-9)
    assert process.time_of(1e-9) == 1
    assert process.time_of(1e9) == 50


@pytest.mark.parametrize("sigma_range", [(0.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_a_wrong_range_of_sigma_is_named(sigma_range):
    with pytest.raises(ValueError, match="sigma_range must be two positive numbers"):
        NoiseProcess("ve", 10, sigma_range)
