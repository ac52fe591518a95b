"""The noise process q, in the paper's indexing: t = 0 is clean data, t = T the noisiest step.

Letters: T number of steps, B batch, x_t = a_t x_0 + sigma_t eps. The noise level is sigma_t / a_t, log-SNR -2 times its
logarithm. Variance-preserving: a_t^2 = abar_t = prod_{k <= t} (1 - beta_k), abar_0 = 1, sigma_t^2 = 1 - abar_t.
Variance-exploding: a_t = 1.
"""

import bisect
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


SCHEDULES = {"linear": linear_alpha_bar, "cosine": cosine_alpha_bar}  # variance-preserving
PROCESSES = (*SCHEDULES, "ve")


def exploding_sigma(num_timesteps: int, sigma_range: tuple[float, float]) -> Tensor:
    """sigma_t = min (max / min)^((t - 1) / (T - 1)) for t = 1 ... T (max if T = 1), and sigma_0 = 0.

    Returns:
        Tensor of shape (T + 1,), float64.

    References:
        Song et al. 2021, arXiv:2011.13456, section 3.4 and eq. 30 (there sigma_1 is the smallest level too).
    """
    low, high = sigma_range
    if not 0 < low < high < math.inf:
        raise ValueError(f"sigma_range must be two positive numbers, the lower first, got {sigma_range!r}")
    share = torch.arange(num_timesteps, dtype=torch.float64, device="cpu") / max(1, num_timesteps - 1)
    sigma = low * (high / low) ** (share if num_timesteps > 1 else torch.ones_like(share))
    return torch.cat([sigma.new_zeros(1), sigma])


class Posterior(NamedTuple):
    """Coefficients of q(x_s | x_t, x_0) = N(x0_weight * x_0 + xt_weight * x_t, variance * I), s < t.

    `forward_variance`, that of q(x_t | x_s) (the beta of the step), is the upper choice for the reverse variance;
    `variance` the lower.
    """

    x0_weight: float
    xt_weight: float
    variance: float
    forward_variance: float


class NoiseProcess:
    """q(x_t | x_0) = N(a_t x_0, sigma_t^2 I), t = 0 ... T; a_t = sqrt(abar_t), sigma_t = sqrt(1 - abar_t) unless "ve".

    Tables are float64, on the CPU whatever the default device is. Batched look-ups return float32 on the device of t;
    step-by-step coefficients are Python floats, so that a sampler never waits for the device. Times between whole ones
    are admitted everywhere: log-SNR is interpolated linearly (below t = 1, sigma / a is linear in t).

    Args:
        schedule: "linear" or "cosine" (variance-preserving), or "ve" (variance-exploding).
        num_timesteps: T, at least 1.
        sigma_range: sigma_1 and sigma_T, for "ve" only. The largest should exceed the distances between data points.

    Attributes:
        schedule, num_timesteps: as given.
        alpha_bar: a_t^2, (T + 1,) float64. variance: sigma_t^2. noise_levels: sigma_t / a_t.
        exploding: whether the schedule is "ve".
        prior_std: standard deviation of the x_T that sampling starts from: 1, or sigma_T for "ve".

    References:
        Ho et al. 2020, arXiv:2006.11239, eqs. 2 to 7; 000_507b39bbaa34acda.txt, section 13.1.
        "ve": Song et al. 2021, arXiv:2011.13456, section 3.4.
    """

    def __init__(
        self,
        schedule: str = "linear",
        num_timesteps: int = 1000,
        sigma_range: tuple[float, float] = (0.01, 50.0),
    ) -> None:
        if schedule not in PROCESSES:
            raise ValueError(f"schedule must be one of {sorted(PROCESSES)}, got {schedule!r}")
        if num_timesteps < 1:
            raise ValueError(f"num_timesteps must be at least 1, got {num_timesteps!r}")
        self.schedule = schedule
        self.num_timesteps = num_timesteps
        self.exploding = schedule == "ve"
        if self.exploding:
            self.variance = exploding_sigma(num_timesteps, sigma_range).square()
            self.alpha_bar = torch.ones_like(self.variance)
        else:
            self.alpha_bar = SCHEDULES[schedule](num_timesteps)  # (T + 1,) float64
            self.variance = 1 - self.alpha_bar
        self.noise_levels = (self.variance / self.alpha_bar).sqrt()
        self.prior_std = math.sqrt(self.variance[-1].item()) if self.exploding else 1.0
        self._alpha_bar: list[float] = self.alpha_bar.tolist()
        self._variance: list[float] = self.variance.tolist()
        self._log_levels: list[float] = self.noise_levels[1:].log().tolist()  # of t = 1 ... T
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}  # (2, T + 1)

    def __repr__(self) -> str:
        low, high = self.noise_levels[1].item(), self.noise_levels[-1].item()
        return f"NoiseProcess({self.schedule!r}, {self.num_timesteps}, noise levels {low:.2g} ... {high:.2g})"

    def signal_and_noise(self, t: Tensor, ndim: int = 4, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """(a_t, sigma_t), each (B, 1, ..., 1) with `ndim` axes, for t (B,), whole numbers or of a floating type."""
        if t.is_floating_point():
            pair = torch.stack(self._between(t)).to(dtype)
        else:
            key = t.device, dtype
            if key not in self._tables:
                self._tables[key] = torch.stack([self.alpha_bar.sqrt(), self.variance.sqrt()]).to(*key)
            pair = self._tables[key][:, t.long()]
        signal, noise = pair.view(2, -1, *[1] * (ndim - 1))
        return signal, noise

    def _between(self, t: Tensor) -> tuple[Tensor, Tensor]:
        levels = self.noise_levels[1:].log().to(t.device)
        time = t.double()
        below = time.long().clamp(1, max(1, self.num_timesteps - 1))
        above = (below + 1).clamp(max=self.num_timesteps)
        level = torch.lerp(levels[below - 1], levels[above - 1], time.clamp(min=1) - below)
        level = (level + time.clamp(max=1).log()).exp()
        if self.exploding:
            return torch.ones_like(level), level
        signal = 1 / (1 + level**2).sqrt()
        return signal, level * signal

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = a_t x_0 + sigma_t noise; x0 and noise (B, ...), t (B,)."""
        signal, sigma = self.signal_and_noise(t, x0.ndim)
        return signal * x0 + sigma * noise

    def in_thousandths(self, t: Tensor) -> Tensor:
        """1000 t / T, what networks are given instead of t; never below float32, whatever PyTorch's default type."""
        return t.to(torch.promote_types(t.dtype, torch.float32)) * (1000 / self.num_timesteps)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio a_t^2 / sigma_t^2, shape (B,), for t > 0."""
        signal, sigma = self.signal_and_noise(t, 1)
        return (signal / sigma) ** 2

    def at(self, t: float) -> tuple[float, float]:
        """(a_t, sigma_t) as Python floats."""
        signal_squared, variance = self._squares(t)
        return math.sqrt(signal_squared), math.sqrt(variance)

    def _squares(self, t: float) -> tuple[float, float]:
        if t == int(t):
            return self._alpha_bar[int(t)], self._variance[int(t)]
        if t < 1:
            level = self._log_levels[0] + math.log(t)
        else:
            low, high = self._log_levels[int(t) - 1 : int(t) + 1]
            level = low + (t - int(t)) * (high - low)
        ratio = math.exp(2 * level)  # sigma^2 / a^2
        return (1.0, ratio) if self.exploding else (1 / (1 + ratio), ratio / (1 + ratio))

    def time_of(self, noise_level: float) -> float:
        """The time between 1 and T, whole or not, whose sigma / a is the given one; the nearer end if it is outside."""
        level = math.log(noise_level)
        above = bisect.bisect_left(self._log_levels, level)  # the first whole time, less 1, that is as noisy
        if above == 0:
            return 1.0
        if above == self.num_timesteps:
            return float(self.num_timesteps)
        low, high = self._log_levels[above - 1 : above + 1]
        return above + (level - low) / (high - low)

    def posterior(self, t: float, s: float) -> Posterior:
        """q(x_s | x_t, x_0) for any pair s < t, not only neighbours: with r = a_t^2 / a_s^2 and v the forward variance,

            v = sigma_t^2 - r sigma_s^2        (1 - r if the process preserves the variance)
            mean = a_s v / sigma_t^2 x_0 + sqrt(r) sigma_s^2 / sigma_t^2 x_t
            variance = sigma_s^2 / sigma_t^2 v

        References:
            Ho et al. 2020, arXiv:2006.11239, eqs. 6 and 7, with beta_t = 1 - r as in Nichol & Dhariwal 2021,
            arXiv:2102.09672, eq. 19; 000_507b39bbaa34acda.txt, section 13.3.1.
            "ve": Song et al. 2021, arXiv:2011.13456, appendix F.
        """
        (abar_t, variance_t), (abar_s, variance_s) = self._squares(t), self._squares(s)
        ratio = abar_t / abar_s
        forward = variance_t - variance_s if self.exploding else 1 - ratio
        return Posterior(
            x0_weight=math.sqrt(abar_s) * forward / variance_t,
            xt_weight=math.sqrt(ratio) * variance_s / variance_t,
            variance=variance_s / variance_t * forward,
            forward_variance=forward,
        )
