"""Distributions over actions, as functions of what a network says and of noise that is drawn outside.

Each has `noise_shape`, what one action needs; `noise` (T, N, ...) for many; `sample`, `mode`, `log_prob`, `entropy` of
the head's output (..., outputs). Actions are (..., A) float32: indices for discrete ones.
"""

import math

import torch
from torch import Tensor, nn


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

    def _log_std(self, features: Tensor) -> Tensor:
        return 0.5 * (features.detach().square() @ (2 * self.log_std).exp() + 1e-6).log()


def _gaussian_log_prob(difference: Tensor, log_std: Tensor) -> Tensor:
    return (-0.5 * (difference * (-log_std).exp()).square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def _gaussian_entropy(log_std: Tensor) -> Tensor:
    return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
