"""The noise process q, in the paper's indexing: t = 0 is clean data, t = T the noisiest step.

Letters: T number of steps, B batch, abar_t = prod_{k <= t} (1 - beta_k) with abar_0 = 1.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

MAX_BETA = 0.999  # Nichol & Dhariwal 2021, section 3.2: keeps the last steps of a short or cosine schedule regular


def linear_alpha_bar(num_timesteps: int) -> Tensor:
    """abar for beta linear from 1e-4 to 0.02, both multiplied by 1000 / T so that abar_T hardly depends on T.

    Returns:
        Tensor of shape (T + 1,), float64, from abar_0 = 1 down to abar_T.

    References:
        Ho et al. 2020, arXiv:2006.11239, section 4 (T = 1000).
    """
    betas = torch.linspace(1e-4, 0.02, num_timesteps, dtype=torch.float64, device="cpu") * 1000 / num_timesteps
    return _cumulate(betas)


def cosine_alpha_bar(num_timesteps: int, offset: float = 0.008) -> Tensor:
    """abar_t = f(t) / f(0), f(t) = cos^2((t / T + s) / (1 + s) * pi / 2), beta_t = 1 - abar_t / abar_{t-1} <= 0.999.

    Returns:
        Tensor of shape (T + 1,), float64, from abar_0 = 1 down to abar_T.

    References:
        Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17.
    """
    time = torch.arange(num_timesteps + 1, dtype=torch.float64, device="cpu") / num_timesteps
    f = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    return _cumulate(1 - f[1:] / f[:-1])


def _cumulate(betas: Tensor) -> Tensor:
    return torch.cat([betas.new_ones(1), torch.cumprod(1 - betas.clamp(max=MAX_BETA), dim=0)])


SCHEDULES = {"linear": linear_alpha_bar, "cosine": cosine_alpha_bar}


class Posterior(NamedTuple):
    """Coefficients of q(x_s | x_t, x_0) = N(x0_weight * x_0 + xt_weight * x_t, variance * I), s < t.

    `forward_variance`, the beta of the step from s to t, is the upper choice for the reverse variance; `variance` the
    lower.
    """

    x0_weight: float
    xt_weight: float
    variance: float
    forward_variance: float


class NoiseProcess:
    """q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I), t = 0 ... T.

    Tables are float64, on the CPU whatever the default device is. Batched look-ups return float32 on the device of t;
    step-by-step coefficients are Python floats, so that a sampler never waits for the device.

    Args:
        schedule: "linear" or "cosine".
        num_timesteps: T, at least 1.

    References:
        Ho et al. 2020, arXiv:2006.11239, eqs. 2 to 7; 000_507b39bbaa34acda.txt, section 13.1.
    """

    def __init__(self, schedule: str = "linear", num_timesteps: int = 1000) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {sorted(SCHEDULES)}, got {schedule!r}")
        if num_timesteps < 1:
            raise ValueError(f"num_timesteps must be at least 1, got {num_timesteps!r}")
        self.num_timesteps = num_timesteps
        self.alpha_bar = SCHEDULES[schedule](num_timesteps)  # (T + 1,) float64
        self._alpha_bar: list[float] = self.alpha_bar.tolist()
        table = torch.stack([self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt()]).float()
        self._tables = {torch.device("cpu"): table}  # device -> (2, T + 1) float32

    def signal_and_noise(self, t: Tensor, ndim: int = 4) -> tuple[Tensor, Tensor]:
        """(sqrt(abar_t), sqrt(1 - abar_t)), each (B, 1, ..., 1) with `ndim` axes, for whole t of shape (B,)."""
        if t.device not in self._tables:
            self._tables[t.device] = self._tables[torch.device("cpu")].to(t.device)
        signal, noise = self._tables[t.device][:, t.long()].view(2, -1, *[1] * (ndim - 1))
        return signal, noise

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise; x0 and noise (B, ...), t (B,)."""
        signal, sigma = self.signal_and_noise(t, x0.ndim)
        return signal * x0 + sigma * noise

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio abar_t / (1 - abar_t), shape (B,), for t >= 1."""
        signal, sigma = self.signal_and_noise(t, 1)
        return (signal / sigma) ** 2

    def at(self, t: int) -> tuple[float, float]:
        """(sqrt(abar_t), sqrt(1 - abar_t)) as Python floats."""
        return math.sqrt(self._alpha_bar[t]), math.sqrt(1 - self._alpha_bar[t])

    def posterior(self, t: int, s: int) -> Posterior:
        """q(x_s | x_t, x_0) for any pair s < t, not only neighbours: with r = abar_t / abar_s,

            mean = sqrt(abar_s) (1 - r) / (1 - abar_t) x_0 + sqrt(r) (1 - abar_s) / (1 - abar_t) x_t
            variance = (1 - abar_s) / (1 - abar_t) (1 - r)

        References:
            Ho et al. 2020, arXiv:2006.11239, eqs. 6 and 7, with beta_t = 1 - r as in Nichol & Dhariwal 2021,
            arXiv:2102.09672, eq. 19; 000_507b39bbaa34acda.txt, section 13.3.1.
        """
        abar_t, abar_s = self._alpha_bar[t], self._alpha_bar[s]
        ratio = abar_t / abar_s
        return Posterior(
            x0_weight=math.sqrt(abar_s) * (1 - ratio) / (1 - abar_t),
            xt_weight=math.sqrt(ratio) * (1 - abar_s) / (1 - abar_t),
            variance=(1 - abar_s) / (1 - abar_t) * (1 - ratio),
            forward_variance=1 - ratio,
        )
