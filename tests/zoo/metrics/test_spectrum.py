import math

import pytest
import torch

from zoo.errors import UserError
from zoo.metrics.spectrum import high_frequency_power, spectrum_ratio

SHAPE = (12, 10)


def wave(f_y, f_x, amplitude=1.0):
    """(1, 1, 12, 10): amplitude * cos(2 pi (f_y y / 12 + f_x x / 10)), of that many waves along each side."""
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in SHAPE), indexing="ij")
    return (amplitude * torch.cos(2 * math.pi * (f_y * y / SHAPE[0] + f_x * x / SHAPE[1])))[None, None]


def noise(count, seed, scale=1.0):
    return scale * torch.randn(count, 2, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("f_y", "f_x", "counted"),
    [
        (0, 0, False),
        (1, 0, False),
        (3, 0, False),
        (0, 2, False),
        (4, 0, True),
        (0, 3, True),
        (2, 2, True),
        (5, 4, True),
    ],
)
def test_a_wave_counts_with_its_mean_square_if_it_is_short(f_y, f_x, counted):
    """Of 12 and 10 pixels: 3 / 12 is half of the Nyquist frequency and no more; hypot(2 / 12, 2 / 10) is 0.26."""
    expected = 3.0**2 / 2 if counted else 0.0
    assert high_frequency_power(wave(f_y, f_x, 3.0)).item() == pytest.approx(expected, abs=1e-12)  # float64


def test_channels_add_up_and_a_constant_has_no_power():
    images = torch.cat([wave(5, 0), wave(0, 4, 2.0)], dim=1)
    assert high_frequency_power(images).item() == pytest.approx(0.5 + 2)
    assert high_frequency_power(images + 7).item() == pytest.approx(0.5 + 2)
    assert high_frequency_power(torch.full((3, 1, *SHAPE), 0.7)).tolist() == pytest.approx([0, 0, 0], abs=1e-12)


def test_the_power_of_white_noise_is_its_variance_times_the_share_of_frequencies():
    count = 2000
    f_y, f_x = (torch.fft.fftfreq(size)[:, None] for size in SHAPE)
    share = (torch.hypot(f_y, f_x.T) > 0.25).double().mean().item()
    power = high_frequency_power(noise(count, 0, 0.5))
    assert power.mean().item() == pytest.approx(2 * 0.25 * share, abs=4 * power.std().item() / count**0.5)


def test_the_ratio_of_a_scaled_set_is_the_square_of_the_scale():
    real = noise(30, 0)
    assert spectrum_ratio(real, real) == pytest.approx(1)
    assert spectrum_ratio(0.5 * real, real) == pytest.approx(0.25)
    assert spectrum_ratio(torch.zeros_like(real), real) == 0


def test_the_ratio_of_a_blurred_wave_is_the_square_of_the_filter():
    """Weights 1/4, 1/2, 1/4 along y pass cos(pi f)^2 of the amplitude of f cycles a pixel."""
    real = wave(4, 1)
    blurred = real / 2 + (real.roll(1, 2) + real.roll(-1, 2)) / 4
    assert spectrum_ratio(blurred, real) == pytest.approx(math.cos(math.pi * 4 / 12) ** 4)


def test_noise_makes_the_ratio_exceed_one():
    real = wave(4, 1).expand(300, 2, *SHAPE)
    assert spectrum_ratio(real + noise(300, 1, 0.3), real) > 1.05


@pytest.mark.parametrize("real", [torch.zeros(5, 1, 8, 8), wave(1, 1).expand(5, 1, *SHAPE)])
def test_real_images_without_high_frequencies_are_refused(real):
    with pytest.raises(UserError, match="no power above half of the highest frequency"):
        spectrum_ratio(real, real)
