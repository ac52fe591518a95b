"""What passes between environments and algorithms."""

from typing import NamedTuple

from torch import Tensor


class Rollout(NamedTuple):
    """T steps of N environments, time-major, and the observation after each.

    Environments reset themselves one step late: where row t - 1 ended an episode, `observations[t]` is the true last
    observation of that episode, and row t is no transition (its action was ignored, its reward is 0): `valid` is 0
    there. So `observations[t + 1]` is the true next observation of every valid row t, at the end of an episode too.

    Attributes:
        observations: (T + 1, N, ...) float32, as the environment gave them.
        actions: (T, N, A) as the policy drew them, before they were brought into the bounds of the environment.
        rewards: (T, N) float32.
        terminated: (T, N) bool, the episode ended and nothing follows: its value is 0.
        truncated: (T, N) bool, the episode was cut, by a time limit for one: what would follow has a value.
        valid: (T, N) bool, whether the row is a transition.
        episode_returns: (K,) float32, the sums of rewards of the episodes that ended in these rows.
        episode_lengths: (K,) int64.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    episode_returns: Tensor
    episode_lengths: Tensor


class Episodes(NamedTuple):
    """Whole episodes of one policy: returns (K,) float64, lengths (K,) int64."""

    returns: Tensor
    lengths: Tensor
