"""What passes between environments and algorithms."""

from typing import NamedTuple, TypedDict

from torch import Tensor


class Spaces(TypedDict):
    """What a policy must know of an environment, in plain values: its first four arguments.

    Attributes:
        observation_shape: of one observation.
        num_actions: choices of each discrete action: (n,) for Discrete, (n_1, ..., n_A) for MultiDiscrete, () for Box.
        action_low, action_high: finite bounds of each continuous action, () for discrete ones.
    """

    observation_shape: tuple[int, ...]
    num_actions: tuple[int, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]


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
        log_probs: (T, N), of the actions under the policy that acted, if that is not the policy that learns.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    episode_returns: Tensor
    episode_lengths: Tensor
    log_probs: Tensor | None = None


class Episodes(NamedTuple):
    """Whole episodes of one policy: returns (K,) float64, lengths (K,) int64."""

    returns: Tensor
    lengths: Tensor


class Transitions(NamedTuple):
    """B transitions of n steps, drawn from a replay buffer, where each is a row of one matrix.

    Attributes:
        observations: (B, D) s_t, flattened.
        actions: (B, A) in [-1, 1], or indices.
        rewards: (B,) r_t + gamma r_{t+1} + ... + gamma^{n-1} r_{t+n-1}.
        discounts: (B,) gamma^n, and 0 where the episode terminated.
        next_observations: (B, D) s_{t+n}, the true one at the end of an episode too.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    discounts: Tensor
    next_observations: Tensor

    @classmethod
    def unpack(cls, matrix: Tensor, action_size: int) -> "Transitions":
        """The columns of (B, 2 D + A + 2), in the order of the attributes."""
        size = (matrix.shape[1] - action_size - 2) // 2
        parts = matrix.split([size, action_size, 1, 1, size], 1)
        observations, actions, rewards, discounts, next_observations = parts
        return cls(observations, actions, rewards[:, 0], discounts[:, 0], next_observations)
