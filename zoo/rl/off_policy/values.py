"""Learning of action values off policy: targets, losses, target networks. One value a sample, unreduced."""

import torch
from torch import Tensor


def bootstrapped(rewards: Tensor, discounts: Tensor, next_values: Tensor) -> Tensor:
    """y = r + d V(s'), d = gamma^n (1 - terminated): a truncated episode is led on by the value of what it cut off.

    Args:
        rewards: (B,) sums of n discounted rewards. discounts: (B,). next_values: (B,), of the state n steps on.

    References:
        000_507b39bbaa34acda.txt, equations 24 and 26, which lack (1 - terminated).
    """
    return rewards + discounts * next_values


def clipped_double(values: Tensor) -> Tensor:
    """min_i Q_i, (n, ...) -> (...): two critics that err in different places overestimate less.

    References:
        Fujimoto et al. 2018, arXiv:1802.09477, equation 10; 000_507b39bbaa34acda.txt, equation 30.
    """
    return values.amin(0)


def critics_loss(values: Tensor, targets: Tensor) -> Tensor:
    """1/2 sum_i (Q_i - y)^2, (n, B) and (B,) -> (B,).

    References:
        Haarnoja et al. 2018, arXiv:1812.05905, equation 5; 000_507b39bbaa34acda.txt, equation 34, without the half.
    """
    return 0.5 * (values - targets).square().sum(0)


def policy_gradient_loss(values: Tensor) -> Tensor:
    """-Q_1(s, mu(s)), (n, B) -> (B,): its gradient is the deterministic policy gradient.

    References:
        Silver et al. 2014, theorem 1; 000_507b39bbaa34acda.txt, equations 28 and 35.
    """
    return -values[0]


def soft_policy_loss(values: Tensor, log_probs: Tensor, alpha: Tensor) -> Tensor:
    """alpha log pi(a | s) - min_i Q_i(s, a), (n, B), (B,), () -> (B,), with a drawn by reparameterisation.

    References:
        Haarnoja et al. 2018, arXiv:1812.05905, equation 9.
    """
    return alpha * log_probs - clipped_double(values)


def soft_values(values: Tensor, log_probs: Tensor, alpha: Tensor) -> Tensor:
    """V(s) = min_i Q_i(s, a) - alpha log pi(a | s), (n, B), (B,), () -> (B,).

    References:
        Haarnoja et al. 2018, arXiv:1812.05905, equations 3 and 5, with the smaller of two critics of section 6.
    """
    return clipped_double(values) - alpha * log_probs


def expected_soft_values(values: Tensor, logits: Tensor, alpha: Tensor) -> Tensor:
    """V(s) = sum_a pi(a | s) (min_i Q_i(s, a) - alpha log pi(a | s)), (n, B, K), (B, K), () -> (B,): no draw needed.

    Minus it is the loss of a discrete policy.

    References:
        Christodoulou 2019, arXiv:1910.07207, equations 10 and 12.
    """
    log_probs = logits.log_softmax(-1)
    return (log_probs.exp() * (clipped_double(values) - alpha * log_probs)).sum(-1)


def temperature_gradient(log_probs: Tensor, target_entropy: float) -> Tensor:
    """-(log pi(a | s) + H): of the loss -log alpha (log pi + H) by log alpha, which rises while the entropy is below H.

    The paper's loss has alpha in place of log alpha; its gradient vanishes with alpha.

    References:
        Haarnoja et al. 2018, arXiv:1812.05905, equation 18.
    """
    return -(log_probs + target_entropy)


@torch.no_grad()
def soft_update(target: Tensor, source: Tensor, tau: float) -> None:
    """w' <- tau w + (1 - tau) w', in place; tau = 1 copies.

    References:
        Lillicrap et al. 2015, arXiv:1509.02971, algorithm 1; 000_507b39bbaa34acda.txt, equation 36.
    """
    target.lerp_(source, tau)
