"""Environments of teams for the tests, with PettingZoo's parallel interface or with tuples, but without a package."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np


class Counting:
    """PettingZoo's parallel interface: agent i sees (steps so far, i), and is paid its action plus i.

    The episode of seed s terminates after 1 + s % 4 steps, or is cut after three.
    """

    possible_agents = ("a", "b")
    unwrapped = SimpleNamespace(max_cycles=3)
    metadata = {"render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None, *, leave=False, continuous=False, masked=False, shapes=(2, 2), actions=(3, 3)):
        self.leave, self.continuous, self.masked, self.shapes, self.counts = leave, continuous, masked, shapes, actions
        self.closed = False

    def observation_space(self, agent):
        box = gym.spaces.Box(-9, 9, (self.shapes[self.possible_agents.index(agent)],))
        return gym.spaces.Dict({"observation": box, "action_mask": gym.spaces.MultiBinary(3)}) if self.masked else box

    def action_space(self, agent):
        count = self.counts[self.possible_agents.index(agent)]
        return gym.spaces.Box(-1, 1, (1,)) if self.continuous else gym.spaces.Discrete(count)

    def state(self):
        return np.array([self.now, self.length, 7.0])

    def reset(self, seed=None):
        self.now, self.length = 0, 1 + seed % 4
        return self._seen(), {agent: {} for agent in self.possible_agents}

    def step(self, actions):
        assert set(actions) == set(self.possible_agents)
        assert self.now < self.length, "stepped beyond its end"
        self.now += 1
        rewards = {agent: float(actions[agent] + i) for i, agent in enumerate(self.possible_agents)}
        over = dict.fromkeys(self.possible_agents, self.now == self.length and self.now <= 3)
        cut = dict.fromkeys(self.possible_agents, self.now == 3 and not over["a"])
        if self.leave:
            over["a"] = True
        return self._seen(), rewards, over, cut, {agent: {} for agent in self.possible_agents}

    def render(self):
        return np.full((8, 10, 3), 20 * self.now, np.uint8)

    def close(self):
        self.closed = True

    def _seen(self):
        seen = {}
        for i, (agent, size) in enumerate(zip(self.possible_agents, self.shapes, strict=True)):
            seen[agent] = np.array([self.now, i, *[5] * (size - 2)], np.float32)
            if self.masked:
                seen[agent] = {"observation": seen[agent], "action_mask": np.arange(3) == self.now % 3}
        return seen


class Tupled(gym.Env):
    """Gymnasium with tuples, as lbforaging: terminated at its limit, rewards in a list."""

    observation_space = gym.spaces.Tuple([gym.spaces.Box(-9, 9, (2,))] * 2)
    action_space = gym.spaces.Tuple([gym.spaces.Discrete(3)] * 2)
    _max_episode_steps = 4

    def reset(self, *, seed=None, options=None):
        self.now, self.length = 0, seed % 10
        return (np.zeros(2, np.float32),) * 2, {}

    def step(self, actions):
        self.now += 1
        over = self.now in (self.length, self._max_episode_steps)
        return (np.full(2, self.now, np.float32),) * 2, [0.5, 0.5], over, False, {}
