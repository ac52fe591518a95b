"""The policy gradient: what the score grad log pi is multiplied by, and the loss whose gradient that gives."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.rl.on_policy.losses import standardized, value_loss, weighted_mean
from zoo.rl.on_policy.ppo import Rows
from zoo.rl.on_policy.returns import discounted_returns, generalized_advantages, n_step_returns
from zoo.rl.policies import ActorCritic, Evaluation
from zoo.rl.types import Rollout

RETURNS = ("monte-carlo", "n-step", "gae")
BASELINES = ("none", "mean", "leave-one-out", "value")


class Estimator(NamedTuple):
    """Which estimate of the gradient: Psi in E[sum_t Psi_t grad log pi(a_t | s_t)].

    Attributes:
        returns: "monte-carlo", the rewards to the end of the episode; "n-step"; or "gae", generalised advantages.
        baseline: what is subtracted. "none"; "mean", of the N episodes at the same step, 0 from one that has ended;
            "leave-one-out", that of the N - 1 others; "value", V(s_t).
        reward_to_go: whether Psi_t has the rewards from t on alone; else those of the whole episode.
        discount_states: whether Psi_t has the factor gamma^t, without which this is no gradient of the discounted J.
        gamma, n_step, gae_lambda: of the returns.
    """

    returns: str = "gae"
    baseline: str = "value"
    reward_to_go: bool = True
    discount_states: bool = False
    gamma: float = 0.99
    n_step: int = 5
    gae_lambda: float = 1.0


def estimate(rollout: Rollout, values: Tensor, next_values: Tensor, how: Estimator) -> tuple[Tensor, Tensor]:
    """Psi_t and the targets of V, each (T, N, ...).

    Monte Carlo returns are of rows that are whole episodes, one a column. What a time limit cut off is worth V(s') with
    the baseline "value", and nothing with the others, whose objective ends at the limit.

    Args:
        rollout: of which only the rewards, the ends and `valid` are read. Gamma^t counts from its first row.
        values, next_values: (T, N, ...), V(s_t) and V(s'_t).

    References:
        000_507b39bbaa34acda.txt, equations 12 to 17 (which have no gamma^t) and 37 to 44; Sutton et al. 1999, Policy
        gradient methods for reinforcement learning with function approximation, theorem 1.
    """
    ends = rollout.terminated, rollout.truncated
    if how.returns == "gae":
        advantages = generalized_advantages(rollout.rewards, values, next_values, *ends, how.gamma, how.gae_lambda)
        targets = advantages + values
        psi = advantages if how.baseline == "value" else targets
    elif how.returns == "n-step":
        targets = n_step_returns(rollout.rewards, next_values, *ends, how.gamma, how.n_step)
        psi = targets - values if how.baseline == "value" else targets
    else:
        following = next_values if how.baseline == "value" else torch.zeros_like(next_values)
        targets = discounted_returns(rollout.rewards, following, *ends, how.gamma)
        psi = targets if how.reward_to_go else targets[:1].expand_as(targets)
        psi = psi - _baseline(psi, values, how.baseline)
    if how.discount_states:
        steps = torch.arange(len(psi), device=psi.device, dtype=psi.dtype)
        psi = psi * (how.gamma**steps).view(-1, *[1] * (psi.ndim - 1))
    return psi, targets


def _baseline(psi: Tensor, values: Tensor, kind: str) -> Tensor:
    """(T, N, ...). A mean that has its own sample shrinks the gradient by 1 - 1/N, which leaving it out does not."""
    if kind == "none":
        return torch.zeros_like(psi)
    if kind == "value":
        return values
    total, n = psi.sum(1, keepdim=True), psi.shape[1]  # 0 from an episode that has ended
    return total / n if kind == "mean" else (total - psi) / (n - 1)


def gradient_rows(
    policy: ActorCritic, rollout: Rollout, reward_scale: Tensor, how: Estimator, normalize_advantages: bool
) -> Rows:
    """The T N rows of a rollout, with Psi_t as their advantages.

    The mean over rows of Psi grad log pi is their sum over steps for Monte Carlo returns, averaged over episodes, as
    REINFORCE has it; with bootstrapped returns it is the mean over steps, as A2C has it.

    Args:
        reward_scale: (), what rewards are multiplied by, if the policy normalises.
        normalize_advantages: whether Psi is standardised over the rows.
    """
    steps = len(rollout.rewards)
    values = policy.values(rollout.observations)
    old, last = values[:steps], values[steps:]
    next_values = torch.cat([old[1:], last])
    if policy.normalizer is not None:
        rollout = rollout._replace(rewards=(rollout.rewards * reward_scale).clamp(-10, 10))
    psi, targets = estimate(rollout, old, next_values, how)
    valid = rollout.valid.float()
    if normalize_advantages:
        psi = standardized(psi, valid)
    if how.returns == "monte-carlo":
        psi = psi * (valid.sum() / valid.shape[1])
    observations = rollout.observations[:steps].flatten(2).flatten(0, 1)
    columns = (torch.zeros_like(psi), old, psi, targets, valid)
    return Rows(observations, rollout.actions.flatten(0, 1), *(column.flatten() for column in columns))


def policy_gradient_loss(
    parameters: dict[str, Tensor], matrix: Tensor, *, policy: ActorCritic, value_weight: float, entropy_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """-mean[Psi log pi(a | s)] + c_1 mean[1/2 (V - G)^2] - c_2 mean[entropy], each over the rows of weight 1.

    Args:
        parameters: of the policy, by name. matrix: packed `gradient_rows`. value_weight, entropy_weight: c_1, c_2.

    Returns:
        the loss, and its statistics: policy_loss, value_loss, entropy.

    References:
        Williams 1992, Simple statistical gradient-following algorithms, theorem 1; Mnih et al. 2016, arXiv:1602.01783,
        section 4 and algorithm S3; 003_679b8cdb08266a71.txt, "REINFORCE".
    """
    rows = Rows.unpack(matrix, policy.action_size)
    observations = rows.observations.unflatten(1, policy.observation_shape)
    now: Evaluation = torch.func.functional_call(policy, parameters, (observations, rows.actions))
    parts = {
        "policy_loss": -rows.advantages * now.log_prob,
        "value_loss": value_loss(now.values, rows.targets),
        "entropy": now.entropy,
    }
    means = {name: weighted_mean(part, rows.weights) for name, part in parts.items()}
    loss = means["policy_loss"] + value_weight * means["value_loss"] - entropy_weight * means["entropy"]
    return loss, {name: mean.detach() for name, mean in means.items()}
