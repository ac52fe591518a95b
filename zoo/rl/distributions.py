"""Distributions over actions, as functions of what a network says and of noise that is drawn outside.

Each has `noise_shape`, what one action needs; `noise` (T, N, ...) for many; `sample`, `mode`, `log_prob`, `entropy` of
the head's output (..., outputs). Actions are (..., A) float32: indices for discrete ones. Those of off-policy methods
have no `log_prob` and `entropy`: one draws with its log-probability, the others have no density that a method asks for.
"""

import math

import torch
from torch import Tensor, nn

from zoo.rl.off_policy.noise import ornstein_uhlenbeck


class Categorical(nn.Module):
    """A independent choices, the k-th among n_k: pi(a | s) = prod_k softmax(l_k)_{a_k}; sampled as argmax(l + Gumbel).

    Args:
        num_actions: (n_1, ..., n_A).
    """

    def __init__(self, num_actions: tuple[int, ...]) -> None:
        super().__init__()
        self.num_actions = num_actions
        self.outputs = sum(num_actions)

    def noise(self, steps: int, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(steps, count, outputs) ~ Gumbel(0, 1)."""
        uniform = torch.rand(steps, count, self.outputs, generator=generator)
        return -(-uniform.clamp(1e-20, 1 - 1e-7).log()).log()

    def sample(self, logits: Tensor, features: Tensor, noise: Tensor) -> Tensor:
        return self.mode(logits + noise)

    def mode(self, logits: Tensor) -> Tensor:
        return torch.stack([part.argmax(-1) for part in logits.split(self.num_actions, -1)], -1).float()

    def log_prob(self, logits: Tensor, features: Tensor, actions: Tensor) -> Tensor:
        chosen = [
            # a sum over one-hot rows: its gradient compiles to a fused kernel, that of a gather to scattered writes
            (part.log_softmax(-1) * (torch.arange(count, device=logits.device) == actions[..., k, None])).sum(-1)
            for k, (part, count) in enumerate(zip(logits.split(self.num_actions, -1), self.num_actions, strict=True))
        ]
        return sum(chosen[1:], chosen[0])

    def entropy(self, logits: Tensor, features: Tensor) -> Tensor:
        logs = [part.log_softmax(-1) for part in logits.split(self.num_actions, -1)]
        entropies = [-(log.exp() * log).sum(-1) for log in logs]
        return sum(entropies[1:], entropies[0])

    def describe(self, logits: Tensor, features: Tensor) -> Tensor:
        """(..., outputs), log pi(a | s) of every action, for `kl`."""
        return torch.cat([part.log_softmax(-1) for part in logits.split(self.num_actions, -1)], -1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old || new) = sum_a old(a) (log old(a) - log new(a)) of two descriptions, (...,)."""
        return (old.exp() * (old - new)).sum(-1)


class EpsilonGreedy(nn.Module):
    """The action of the largest value, but with probability epsilon one drawn from all n alike.

    The head's output is Q(s, .). Every environment tosses a coin of its own.

    Args:
        num_actions: n. epsilon: to begin with.
    """

    def __init__(self, num_actions: int, epsilon: float = 0.05) -> None:
        super().__init__()
        self.outputs, self.epsilon = num_actions, epsilon

    def noise(self, steps: int, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(steps, count, 2) ~ U[0, 1): the coin, and which action is drawn."""
        return torch.rand(steps, count, 2, generator=generator)

    def sample(self, values: Tensor, features: Tensor, noise: Tensor) -> Tensor:
        drawn = (noise[..., 1:] * self.outputs).floor()
        return torch.where(noise[..., :1] < self.epsilon, drawn, self.mode(values))

    def mode(self, values: Tensor) -> Tensor:
        return values.argmax(-1, keepdim=True).float()


class DiagonalGaussian(nn.Module):
    """pi(a | s) = N(a; mu(s), diag(sigma^2)), sigma learned and the same in every state.

    Args:
        size: A. log_std: where log sigma begins.
    """

    def __init__(self, size: int, log_std: float = 0.0) -> None:
        super().__init__()
        self.size = self.outputs = size
        self.log_std = nn.Parameter(torch.full((size,), log_std))

    def noise(self, steps: int, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(steps, count, A) ~ N(0, 1)."""
        return torch.randn(steps, count, self.size, generator=generator)

    def sample(self, mean: Tensor, features: Tensor, noise: Tensor) -> Tensor:
        return mean + self.log_std.exp() * noise

    def mode(self, mean: Tensor) -> Tensor:
        return mean

    def log_prob(self, mean: Tensor, features: Tensor, actions: Tensor) -> Tensor:
        return _gaussian_log_prob(actions - mean, self.log_std)

    def entropy(self, mean: Tensor, features: Tensor) -> Tensor:
        return _gaussian_entropy(self.log_std).expand(mean.shape[:-1])

    def describe(self, mean: Tensor, features: Tensor) -> Tensor:
        """(..., 2 A), mu and log sigma, for `kl`."""
        return torch.cat([mean, self.log_std.expand_as(mean)], -1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old || new) of two descriptions, (...,)."""
        return _gaussian_kl(old, new)


class StateDependentGaussian(nn.Module):
    """a = mu(s) + phi(s) E, E_{ia} ~ N(0, sigma_{ia}^2) held for several steps: exploration that is smooth in time.

    Over E, pi(a | s) = N(mu(s), sum_i phi_i(s)^2 sigma_{ia}^2). phi, the last layer before mu, gets no gradient from
    the noise.

    Args:
        size: A. features: size of phi. log_std: where log sigma begins. hold: steps before E is drawn anew.

    References:
        Raffin et al. 2021, arXiv:2005.05719, equations 3 to 5.
    """

    def __init__(self, size: int, features: int, log_std: float = 0.0, hold: int = 4) -> None:
        super().__init__()
        self.size = self.outputs = size
        self.features, self.hold = features, hold
        self.log_std = nn.Parameter(torch.full((features, size), log_std))

    def noise(self, steps: int, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(steps, count, features, A) ~ N(0, 1), each drawn once for `hold` steps."""
        draws = torch.randn(-(-steps // self.hold), count, self.features, self.size, generator=generator)
        return draws[torch.arange(steps) // self.hold]

    def sample(self, mean: Tensor, features: Tensor, noise: Tensor) -> Tensor:
        return mean + (features[..., None] * (self.log_std.exp() * noise)).sum(-2)

    def mode(self, mean: Tensor) -> Tensor:
        return mean

    def log_prob(self, mean: Tensor, features: Tensor, actions: Tensor) -> Tensor:
        return _gaussian_log_prob(actions - mean, self._log_std(features))

    def entropy(self, mean: Tensor, features: Tensor) -> Tensor:
        return _gaussian_entropy(self._log_std(features))

    def describe(self, mean: Tensor, features: Tensor) -> Tensor:
        """(..., 2 A), mu and the log sigma that the noise has in this state, for `kl`."""
        return torch.cat([mean, self._log_std(features)], -1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old || new) of two descriptions, (...,)."""
        return _gaussian_kl(old, new)

    def _log_std(self, features: Tensor) -> Tensor:
        return 0.5 * (features.detach().square() @ (2 * self.log_std).exp() + 1e-6).log()


class SquashedGaussian(nn.Module):
    """a = tanh(u), u ~ N(mu(s), diag(sigma(s)^2)): log pi(a | s) = log N(u; mu, sigma) - sum log(1 - tanh(u)^2).

    log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)) is right for every u, where 1 - a^2 is 0 from |u| = 9 on. The
    network says mu and log sigma; the latter is clipped to [-20, 2].

    Args:
        size: A.

    References:
        Haarnoja et al. 2018, arXiv:1812.05905, appendix C, equation 26.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.outputs = size, 2 * size

    def noise(self, steps: int, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(steps, count, A) ~ N(0, 1)."""
        return torch.randn(steps, count, self.size, generator=generator)

    def sample(self, outputs: Tensor, features: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = outputs.chunk(2, -1)
        return torch.tanh(mean + log_std.clamp(-20, 2).exp() * noise)

    def sample_with_log_prob(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 2 A), (..., A) -> the actions (..., A) and log pi(a | s) (...,), both with their gradients."""
        mean, log_std = outputs.chunk(2, -1)
        log_std = log_std.clamp(-20, 2)
        u = mean + log_std.exp() * noise
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        squashing = 2 * (math.log(2) - u - nn.functional.softplus(-2 * u))
        return torch.tanh(u), (gaussian - squashing).sum(-1)

    def mode(self, outputs: Tensor) -> Tensor:
        """tanh(mu), the median: what is played without exploring."""
        return torch.tanh(outputs.chunk(2, -1)[0])


class Deterministic(nn.Module):
    """a = tanh(m(s)), and clip(a + sigma w, -1, 1) to explore: w ~ N(0, 1), or an Ornstein-Uhlenbeck process.

    Args:
        size: A. sigma: of the noise. drift: whether w is that process, of deviation about 1 in the long run; then it
            goes on from one call of `noise` to the next, until `begin`.
    """

    def __init__(self, size: int, sigma: float = 0.1, drift: bool = False) -> None:
        super().__init__()
        self.size = self.outputs = size
        self.sigma, self.drift = sigma, drift
        self._last: Tensor | None = None

    def begin(self) -> None:
        """New episodes: the process begins at 0."""
        self._last = None

    def noise(self, steps: int, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(steps, count, A), w."""
        normal = torch.randn(steps, count, self.size, generator=generator)
        if not self.drift:
            return normal
        start = torch.zeros_like(normal[0]) if self._last is None or len(self._last) != count else self._last
        path = ornstein_uhlenbeck(normal, start, sigma=math.sqrt(2 * 0.15))
        self._last = path[-1]
        return path

    def sample(self, outputs: Tensor, features: Tensor, noise: Tensor) -> Tensor:
        return (torch.tanh(outputs) + self.sigma * noise).clamp(-1, 1)

    def mode(self, outputs: Tensor) -> Tensor:
        return torch.tanh(outputs)


def _gaussian_log_prob(difference: Tensor, log_std: Tensor) -> Tensor:
    return (-0.5 * (difference * (-log_std).exp()).square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def _gaussian_entropy(log_std: Tensor) -> Tensor:
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def _gaussian_kl(old: Tensor, new: Tensor) -> Tensor:
    """sum over dimensions of log(s' / s) + (s^2 + (m - m')^2) / (2 s'^2) - 1/2, of (m, log s) and (m', log s')."""
    (mean, log_std), (new_mean, new_log_std) = old.chunk(2, -1), new.chunk(2, -1)
    squares = (2 * log_std).exp() + (mean - new_mean).square()
    return (new_log_std - log_std + 0.5 * squares * (-2 * new_log_std).exp() - 0.5).sum(-1)
