"""Steps through an MDP, one at a time, as an environment takes them."""

import random
from typing import Protocol

from zoo.rl.tabular.mdp import MDP

Step = tuple[int, float, bool, bool]  # next state, reward, terminated, truncated


class World(Protocol):
    """What a table learns from: `reset` and `step` with plain numbers. After an end `reset` must be called."""

    def reset(self) -> int: ...

    def step(self, action: int) -> Step: ...


class Simulator:
    """Draws from the arrays of an MDP, truncated after `limit` steps.

    The arrays become lists: Python reads a single number of a list thirty times as fast as of a tensor.

    Args:
        mdp: the model. limit: steps of an episode. seed: of the outcomes.
    """

    def __init__(self, mdp: MDP, limit: int, seed: int) -> None:
        self.limit, self._state, self._steps = limit, 0, 0
        self._random = random.Random(seed).random
        self._outcomes = _outcomes(mdp)
        first = mdp.start.nonzero()[:, 0]
        self._start = [*zip(mdp.start[first].cumsum(0).tolist(), first.tolist(), strict=True)]

    def reset(self) -> int:
        drawn = self._random() * self._start[-1][0]  # the last sum may round to less than 1
        self._state = next(state for below, state in self._start if drawn < below)
        self._steps = 0
        return self._state

    def step(self, action: int) -> Step:
        outcomes = self._outcomes[self._state][action]
        k = 0
        if len(outcomes) > 1:
            drawn = self._random() * outcomes[-1][0]
            while drawn >= outcomes[k][0]:
                k += 1
        _, self._state, reward, terminated = outcomes[k]
        self._steps += 1
        return self._state, reward, terminated, self._steps >= self.limit and not terminated


def _outcomes(mdp: MDP) -> list[list[list[tuple[float, int, float, bool]]]]:
    """[s][a] -> the possible outcomes: (sum of probabilities up to it, next state, reward, terminated)."""
    parts = (mdp.probabilities, mdp.next_states, mdp.rewards, mdp.terminated)
    listed: list[list[list[tuple[float, int, float, bool]]]] = []
    for state in zip(*(part.tolist() for part in parts), strict=True):
        row = []
        for action in zip(*state, strict=True):
            below, outcomes = 0.0, []
            for probability, next_state, reward, terminated in zip(*action, strict=True):
                below += probability
                if probability > 0:
                    outcomes.append((below, next_state, reward, terminated))
            row.append(outcomes)
        listed.append(row)
    return listed
