"""Sharpness: how much power images have at high spatial frequencies."""

import torch
from torch import Tensor

from zoo.errors import UserError


def high_frequency_power(images: Tensor) -> Tensor:
    """The power of an image in the upper half of spatial frequencies, a pixel:

        sum_{|f| > 1/4} |F(f)|^2 / (H W)^2,    F(f) = sum_p x_p exp(-2 pi i f p)

    f = (f_y, f_x) in cycles a pixel and |f| its Euclidean length: 1/2 is the Nyquist frequency along an axis. By
    Parseval's theorem the sum over all frequencies is the mean square of a pixel. Channels are added.

    Args:
        images: (N, C, H, W).

    Returns:
        (N,), float64.
    """
    height, width = images.shape[-2:]
    f_y = torch.fft.fftfreq(height, dtype=torch.float64, device=images.device)[:, None]
    f_x = torch.fft.fftfreq(width, dtype=torch.float64, device=images.device)
    power = torch.fft.fft2(images.double()).abs().square() / (height * width) ** 2
    return (power * (torch.hypot(f_y, f_x) > 1 / 4)).sum((1, 2, 3))


def spectrum_ratio(generated: Tensor, real: Tensor) -> float:
    """The mean high-frequency power of generated images over that of real ones: below 1 is blur, above 1 is noise.

    Args:
        generated, real: (N, C, H, W) and (M, C, H, W).

    Raises:
        UserError: if the real images have no such power, as constant ones or those of up to two pixels a side.
    """
    base = high_frequency_power(real).mean().item()
    if not base > 1e-12:
        raise UserError(
            "the real images have no power above half of the highest frequency: there is no sharpness to compare"
        )
    return high_frequency_power(generated).mean().item() / base
