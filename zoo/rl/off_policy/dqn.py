"""The loss of deep Q-learning, over transitions that are packed into one matrix."""

import math

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from zoo.rl.off_policy.q_network import QNetwork
from zoo.rl.off_policy.values import bootstrapped
from zoo.rl.types import Transitions


def greedy_values(values: Tensor, chooser: Tensor) -> Tensor:
    """Q'(s, argmax_a Q(s, a)), (..., K) Q' and Q -> (...,): one network chooses the action, the other one values it.

    With Q = Q' this is max_a Q(s, a), which overestimates: of m actions whose errors are uniform within e of 0, by
    e (m - 1) / (m + 1).

    References:
        van Hasselt et al. 2016, arXiv:1509.06461, equation 4 and theorem 1; 004_2b20c020fc470ac5.txt, section 4.1.1.
    """
    return chosen_values(values, chooser.argmax(-1, keepdim=True))


def chosen_values(values: Tensor, actions: Tensor) -> Tensor:
    """Q(s, a), (..., K) and (..., 1) -> (...,).

    As a sum over one-hot rows: its gradient compiles to a fused kernel, that of a gather to scattered writes.
    """
    return (values * (torch.arange(values.shape[-1], device=values.device) == actions)).sum(-1)


def dqn_loss(
    parameters: dict[str, Tensor],
    matrix: Tensor,
    *,
    network: QNetwork,
    target: QNetwork | None = None,
    double: bool = False,
    huber: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean[w f(delta)], delta = r + d Q'(s', a') - Q(s, a), a' the best action by Q', or by Q if `double`.

    f is Huber's loss, delta^2 / 2 up to |delta| = 1 and |delta| - 1/2 beyond, or delta^2 / 2 alone.

    Args:
        parameters: of the network, by name.
        matrix: packed `Transitions`, and after them, of prioritised ones, a column of weights w; otherwise w = 1.
        network: Q. target: Q'; None for Q itself, without a gradient.

    Returns:
        the loss, and its statistics: loss; value, the mean of Q(s, a); errors, |delta| of each row (B,).

    References:
        Mnih et al. 2015, Human-level control through deep reinforcement learning, algorithm 1; Schaul et al. 2016,
        arXiv:1511.05952, algorithm 1. 001_7af9247201bdf7d9.txt, section 7.5, which writes gamma max_a' Q(S', a') where
        Q(S, A) must stand.
    """
    width = 2 * math.prod(network.observation_shape) + 3
    rows, weights = Transitions.unpack(matrix[:, :width], 1), matrix[:, width:]
    observations, following = (
        part.unflatten(1, network.observation_shape) for part in (rows.observations, rows.next_observations)
    )
    with torch.no_grad():
        values = target(following) if target else torch.func.functional_call(network, parameters, (following,))
        chooser = torch.func.functional_call(network, parameters, (following,)) if double and target else values
        best = greedy_values(values, chooser)
        goal = bootstrapped(rows.rewards, rows.discounts, best)
    chosen = chosen_values(torch.func.functional_call(network, parameters, (observations,)), rows.actions)
    losses = huber_loss(chosen, goal, reduction="none") if huber else 0.5 * (chosen - goal).square()
    loss = (losses if weights.shape[1] == 0 else weights[:, 0] * losses).mean()
    errors = (goal - chosen).abs().detach()
    return loss, {"loss": loss.detach(), "value": chosen.mean().detach(), "errors": errors}
