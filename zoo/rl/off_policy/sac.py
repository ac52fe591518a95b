"""The losses of soft actor-critic, over transitions that are packed into one matrix."""

import torch
from torch import Tensor

from zoo.rl.off_policy.actors import Actor
from zoo.rl.off_policy.critics import Critics
from zoo.rl.off_policy.values import bootstrapped, critics_loss, expected_soft_values, soft_policy_loss, soft_values
from zoo.rl.types import Transitions


def sac_critics_loss(
    parameters: dict[str, Tensor],
    matrix: Tensor,
    noise: Tensor,
    alpha: Tensor,
    *,
    critics: Critics,
    targets: Critics,
    actor: Actor,
    value_network: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean[1/2 sum_i (Q_i(s, a) - y)^2],   y = r + d (min_i Q'_i(s', a') - alpha log pi(a' | s')),   a' ~ pi(. | s').

    Q' are the target critics, and d is gamma, or 0 after a terminal step. Discrete actions have the expectation over a'
    in place of the draw. With a value network, y = r + d V'(s').

    Args:
        parameters: of the critics, by name. matrix: packed `Transitions`. noise: (B, A) ~ N(0, 1). alpha: ().
        targets: Q', or with `value_network` V'.

    Returns:
        the loss, and its statistics: critics_loss, and value, the mean of Q.

    References:
        Haarnoja et al. 2018, arXiv:1812.05905, equation 5; Christodoulou 2019, arXiv:1910.07207, for discrete actions;
        Haarnoja et al. 2018, arXiv:1801.01290, equation 8, and 003_679b8cdb08266a71.txt, for the value network.
    """
    rows = Transitions.unpack(matrix, actor.action_size)
    with torch.no_grad():
        if value_network:
            next_values = targets(rows.next_observations)[0]
        else:
            next_values = _soft_values(rows.next_observations, noise, alpha, actor, targets)
        target = bootstrapped(rows.rewards, rows.discounts, next_values)
    inputs = rows.observations if actor.num_actions else torch.cat([rows.observations, rows.actions], 1)
    values = torch.func.functional_call(critics, parameters, (inputs,))
    if actor.num_actions:
        values = (values * (torch.arange(values.shape[2], device=values.device) == rows.actions)).sum(-1)
    loss = critics_loss(values, target).mean()
    return loss, {"critics_loss": loss.detach(), "value": values.mean().detach()}


def sac_value_loss(
    parameters: dict[str, Tensor],
    matrix: Tensor,
    noise: Tensor,
    alpha: Tensor,
    *,
    value: Critics,
    critics: Critics,
    actor: Actor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean[1/2 (V(s) - (min_i Q_i(s, a) - alpha log pi(a | s)))^2], a drawn from the policy, not from the buffer.

    Args:
        parameters: of the value network, by name. matrix, noise, alpha: as `sac_critics_loss`.

    Returns:
        the loss, and the same as the statistic value_loss.

    References:
        Haarnoja et al. 2018, arXiv:1801.01290, equation 5; 003_679b8cdb08266a71.txt, "Soft Actor-Critic".
    """
    observations = Transitions.unpack(matrix, actor.action_size).observations
    with torch.no_grad():
        target = _soft_values(observations, noise, alpha, actor, critics)
    loss = critics_loss(torch.func.functional_call(value, parameters, (observations,)), target).mean()
    return loss, {"value_loss": loss.detach()}


def sac_actor_loss(
    parameters: dict[str, Tensor], matrix: Tensor, noise: Tensor, alpha: Tensor, *, actor: Actor, critics: Critics
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean[alpha log pi(a | s) - min_i Q_i(s, a)], a drawn from the policy; for discrete actions its expectation.

    Args:
        parameters: of the actor, by name. matrix, noise, alpha: as `sac_critics_loss`.

    Returns:
        the loss, and its statistics: actor_loss, and log_prob, the mean of log pi(a | s), which the temperature needs.

    References:
        Haarnoja et al. 2018, arXiv:1812.05905, equation 9; Christodoulou 2019, arXiv:1910.07207, equation 12.
    """
    rows = Transitions.unpack(matrix, actor.action_size)
    observations = rows.observations.unflatten(1, actor.observation_shape)
    outputs = torch.func.functional_call(actor, parameters, (observations,))
    if actor.num_actions:
        loss = -expected_soft_values(critics(rows.observations), outputs, alpha).mean()
        logs = outputs.log_softmax(-1)
        log_probs = (logs.exp() * logs).sum(-1)
    else:
        actions, log_probs = actor.distribution.sample_with_log_prob(outputs, noise)
        loss = soft_policy_loss(critics(torch.cat([rows.observations, actions], 1)), log_probs, alpha).mean()
    return loss, {"actor_loss": loss.detach(), "log_prob": log_probs.mean().detach()}


def _soft_values(observations: Tensor, noise: Tensor, alpha: Tensor, actor: Actor, critics: Critics) -> Tensor:
    """E[min_i Q_i(s, a) - alpha log pi(a | s)] of flat observations (B, D), exact or by one draw, (B,)."""
    outputs = actor(observations.unflatten(1, actor.observation_shape))
    if actor.num_actions:
        return expected_soft_values(critics(observations), outputs, alpha)
    actions, log_probs = actor.distribution.sample_with_log_prob(outputs, noise)
    return soft_values(critics(torch.cat([observations, actions], 1)), log_probs, alpha)
