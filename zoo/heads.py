"""Conditional distributions of a grey level k = 0 ... L - 1, given what a network outputs for it.

A head says how many numbers it takes for an entry (`num_parameters`), and turns these into log-probabilities in nats:
`log_prob` of given levels, `log_probs` of all levels. They sum to one over the levels, at any parameters, and their
gradients are finite. `sample` draws a level.
"""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import UserError


def to_level(x: Tensor, levels: int) -> Tensor:
    """k = (L - 1) (x + 1) / 2, rounded: values in [-1, 1] -> whole numbers 0 ... L - 1."""
    return ((x + 1) * ((levels - 1) / 2)).round().long()


def to_value(level: Tensor, levels: int) -> Tensor:
    """x = 2 k / (L - 1) - 1, in [-1, 1]; a mean level is a mean value."""
    return level * (2 / (levels - 1)) - 1


class Head(Protocol):
    """A distribution over `levels` grey levels; parameters (..., P) -> log-probabilities."""

    levels: int
    num_parameters: int

    def log_prob(self, parameters: Tensor, index: Tensor) -> Tensor:
        """log P(k), (..., P) and whole numbers k (...) -> (...)."""

    def log_probs(self, parameters: Tensor) -> Tensor:
        """log P of every level, (..., P) -> (..., L)."""


class Bernoulli:
    """P(k = 1) = sigmoid(a), of two levels."""

    levels, num_parameters = 2, 1

    def log_prob(self, parameters: Tensor, index: Tensor) -> Tensor:
        return F.logsigmoid(parameters[..., 0] * (2 * index - 1))

    def log_probs(self, parameters: Tensor) -> Tensor:
        return F.logsigmoid(torch.cat([-parameters, parameters], dim=-1))


class Categorical:
    """P(k) = softmax(a)_k: each level has a logit of its own."""

    def __init__(self, levels: int) -> None:
        self.levels = self.num_parameters = levels

    def log_prob(self, parameters: Tensor, index: Tensor) -> Tensor:
        return self.log_probs(parameters).gather(-1, index[..., None])[..., 0]

    def log_probs(self, parameters: Tensor) -> Tensor:
        return parameters.log_softmax(-1)


class LogisticMixture:
    """A mixture of K logistic distributions on [-1, 1], each integrated over the bin of a level.

        P(k) = sum_j pi_j [F((x_k + d - mu_j) / s_j) - F((x_k - d - mu_j) / s_j)],    F the logistic function,
        x_k = 2 k / (L - 1) - 1,    d = 1 / (L - 1) half the width of a bin

    The lowest bin begins at minus infinity and the highest ends at infinity. The difference is computed as
    F(u) F(-l) (1 - exp(-(u - l))), whose logarithm is exact for any bin, so that no approximation by a density is
    needed. A scale is at least d / e^2, where one bin holds all but a thousandth of a component that it is centred on.

    Args:
        levels: L, at least 2.
        components: K. A network outputs K logits of pi, K means mu and K log-scales log s.

    References:
        Salimans et al. 2017, arXiv:1701.05517, equation 2.
    """

    def __init__(self, levels: int, components: int) -> None:
        if components < 1:
            raise UserError(f"components must be at least 1, got {components!r}")
        self.levels, self.num_parameters = levels, 3 * components

    def log_prob(self, parameters: Tensor, index: Tensor) -> Tensor:
        logits, distance, precision = self._about(parameters, index)
        index = index[..., None]
        lowest, highest = index == 0, index == self.levels - 1
        below_top = F.logsigmoid((distance + 0.5) * precision).masked_fill(highest, 0)
        above_bottom = F.logsigmoid((0.5 - distance) * precision).masked_fill(lowest, 0)
        inside = (-torch.expm1(-precision)).log().masked_fill(lowest | highest, 0)
        return (logits.log_softmax(-1) + below_top + above_bottom + inside).logsumexp(-1)

    def log_probs(self, parameters: Tensor) -> Tensor:
        index = torch.arange(self.levels, device=parameters.device)
        return self.log_prob(parameters[..., None, :], index.expand(*parameters.shape[:-1], -1))

    def quantile(self, parameters: Tensor, uniform: Tensor) -> Tensor:
        """The lowest level at which the distribution function reaches u: (..., P) and (...) -> (...), by bisection."""
        low = torch.zeros_like(uniform, dtype=torch.long)
        high = torch.full_like(low, self.levels - 1)
        for _ in range((self.levels - 1).bit_length()):
            middle = (low + high) // 2
            logits, distance, precision = self._about(parameters, middle)
            reached = (logits.softmax(-1) * ((distance + 0.5) * precision).sigmoid()).sum(-1) >= uniform
            reached |= low == high  # found already
            low, high = torch.where(reached, low, middle + 1), torch.where(reached, middle, high)
        return low

    def mean(self, parameters: Tensor) -> Tensor:
        """E k = sum_{k > 0} P(K >= k), (..., P) -> (...)."""
        share, total = parameters.chunk(3, dim=-1)[0].softmax(-1), torch.zeros_like(parameters[..., 0])
        for k in range(1, self.levels):  # one at a time: the probabilities of all levels would need much memory
            _, distance, precision = self._about(parameters, torch.full_like(total, k))
            total += (share * ((0.5 - distance) * precision).sigmoid()).sum(-1)
        return total

    def _about(self, parameters: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits of the components, k - mu and 1 / s, both in bins."""
        logits, mean, log_scale = parameters.chunk(3, dim=-1)
        bins = (self.levels - 1) / 2  # to a unit of x: in bins a nearby level minus the mean is exact
        precision = (-log_scale.clamp(-math.log(2 * bins) - 2, 7)).exp() / bins
        return logits, index[..., None].to(mean) - (mean + 1) * bins, precision


def head(name: str, levels: int, components: int = 5) -> Head:
    """The head of that name: "categorical", "logistic" (a mixture of `components`) or "bernoulli" (of two levels).

    Raises:
        UserError: if there is no such head, or it does not fit the levels.
    """
    if levels < 2:
        raise UserError(f"levels must be at least 2, got {levels!r}: the data has no grid of grey levels")
    if name == "categorical":
        return Categorical(levels)
    if name == "logistic":
        return LogisticMixture(levels, components)
    if name != "bernoulli":
        raise UserError(f"head must be one of bernoulli, categorical, logistic, got {name!r}")
    if levels != 2:
        raise UserError(
            f"head 'bernoulli' is for 2 grey levels, and the data has {levels}: use categorical or logistic"
        )
    return Bernoulli()


def mean(head: Head, parameters: Tensor) -> Tensor:
    """The mean level E k, (..., P) -> (...)."""
    if isinstance(head, Bernoulli):
        return parameters[..., 0].sigmoid()
    if isinstance(head, LogisticMixture):
        return head.mean(parameters)
    log_probs = head.log_probs(parameters)
    return log_probs.exp() @ torch.arange(head.levels).to(log_probs)


def sample(head: Head, parameters: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """The level k ~ P(k)^(1/T) / Z that belongs to a uniform number: (..., P) and u (...) -> (...)."""
    if isinstance(head, LogisticMixture) and temperature == 1:
        return head.quantile(parameters, uniform)  # without the probabilities of all levels
    return draw(head.log_probs(parameters), uniform, temperature)


def draw(log_probs: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """The level k ~ P(k)^(1/T) / Z at which the distribution function reaches u; (..., L) and u (...) -> (...)."""
    cumulative = (log_probs / temperature).softmax(-1).cumsum(-1)
    return (cumulative < uniform[..., None]).sum(-1).clamp(max=log_probs.shape[-1] - 1)
