"""Finite Markov decision processes as arrays, and what can be computed of them exactly."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.errors import UserError

MOST_STATES = 20_000  # of a dense system of equations: 3.2 GB


class MDP(NamedTuple):
    """p(s', r | s, a) of S states and A actions, as a list of at most K outcomes of each pair.

    An outcome that terminates has no next state, whatever `next_states` says: V is 0 after it. Outcomes that fill up a
    shorter list have probability 0. Memory is S A K times 25 bytes; policy evaluation solves S linear equations.

    Attributes:
        probabilities: (S, A, K) float64, with sum 1 over K.
        next_states: (S, A, K) int64.
        rewards: (S, A, K) float64.
        terminated: (S, A, K) bool.
        start: (S,) float64, of the first state.
    """

    probabilities: Tensor
    next_states: Tensor
    rewards: Tensor
    terminated: Tensor
    start: Tensor

    def backup(self, values: Tensor, gamma: float) -> Tensor:
        """Q(s, a) = E[r + gamma V(s')], V(s') = 0 where the episode terminates: (S,) -> (S, A)."""
        after = torch.where(self.terminated, 0.0, values[self.next_states])
        return (self.probabilities * (self.rewards + gamma * after)).sum(-1)

    def chain(self, policy: Tensor) -> tuple[Tensor, Tensor]:
        """P_pi (S, S), the probability to go on to s', and r_pi (S,), the expected reward.

        Args:
            policy: (S, A), pi(a | s).

        Raises:
            UserError: if a matrix of S x S numbers would be larger than any that is solved here.
        """
        states = len(self.start)
        if states > MOST_STATES:
            raise UserError(
                f"policy evaluation solves a dense system: {states:,} states take {8e-9 * states**2:,.0f} GB, but at "
                f"most {MOST_STATES:,} are solved; value_iteration needs no matrix"
            )
        goes_on = policy[..., None] * self._goes_on()
        matrix = torch.zeros(states, states, dtype=torch.float64)
        matrix.scatter_add_(1, self.next_states.flatten(1), goes_on.flatten(1))
        return matrix, self._expected_rewards(policy)

    def values(self, policy: Tensor, gamma: float) -> Tensor:
        """V = (I - gamma P_pi)^-1 r_pi, (S,); with gamma = 1, NaN where the episode may never end."""
        matrix, rewards = self.chain(policy)
        if gamma == 1:
            return _undiscounted(matrix, rewards)
        return torch.linalg.solve(torch.eye(len(rewards), dtype=torch.float64) - gamma * matrix, rewards)

    def action_values(self, policy: Tensor, gamma: float) -> Tensor:
        """Q^pi(s, a) = E[r + gamma V^pi(s')], (S, A)."""
        return self.backup(self.values(policy, gamma), gamma)

    def visitation(self, policy: Tensor, gamma: float) -> Tensor:
        """d = (I - gamma P_pi^T)^-1 start, (S,): the expected discounted number of visits in an episode.

        The return is J = sum_s d(s) r_pi(s), and (1 - gamma) d is a distribution where nothing terminates.
        """
        matrix, _ = self.chain(policy)
        return torch.linalg.solve(torch.eye(len(matrix), dtype=torch.float64) - gamma * matrix.T, self.start)

    def expected_return(self, policy: Tensor, gamma: float = 1.0, limit: int | None = None) -> float:
        """J = E[sum_t gamma^t r_t] from the distribution of first states: exact, nothing is sampled.

        Args:
            limit: steps after which an episode is truncated, as a time limit does; without one all are waited for.

        Returns:
            The return; not finite if without a limit some episode may never end and gamma is 1.
        """
        if limit is None:
            values = self.values(policy, gamma)
            return float(values[self.start > 0] @ self.start[self.start > 0])
        goes_on, rewards = policy[..., None] * self._goes_on(), self._expected_rewards(policy)
        some = goes_on > 0
        weights, to, since = goes_on[some], self.next_states[some], some.nonzero()[:, 0]
        left, total, discount = self.start, 0.0, 1.0
        for _ in range(limit):  # `left` is where episodes that have not ended are
            total += discount * float(left @ rewards)
            left = torch.zeros_like(left).index_add(0, to, weights * left[since])
            discount *= gamma
            if discount * float(left.sum()) < 1e-15:
                break
        return total

    def _goes_on(self) -> Tensor:
        """(S, A, K), the probabilities of the outcomes that do not terminate."""
        return torch.where(self.terminated, 0.0, self.probabilities)

    def _expected_rewards(self, policy: Tensor) -> Tensor:
        return (policy[..., None] * self.probabilities * self.rewards).sum((1, 2))

    def exploring(self, epsilon: float) -> "MDP":
        """The process in which, with probability epsilon, any action stands for one drawn from all alike.

        Its optimum is the best epsilon-greedy policy of this one: what SARSA tends to at a fixed epsilon.
        """
        states, actions, outcomes = self.probabilities.shape
        share = (1 - epsilon) * torch.eye(actions, dtype=torch.float64) + epsilon / actions  # (given, taken)
        probabilities = share[None, :, :, None] * self.probabilities[:, None]

        def repeated(x: Tensor) -> Tensor:
            return x[:, None].expand(states, actions, actions, outcomes).flatten(2)

        return MDP(
            probabilities.flatten(2),
            repeated(self.next_states),
            repeated(self.rewards),
            repeated(self.terminated),
            self.start,
        )

    def shaped(self, potential: Tensor, gamma: float, terminal: float = 0.0) -> "MDP":
        """The process with rewards r + gamma Phi(s') - Phi(s).

        Args:
            potential: (S,), Phi.
            terminal: Phi after the end. Other values than 0 change which policies are optimal.

        References:
            Ng, Harada and Russell 1999, theorem 1; 004_2b20c020fc470ac5.txt, section 4.5.2.
        """
        after = torch.where(self.terminated, terminal, potential[self.next_states])
        return self._replace(rewards=self.rewards + gamma * after - potential[:, None, None])


def greedy(q: Tensor) -> Tensor:
    """pi(a | s) = 1 for the first a of largest Q(s, a): (S, A) -> (S, A) float64."""
    return torch.nn.functional.one_hot(q.argmax(1), q.shape[1]).double()


def epsilon_greedy(q: Tensor, epsilon: float) -> Tensor:
    """pi(a | s) = (1 - epsilon) / |best| for the best actions + epsilon / A: (S, A) -> (S, A) float64.

    Ties are broken at random, as they are while a table learns; `greedy` takes the first of them.
    """
    best = (q == q.amax(1, keepdim=True)).double()
    return (1 - epsilon) * best / best.sum(1, keepdim=True) + epsilon / q.shape[1]


def improve(q: Tensor, actions: Tensor, tolerance: float = 1e-9) -> Tensor:
    """The greedy actions (S,), where the present ones are kept if none is better by more than `tolerance`.

    Without that, rounding would swap actions of equal value, and policy iteration might never end.
    """
    present = q.gather(1, actions[:, None])[:, 0]
    return torch.where(q.amax(1) > present + tolerance, q.argmax(1), actions)


def value_iteration(mdp: MDP, gamma: float, tolerance: float = 1e-12) -> tuple[Tensor, int]:
    """Q <- E[r + gamma max_a' Q(s', a')] from Q = 0 until no max_a Q(s, a) changes by `tolerance`: Q and the sweeps.

    The error falls by gamma a sweep, so it ends only for gamma < 1, or where every optimal policy terminates.

    References:
        001_7af9247201bdf7d9.txt, section 7.1.
    """
    values, sweeps, change = torch.zeros_like(mdp.start), 0, float("inf")
    while change >= tolerance:
        q = mdp.backup(values, gamma)
        change, values, sweeps = float((q.amax(1) - values).abs().max()), q.amax(1), sweeps + 1
    return q, sweeps


def policy_iteration(mdp: MDP, gamma: float, actions: Tensor | None = None) -> tuple[Tensor, Tensor, int]:
    """Evaluates a policy by a linear solve and makes it greedy, until it stays: its Q, its actions (S,), the rounds.

    The last round, which only confirms the policy, is counted. It begins with action 0 in all states by default.

    References:
        001_7af9247201bdf7d9.txt, section 7.1.
    """
    shape = mdp.probabilities.shape[:2]
    actions = torch.zeros(shape[0], dtype=torch.int64) if actions is None else actions
    rounds = 0
    while True:
        rounds += 1
        q = mdp.action_values(torch.nn.functional.one_hot(actions, shape[1]).double(), gamma)
        better = improve(q, actions)
        if torch.equal(better, actions):
            return q, actions, rounds
        actions = better


def _undiscounted(matrix: Tensor, rewards: Tensor) -> Tensor:
    """V = sum_t P^t r where every path ends, NaN where it may go on forever.

    I - P has no inverse if a set of states is never left. Such states are left out, with all that may lead to them.
    """
    edges = matrix > 0
    ends = matrix.sum(1) < 1 - 1e-12  # may terminate in this step
    while not torch.equal(ends, wider := ends | (edges & ends).any(1)):
        ends = wider  # may terminate at all
    endless = ~ends
    while not torch.equal(endless, wider := endless | (edges & endless).any(1)):
        endless = wider  # may come to where nothing terminates
    values, finite = torch.full_like(rewards, float("nan")), (~endless).nonzero()[:, 0]
    inner = torch.eye(len(finite), dtype=torch.float64) - matrix[finite][:, finite]
    values[finite] = torch.linalg.solve(inner, rewards[finite])
    return values
