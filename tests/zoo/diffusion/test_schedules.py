"""Lists of times."""

import itertools

import numpy as np
import pytest

from zoo.diffusion.process import PROCESSES, NoiseProcess
from zoo.diffusion.schedules import SPACINGS, karras_timesteps, times_for, timesteps

every_process = pytest.mark.parametrize("schedule", PROCESSES)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    ("num_timesteps", "counts"),
    [(t, range(1, t + 1)) for t in (1, 2, 3, 5, 20, 50)] + [(1000, (1, 2, 3, 7, 10, 13, 30, 64, 300, 501, 999, 1000))],
)
def test_times_fall_from_near_the_last_to_zero(num_timesteps, counts, spacing):
    for steps in counts:
        times = timesteps(num_timesteps, steps, spacing)
        assert len(times) == steps + 1
        assert all(isinstance(t, int) for t in times)
        assert all(t > s for t, s in itertools.pairwise(times)), times
        assert times[-1] == 0
        assert 1 <= times[-2] <= times[0] <= num_timesteps
        if spacing == "leading" and steps > 1:
            assert times[-2] == 1
            assert num_timesteps - times[0] < num_timesteps / steps  # less than one stride
        else:
            assert times[0] == num_timesteps  # sampling starts from pure noise
        if spacing in ("linspace", "quadratic") and steps > 1:
            assert times[-2] == 1
        if steps == num_timesteps:
            assert times == list(range(num_timesteps, -1, -1))


def test_quadratic_times_are_dense_near_the_data():
    gaps = -np.diff(timesteps(1000, 20, "quadratic"))[:-1]
    assert (np.diff(gaps) <= 1).all()  # gaps shrink towards the data, up to rounding


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((50, 0), "steps"), ((50, 51), "steps must be between 1 and the model's 50"), ((50, 5, "even"), "spacing")],
)
def test_wrong_times_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        timesteps(*arguments)


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
        assert process.noise_levels[times[0]] >= min(20, process.noise_levels[-1])  # nearly pure noise
        if steps == 1:
            assert times == [num_timesteps, 0]
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
