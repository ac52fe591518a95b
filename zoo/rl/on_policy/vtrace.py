"""V-trace: values of one policy from the rollouts of an older one."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.rl.on_policy.ppo import Rows
from zoo.rl.on_policy.returns import linear_recurrence
from zoo.rl.policies import ActorCritic, Evaluation
from zoo.rl.types import Rollout


class VTrace(NamedTuple):
    """targets: (T, ...), v_t. advantages: (T, ...), rho_t (r_t + gamma v_{t+1} - V(s_t)), for the policy."""

    targets: Tensor
    advantages: Tensor


def vtrace(
    log_ratio: Tensor,
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    lambda_: float = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> VTrace:
    """v_t = V(s_t) + delta_t + gamma c_t (v_{t+1} - V(s_{t+1})), delta_t = rho_t (r_t + gamma V(s_{t+1}) - V(s_t)).

    rho_t = min(rho_bar, pi / mu) decides whose values these are: with an infinite rho_bar those of pi, else those of a
    policy between mu and pi. c_t = lambda min(c_bar, pi / mu) decides how far the errors are traced. After a terminated
    row nothing follows; after a truncated or the last row V(s') follows, and no error of another episode.

    Args:
        log_ratio: (T, ...), log pi(a_t | s_t) - log mu(a_t | s_t), mu the policy that acted.
        rewards, values, next_values: (T, ...), r_t, V(s_t), V(s'_t). terminated, truncated: (T, ...) bool.

    References:
        Espeholt et al. 2018, arXiv:1802.01561, equation 1 and remark 1; 004_2b20c020fc470ac5.txt, section 4.1.2, whose
        product of c starts at the wrong index, and whose policy gradient lacks the bonus of entropy.
    """
    ratio = log_ratio.exp()
    rho, c = ratio.clamp(max=rho_bar), lambda_ * ratio.clamp(max=c_bar)
    goes_on = ~(terminated | truncated)
    deltas = rho * (rewards + gamma * next_values * ~terminated - values)
    targets = values + linear_recurrence(deltas, gamma * c * goes_on)
    goes_on = torch.cat([goes_on[:-1], torch.zeros_like(goes_on[-1:])])
    following = torch.where(goes_on, targets.roll(-1, 0), next_values) * ~terminated
    return VTrace(targets, rho * (rewards + gamma * following - values))


def vtrace_rows(
    policy: ActorCritic,
    rollout: Rollout,
    reward_scale: Tensor,
    gamma: float,
    lambda_: float,
    rho_bar: float,
    c_bar: float,
) -> tuple[Rows, dict[str, Tensor]]:
    """The T N rows of a rollout, with V-trace's advantages and targets; how far the policies are apart.

    Args:
        rollout: with the `log_probs` of the policy that acted; without them, it was this one.
        reward_scale: (), what rewards are multiplied by, if the policy normalises.

    Returns:
        the rows, and the statistics rho, the mean of pi / mu, and clipped, the share of ratios above rho_bar.
    """
    steps = len(rollout.rewards)
    now: Evaluation = policy(rollout.observations[:steps], rollout.actions)
    next_values = torch.cat([now.values[1:], policy.values(rollout.observations[steps:])])
    behaviour = now.log_prob if rollout.log_probs is None else rollout.log_probs
    log_ratio = now.log_prob - behaviour
    rewards = rollout.rewards
    if policy.normalizer is not None:
        rewards = (rewards * reward_scale).clamp(-10, 10)
    ends = rollout.terminated, rollout.truncated
    found = vtrace(log_ratio, rewards, now.values, next_values, *ends, gamma, lambda_, rho_bar, c_bar)
    observations = rollout.observations[:steps].flatten(2).flatten(0, 1)
    columns = behaviour, now.values, found.advantages, found.targets, rollout.valid.float()
    rows = Rows(observations, rollout.actions.flatten(0, 1), *(column.flatten() for column in columns))
    ratios = log_ratio.exp()[rollout.valid]
    return rows, {"rho": ratios.mean(), "clipped": (ratios > rho_bar).float().mean()}
