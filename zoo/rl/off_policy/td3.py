"""The losses of TD3, and, with one critic and no noise in the target, of DDPG."""

import torch
from torch import Tensor

from zoo.rl.off_policy.actors import Actor
from zoo.rl.off_policy.critics import Critics
from zoo.rl.off_policy.noise import clipped_gaussian
from zoo.rl.off_policy.values import bootstrapped, clipped_double, critics_loss, policy_gradient_loss
from zoo.rl.types import Transitions


def td3_critics_loss(
    parameters: dict[str, Tensor],
    matrix: Tensor,
    noise: Tensor | None = None,
    *,
    critics: Critics,
    targets: Critics,
    target_actor: Actor,
    sigma: float = 0.0,
    clip: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean[1/2 sum_i (Q_i(s, a) - r - d min_j Q'_j(s', a'))^2], a' = clip(mu'(s') + clip(sigma w, -c, c), -1, 1).

    Args:
        parameters: of the critics, by name. matrix: packed `Transitions`. noise: (B, A) w ~ N(0, 1), None for none.
        sigma, clip: of the noise of the target, in units of half the range of actions.

    Returns:
        the loss, and its statistics: critics_loss, and value, the mean of Q.

    References:
        Fujimoto et al. 2018, arXiv:1802.09477, algorithm 1; 000_507b39bbaa34acda.txt, equations 30 to 34. One critic
        and no noise: Lillicrap et al. 2015, arXiv:1509.02971, algorithm 1; 000_507b39bbaa34acda.txt, equation 27.
    """
    rows = Transitions.unpack(matrix, target_actor.action_size)
    with torch.no_grad():
        outputs = target_actor(rows.next_observations.unflatten(1, target_actor.observation_shape))
        actions = target_actor.distribution.mode(outputs)
        if noise is not None:
            actions = (actions + clipped_gaussian(noise, sigma, clip)).clamp(-1, 1)
        next_values = clipped_double(targets(torch.cat([rows.next_observations, actions], 1)))
        target = bootstrapped(rows.rewards, rows.discounts, next_values)
    inputs = torch.cat([rows.observations, rows.actions], 1)
    values = torch.func.functional_call(critics, parameters, (inputs,))
    loss = critics_loss(values, target).mean()
    return loss, {"critics_loss": loss.detach(), "value": values.mean().detach()}


def td3_actor_loss(
    parameters: dict[str, Tensor], matrix: Tensor, *, actor: Actor, critics: Critics
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean[-Q_1(s, mu(s))], of the first critic alone.

    Args:
        parameters: of the actor, by name. matrix: packed `Transitions`.

    Returns:
        the loss, and the same as the statistic actor_loss.

    References:
        Silver et al. 2014, Deterministic policy gradient algorithms, theorem 1; 000_507b39bbaa34acda.txt, equations 28
        and 35.
    """
    rows = Transitions.unpack(matrix, actor.action_size)
    observations = rows.observations.unflatten(1, actor.observation_shape)
    actions = actor.distribution.mode(torch.func.functional_call(actor, parameters, (observations,)))
    loss = policy_gradient_loss(critics(torch.cat([rows.observations, actions], 1), count=1)).mean()
    return loss, {"actor_loss": loss.detach()}
