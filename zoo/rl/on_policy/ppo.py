"""The objective of proximal policy optimisation, over rows that are packed into one matrix."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.rl.on_policy.losses import approximate_kl, clipped_surrogate, standardized, value_loss, weighted_mean
from zoo.rl.on_policy.returns import generalized_advantages
from zoo.rl.policies import ActorCritic, Evaluation
from zoo.rl.types import Rollout

PENALTIES = ("none", "adaptive", "dual")


class Rows(NamedTuple):
    """What PPO learns from, one row a transition: observations (B, D), actions (B, A), the others (B,)."""

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    targets: Tensor
    weights: Tensor

    def pack(self) -> Tensor:
        """(B, D + A + 5): one matrix, so that shuffling all of it is one gather."""
        return torch.cat([*self[:2], *(column[:, None] for column in self[2:])], 1)

    @classmethod
    def unpack(cls, matrix: Tensor, action_size: int) -> "Rows":
        """The columns of a packed matrix."""
        widths = [matrix.shape[1] - action_size - 5, action_size, 1, 1, 1, 1, 1]
        parts = matrix.split(widths, 1)
        return cls(*parts[:2], *(part[:, 0] for part in parts[2:]))


def rows_of(policy: ActorCritic, rollout: Rollout, reward_scale: Tensor, gamma: float, gae_lambda: float) -> Rows:
    """The T N rows of a rollout under a policy: its log-probabilities and values, advantages, and targets A + V.

    Args:
        reward_scale: (), what rewards are multiplied by.
    """
    steps = len(rollout.rewards)
    observations = rollout.observations.flatten(2)
    shaped = rollout.observations[:steps]
    old = policy(shaped, rollout.actions)
    last = policy.values(rollout.observations[steps:])
    next_values = torch.cat([old.values[1:], last])
    rewards = (rollout.rewards * reward_scale).clamp(-10, 10) if policy.normalizer is not None else rollout.rewards
    advantages = generalized_advantages(
        rewards, old.values, next_values, rollout.terminated, rollout.truncated, gamma, gae_lambda
    )
    columns = (old.log_prob, old.values, advantages, advantages + old.values, rollout.valid.float())
    return Rows(observations[:steps].flatten(0, 1), rollout.actions.flatten(0, 1), *(c.flatten() for c in columns))


def ppo_loss(
    parameters: dict[str, Tensor],
    matrix: Tensor,
    clip: Tensor,
    penalty: Tensor | None = None,
    *,
    policy: ActorCritic,
    value_weight: float,
    entropy_weight: float,
    value_clip: float | None,
    normalize_advantages: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean[clipped surrogate] + c_1 mean[value loss] - c_2 mean[entropy] + beta mean[KL], over the rows of weight 1.

    The KL is estimated by (r - 1) - log r, whose gradient has the right mean, since that of r over old actions is 1.

    Args:
        parameters: of the policy, by name. matrix: packed `Rows`. clip: () epsilon, infinite for none. penalty: ()
            beta, None for 0. value_weight, entropy_weight: c_1, c_2. value_clip: how far values may move in units of
            the return, None for any distance.

    Returns:
        the loss, and its statistics: policy_loss, value_loss, entropy, kl (approximate, to the old policy), and
        clip_fraction, the share of clipped ratios.

    References:
        Schulman et al. 2017, arXiv:1707.06347, equations 8 and 9; 000_507b39bbaa34acda.txt, equation 53.
    """
    rows = Rows.unpack(matrix, policy.action_size)
    observations = rows.observations.unflatten(1, policy.observation_shape)
    now: Evaluation = torch.func.functional_call(policy, parameters, (observations, rows.actions))
    log_ratio = now.log_prob - rows.log_probs
    advantages = standardized(rows.advantages, rows.weights) if normalize_advantages else rows.advantages
    parts = {
        "policy_loss": clipped_surrogate(log_ratio, advantages, clip),
        "value_loss": value_loss(now.values, rows.targets, rows.values, value_clip),
        "entropy": now.entropy,
        "kl": approximate_kl(log_ratio),
        "clip_fraction": (log_ratio.expm1().abs() > clip).to(log_ratio.dtype),
    }
    means = {name: weighted_mean(part, rows.weights) for name, part in parts.items()}
    loss = means["policy_loss"] + value_weight * means["value_loss"] - entropy_weight * means["entropy"]
    if penalty is not None:
        loss = loss + penalty * means["kl"]
    return loss, {name: mean.detach() for name, mean in means.items()}


def next_penalty(penalty: Tensor, kl: Tensor, kind: str, bound: float, rate: float) -> Tensor:
    """beta after an update that moved the policy by KL(old || new), ().

    "adaptive" halves beta where KL < bound / 1.5 and doubles it where KL > 1.5 bound. "dual" is dual ascent on KL <=
    bound: beta <- max(0, beta + rate (KL - bound)).

    References:
        Schulman et al. 2017, arXiv:1707.06347, section 4; 003_679b8cdb08266a71.txt, "Solving the Constrained Problem".
    """
    if kind == "dual":
        return (penalty + rate * (kl - bound)).clamp(min=0)
    factor = torch.where(kl > 1.5 * bound, 2.0, torch.where(kl < bound / 1.5, 0.5, 1.0))
    return penalty * factor
