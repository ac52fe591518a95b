"""Natural gradients and trust regions: steps of a policy whose size is a divergence and not a distance of weights."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.rl.on_policy.losses import approximate_kl, standardized, value_loss, weighted_mean
from zoo.rl.on_policy.ppo import Rows
from zoo.rl.policies import ActorCritic

FISHERS = ("exact", "empirical")
SHRINK, TRIES = 0.8, 10  # of the line search


class TrustRegion(NamedTuple):
    """How a policy is stepped: theta + s x, (F + damping) x = g.

    Attributes:
        delta: the largest mean KL(old || new). The full step is s = sqrt(2 delta / x^T F x).
        step: s instead of that; None for the full step.
        line_search: whether a step is shortened until KL <= delta and the surrogate improves.
        fisher: "exact", the Hessian of the KL in closed form; or "empirical", the mean of grad log pi grad log pi^T
            over the actions that were taken. With it x has the weights of the compatible features that fit A best.
        iterations, damping: of conjugate gradients.
    """

    delta: float = 0.01
    step: float | None = None
    line_search: bool = True
    fisher: str = "exact"
    iterations: int = 10
    damping: float = 0.1


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """x with A x = b, from x = 0, for a symmetric positive definite A known by its products v -> A v.

    References:
        Hestenes and Stiefel 1952, Methods of conjugate gradients for solving linear systems, section 3.
    """
    x, residual = torch.zeros_like(b), b.clone()
    along, square = b.clone(), b @ b
    for _ in range(iterations):
        if square < 1e-20:
            break
        moved = product(along)
        length = square / (along @ moved)
        x += length * along
        residual -= length * moved
        square, before = residual @ residual, square
        along = residual + (square / before) * along
    return x


def hessian_products(divergence: Tensor, parameters: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """v -> H v, H the Hessian of a number in its parameters: the gradient of grad . v, through a graph that is kept.

    References:
        Pearlmutter 1994, Fast exact multiplication by the Hessian.
    """
    gradient = _flat(torch.autograd.grad(divergence, parameters, create_graph=True))

    def product(v: Tensor) -> Tensor:
        with torch.enable_grad():
            along = gradient @ v
        return _flat(torch.autograd.grad(along, parameters, retain_graph=True)).detach()

    return product


def step_policy(
    policy: ActorCritic,
    parameters: Sequence[Tensor],
    vector: Tensor,
    rows: Rows,
    how: TrustRegion,
    average: Callable[[Tensor], Tensor] = lambda x: x,
) -> dict[str, Tensor]:
    """One step of the policy up its surrogate mean[r A], r = pi(a | s) / pi_old(a | s), A standardised.

    A rejected step leaves `vector` as it was, to the bit.

    Args:
        policy: whose actor's parameters are views of `vector`, in this order.
        rows: all rows of a rollout. average: of a tensor over processes.

    Returns:
        surrogate, how far it has improved; kl, the mean KL(old || new); accepted, 0 or 1; scale, what the line search
        shortened the step by.

    References:
        Kakade 2001, A natural policy gradient, section 3; Schulman et al. 2015, arXiv:1502.05477, equation 14 and
        appendix C; 003_679b8cdb08266a71.txt, "TRPO", whose KL has its arguments the other way round and whose search
        begins at s = 1; 000_507b39bbaa34acda.txt, equation 50.
    """
    observations = rows.observations.unflatten(1, policy.observation_shape)
    advantages = standardized(rows.advantages, rows.weights)

    def evaluate() -> tuple[Tensor, Tensor]:
        """log pi(a | s) and what identifies pi(. | s), with the present parameters."""
        outputs, features = policy.outputs(observations)
        distribution = policy.distribution
        return distribution.log_prob(outputs, features, rows.actions), distribution.describe(outputs, features)

    with torch.enable_grad():
        log_prob, said = evaluate()
        old_log_prob, old = log_prob.detach(), said.detach()
        ratio = (log_prob - old_log_prob).exp()
        surrogate = weighted_mean(ratio * advantages, rows.weights)
        gradient = average(_flat(torch.autograd.grad(surrogate, parameters, retain_graph=True)).detach())
        exact = how.fisher == "exact"
        kl = policy.distribution.kl(old, said) if exact else approximate_kl(log_prob - old_log_prob)
        product = hessian_products(weighted_mean(kl, rows.weights), parameters)
    direction = conjugate_gradient(lambda v: average(product(v)) + how.damping * v, gradient, how.iterations)
    size = how.step
    if size is None:  # by F itself, not the damped one, so that the quadratic model of the KL is delta
        curvature = (direction @ average(product(direction))).clamp(min=1e-20)
        size = float((2 * how.delta / curvature).sqrt())
    before = vector.clone()
    for k in range(TRIES if how.line_search else 1):
        scale = SHRINK**k
        vector.copy_(before + scale * size * direction)
        with torch.no_grad():
            now_log_prob, now = evaluate()
        gain = weighted_mean(((now_log_prob - old_log_prob).exp() - 1) * advantages, rows.weights)
        measured = torch.stack([gain, weighted_mean(policy.distribution.kl(old, now), rows.weights)])
        gain, moved = average(measured).unbind()
        if not how.line_search or (moved <= how.delta and gain > 0):
            accepted = 1.0
            break
    else:
        vector.copy_(before)
        accepted, scale, gain, moved = 0.0, 0.0, torch.zeros_like(gain), torch.zeros_like(moved)
    numbers = {"accepted": gain.new_tensor(accepted), "scale": gain.new_tensor(scale)}
    return {"surrogate": gain, "kl": moved, **numbers}


def critic_rows(policy: ActorCritic, rows: Rows) -> Tensor:
    """(B, D + 2): inputs of the critic, as the policy normalises them; targets; weights."""
    inputs = rows.observations if policy.normalizer is None else policy.normalizer.normalize(rows.observations)
    return torch.cat([inputs, rows.targets[:, None], rows.weights[:, None]], 1)


def critic_loss(
    parameters: dict[str, Tensor], matrix: Tensor, *, critic: torch.nn.Module
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean[1/2 (V(s) - G)^2] over the rows of weight 1.

    Args:
        parameters: of the critic, by name. matrix: of `critic_rows`. critic: (B, D) -> (B, 1).
    """
    values = torch.func.functional_call(critic, parameters, (matrix[:, :-2],))[:, 0]
    loss = weighted_mean(value_loss(values, matrix[:, -2]), matrix[:, -1])
    return loss, {"value_loss": loss.detach()}


def improvement_bound(gain: float, largest_advantage: float, largest_kl: float, gamma: float) -> float:
    """J(new) - J(old) >= gain - 4 eps gamma / (1 - gamma)^2 KL_max: what the step is sure to gain.

    Args:
        gain: sum_s d_old(s) sum_a new(a | s) A_old(s, a). largest_advantage: eps, max |A_old|. largest_kl: KL_max, over
            states, of old || new.

    References:
        Schulman et al. 2015, arXiv:1502.05477, theorem 1; 000_507b39bbaa34acda.txt, section 8.1, which lacks a factor
        1 / (1 - gamma).
    """
    return gain - 4 * largest_advantage * gamma / (1 - gamma) ** 2 * largest_kl


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])
