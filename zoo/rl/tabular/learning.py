"""Tables that learn from steps: Monte Carlo, TD(0), SARSA, Q-learning and double Q-learning.

Each function takes a `Learner`, a `World` and a number of steps, and reads like the algorithm box of the paper. They
are loops over plain numbers: at 4 actions a state, Python's own are faster than those of any array library.

`terminated` and `truncated` are never merged: nothing follows a terminated step, but a truncated one bootstraps.
"""

import random
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.rl.tabular.simulator import World

Rows = list[list[float]]  # [s][a]


class Learner:
    """A table that learns, its epsilon-greedy policy, and the episode that it is in.

    Args:
        q: (S, A), where the table begins. second: (S, A), the second one of double Q-learning.
        visits: (S, A), how often each entry was updated.
        gamma: discount. epsilon: of the policy; it may be changed between calls.
        step_size, step_power: the n-th update of an entry has the step step_size / n^step_power.
        seed: of actions.

    Attributes:
        episodes: (return, length) of those that ended since this list was cleared.

    References:
        001_7af9247201bdf7d9.txt, sections 7.2 to 7.4; Sutton and Barto 2018, chapters 5 and 6.
    """

    def __init__(
        self,
        q: Tensor,
        second: Tensor,
        visits: Tensor,
        *,
        gamma: float,
        epsilon: float,
        step_size: float,
        step_power: float,
        seed: int = 0,
    ) -> None:
        self.q: Rows = q.tolist()
        self.second: Rows = second.tolist()
        self.visits: list[list[int]] = visits.tolist()
        self.gamma, self.epsilon, self.step_size, self.step_power = gamma, epsilon, step_size, step_power
        self.seed(seed)
        self.episodes: list[tuple[float, int]] = []
        self.state: int | None = None  # none before an episode begins
        self.action = 0  # SARSA chooses it a step ahead
        self.path: list[tuple[int, int, float]] = []  # Monte Carlo: (s, a, r) of the episode so far
        self._return, self._length = 0.0, 0

    def seed(self, seed: int) -> None:
        """Begins the random numbers of actions anew."""
        self.random = random.Random(seed).random

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """`q`, `second` and `visits` as they are now."""
        q, second = (torch.tensor(rows, dtype=torch.float64) for rows in (self.q, self.second))
        return q, second, torch.tensor(self.visits)

    def choose(self, row: list[float]) -> int:
        """An action from Q(s, .): with probability epsilon any, else one of the best."""
        if self.random() < self.epsilon:
            return int(self.random() * len(row))
        best = max(row)
        if row.count(best) == 1:
            return row.index(best)
        ties = [a for a, value in enumerate(row) if value == best]
        return ties[int(self.random() * len(ties))]

    def move(self, row: list[float], s: int, a: int, target: float) -> None:
        """Q(s, a) <- Q(s, a) + alpha_n (target - Q(s, a)), with row = Q(s, .)."""
        visits = self.visits[s]
        visits[a] = n = visits[a] + 1
        alpha = self.step_size / n**self.step_power if self.step_power else self.step_size
        row[a] += alpha * (target - row[a])

    def follow(self, reward: float, state: int, ended: bool) -> None:
        """Goes on to the next state, or counts the episode."""
        self._return += reward
        self._length += 1
        self.state = state
        if ended:
            self.episodes.append((self._return, self._length))
            self.state, self._return, self._length = None, 0.0, 0


def q_learning(learner: Learner, world: World, steps: int) -> None:
    """Q(s, a) <- Q(s, a) + alpha (r + gamma max_a' Q(s', a') - Q(s, a)), acting epsilon-greedily.

    References:
        Watkins and Dayan 1992.
    """
    q, gamma = learner.q, learner.gamma
    for _ in range(steps):
        s = world.reset() if learner.state is None else learner.state
        a = learner.choose(q[s])
        after, r, terminated, truncated = world.step(a)
        learner.move(q[s], s, a, r if terminated else r + gamma * max(q[after]))
        learner.follow(r, after, terminated or truncated)


def sarsa(learner: Learner, world: World, steps: int) -> None:
    """Q(s, a) <- Q(s, a) + alpha (r + gamma Q(s', a') - Q(s, a)), where a' is the action that is taken next.

    References:
        Rummery and Niranjan 1994.
    """
    q, gamma = learner.q, learner.gamma
    for _ in range(steps):
        s, a = learner.state, learner.action
        if s is None:
            s = world.reset()
            a = learner.choose(q[s])
        after, r, terminated, truncated = world.step(a)
        learner.action = learner.choose(q[after])
        learner.move(q[s], s, a, r if terminated else r + gamma * q[after][learner.action])
        learner.follow(r, after, terminated or truncated)


def double_q_learning(learner: Learner, world: World, steps: int) -> None:
    """Q_A(s, a) <- Q_A(s, a) + alpha (r + gamma Q_B(s', argmax_a' Q_A(s', a')) - Q_A(s, a)), or A and B exchanged.

    A coin says which. The policy is epsilon-greedy in Q_A + Q_B. An entry's step size goes by the updates of both.

    References:
        van Hasselt 2010, algorithm 1; 004_2b20c020fc470ac5.txt, section 4.1.1.
    """
    gamma = learner.gamma
    for _ in range(steps):
        s = world.reset() if learner.state is None else learner.state
        a = learner.choose([x + y for x, y in zip(learner.q[s], learner.second[s], strict=True)])
        after, r, terminated, truncated = world.step(a)
        one, other = (learner.q, learner.second) if learner.random() < 0.5 else (learner.second, learner.q)
        best = one[after].index(max(one[after]))
        learner.move(one[s], s, a, r if terminated else r + gamma * other[after][best])
        learner.follow(r, after, terminated or truncated)


def td0(learner: Learner, world: World, steps: int) -> None:
    """V(s) <- V(s) + alpha (r + gamma V(s') - V(s)): the prediction of a policy that stays as it is.

    The policy is epsilon-greedy in `second`, which is not changed: with equal entries, one of all actions alike. V is
    column 0 of `q`.

    References:
        Sutton 1988; Sutton and Barto 2018, equation 6.2.
    """
    values, policy, gamma = learner.q, learner.second, learner.gamma
    for _ in range(steps):
        s = world.reset() if learner.state is None else learner.state
        after, r, terminated, truncated = world.step(learner.choose(policy[s]))
        learner.move(values[s], s, 0, r if terminated else r + gamma * values[after][0])
        learner.follow(r, after, terminated or truncated)


def monte_carlo(learner: Learner, world: World, steps: int, first_visit: bool = True) -> None:
    """Q(s, a) <- Q(s, a) + alpha (G_t - Q(s, a)), G_t = r_t + gamma r_{t+1} + ..., at the end of each episode.

    With steps 1 / n the entries are averages of returns. First-visit returns of one entry are independent, their
    average unbiased; every-visit ones are not. A truncated episode bootstraps: G begins with the expectation of
    Q(s_T, .) under the policy.

    References:
        001_7af9247201bdf7d9.txt, section 7.2; Sutton and Barto 2018, sections 5.1 to 5.4.
    """
    for _ in range(steps):
        s = world.reset() if learner.state is None else learner.state
        a = learner.choose(learner.q[s])
        after, r, terminated, truncated = world.step(a)
        learner.path.append((s, a, r))
        if terminated or truncated:
            row, epsilon = learner.q[after], learner.epsilon
            tail = 0.0 if terminated else (1 - epsilon) * max(row) + epsilon * sum(row) / len(row)
            _learn_returns(learner, tail, first_visit)
        learner.follow(r, after, terminated or truncated)


def monte_carlo_every_visit(learner: Learner, world: World, steps: int) -> None:
    """`monte_carlo`, from every visit of a pair."""
    monte_carlo(learner, world, steps, first_visit=False)


def _learn_returns(learner: Learner, tail: float, first_visit: bool) -> None:
    last: dict[tuple[int, int], float] = {}  # the return of the earliest visit is the last that is met going backwards
    returned = tail
    for s, a, r in reversed(learner.path):
        returned = r + learner.gamma * returned
        if first_visit:
            last[s, a] = returned
        else:
            learner.move(learner.q[s], s, a, returned)
    for (s, a), first in last.items():
        learner.move(learner.q[s], s, a, first)
    learner.path.clear()


LEARNERS: dict[str, Callable[[Learner, World, int], None]] = {
    "monte_carlo_first_visit": monte_carlo,
    "monte_carlo_every_visit": monte_carlo_every_visit,
    "td0": td0,
    "sarsa": sarsa,
    "q_learning": q_learning,
    "double_q_learning": double_q_learning,
}
