"""Environments whose right answers are known: one that counts, and probes that each need one thing more."""

import os
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, VectorEnv

ACTIONS = {
    "discrete": Discrete(2),
    "multi-discrete": MultiDiscrete([2, 3]),
    "box": Box(-1.0, 1.0, (1,), np.float32),
}


class Counting(gym.Env):
    """Observation (n, e) after n steps of episode e of this environment; ends by turns in either way; reward n."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Discrete(2)
    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, first_length=2):
        self.first_length, self.episode = first_length, -1

    def reset(self, *, seed=None, options=None):
        self.n, self.episode = 0, self.episode + 1
        return np.array([0, self.episode], np.float32), {}

    def step(self, action):
        assert 0 <= action < 2
        assert self.n < self.length, "an environment that has ended may not be stepped"
        self.n += 1
        over = self.n == self.length
        observation = np.array([self.n, self.episode], np.float32)
        return observation, float(self.n), over and self.episode % 2 == 0, over and self.episode % 2 == 1, {}

    @property
    def length(self):
        return self.first_length + self.episode % 3


class NativeCounting(VectorEnv):
    """The same as arrays, as a native vector environment would be."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    single_observation_space, single_action_space = Counting.observation_space, Counting.action_space

    def __init__(self, num_envs, first_length=2, max_episode_steps=None):
        self.num_envs, self.first_length = num_envs, first_length

    def reset(self, *, seed=None, options=None):
        self.n, self.episode = np.zeros(self.num_envs), np.zeros(self.num_envs)
        self.over = np.zeros(self.num_envs, bool)
        return self._observation(), {}

    def step(self, actions):
        self.n = np.where(self.over, 0, self.n + 1)
        self.episode += self.over
        ended = self.n == self.first_length + self.episode % 3
        self.over = ended
        rewards = self.n.copy()
        return self._observation(), rewards, ended & (self.episode % 2 == 0), ended & (self.episode % 2 == 1), {}

    def _observation(self):
        return np.stack([self.n, self.episode], 1).astype(np.float32)


class Broken(Counting):
    """Gives NaN as a reward or an observation at its fourth step."""

    def __init__(self, where="reward"):
        super().__init__(first_length=100)
        self.where = where

    def step(self, action):
        observation, reward, *rest = super().step(action)
        if self.n == 4 and self.where:
            reward = np.nan
        if self.n == 4 and not self.where:
            observation[1] = np.nan
        return observation, reward, *rest


def right(actions, action):
    """1 for the one action that a probe pays for."""
    if isinstance(actions, MultiDiscrete):
        return float(np.array_equal(action, [1, 2]))
    return float(action == 1) if isinstance(actions, Discrete) else 1.0 - abs(float(action[0]) - 0.5)


class Probe(gym.Env):
    """Six small problems. `kind` is one of KINDS, as a number; `actions` one of ACTIONS, as a number.

    bandit: one step, the reward is for the action. one-step: the right action depends on the observation.
    two-step: the first action is paid for at the second step. discounting: one step of nothing, then 1: V = gamma, 1.
    action-dependent: the action decides what is seen next, and that is paid for. time-limit: reward 1 for ever, cut
    after 4 steps: V = 1 / (1 - gamma).
    """

    KINDS = ("bandit", "one-step", "two-step", "discounting", "action-dependent", "time-limit")
    observation_space = Box(-1.0, 1.0, (2,), np.float32)
    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, kind=0, actions=0):
        self.kind = self.KINDS[kind]
        self.action_space = [*ACTIONS.values()][actions]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n, self.side = 0, float(self.np_random.choice([-1.0, 1.0])) if self.kind == "one-step" else 1.0
        return self._observation(), {}

    def step(self, action):
        self.n += 1
        good = right(self.action_space, action)
        if self.kind == "bandit":
            return self._observation(), good, True, False, {}
        if self.kind == "one-step":
            if not isinstance(self.action_space, Box):
                return self._observation(), good if self.side > 0 else 1 - good, True, False, {}
            return self._observation(), 1.0 - abs(float(action[0]) - 0.5 * self.side), True, False, {}
        if self.kind == "two-step":
            self.first = good if self.n == 1 else self.first
            return self._observation(), self.first if self.n == 2 else 0.0, self.n == 2, False, {}
        if self.kind == "discounting":
            return self._observation(), float(self.n == 2), self.n == 2, False, {}
        if self.kind == "action-dependent":
            self.side, paid = (1.0 if good > 0.7 else -1.0), self.side
            return self._observation(), paid if self.n == 2 else 0.0, self.n == 2, False, {}
        return self._observation(), 1.0, False, self.n == 4, {}

    def _observation(self):
        # a time limit is not seen: the state is always the same
        return np.array([self.side, 0.0 if self.kind == "time-limit" else self.n - 1], np.float32)


class Recorded(Counting):
    """Leaves a file in the folder $RECORDED for each environment that is opened, and for each that is closed."""

    def __init__(self, fails_at=0):
        super().__init__(first_length=100)
        self.fails_at, self.steps = fails_at, 0
        self.name = f"{os.getpid()}-{id(self)}-{time.perf_counter_ns()}"
        self._leave("opened")

    def _leave(self, word):
        Path(os.environ["RECORDED"], f"{word}-{self.name}").touch()

    def step(self, action):
        self.steps += 1
        if self.fails_at and self.steps >= self.fails_at:
            raise RuntimeError("the robot fell over")
        return super().step(action)

    def close(self):
        self._leave("closed")  # once, even if a signal comes amid it and it is closed again


class Alone(gym.Env):
    """A simulator of which one instance runs at a time; it ends after as many steps as its seed says, from 0 to 4."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Discrete(2)
    running = 0

    def __init__(self):
        if Alone.running:
            raise OSError("the port is in use")
        Alone.running, self.n = 1, 0

    def reset(self, *, seed=None, options=None):
        self.n, self.seed = 0, seed
        return np.float32([seed]), {}

    def step(self, action):
        self.n += 1
        return np.float32([self.seed + self.n]), 1.0, self.n > self.seed % 5, False, {}

    def close(self):
        Alone.running = 0


class Pixels(Counting):
    """Observations in bytes."""

    observation_space = Box(0, 255, (2, 2, 1), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset()
        return np.full((2, 2, 1), 51, np.uint8), {}

    def step(self, action):
        _, *rest = super().step(action)
        return np.full((2, 2, 1), 255, np.uint8), *rest


for name, entry, native in (
    ("zoo-counting-v0", Counting, NativeCounting), ("zoo-broken-v0", Broken, None), ("zoo-probe-v0", Probe, None),
    ("zoo-recorded-v0", Recorded, None), ("zoo-alone-v0", Alone, None), ("zoo-pixels-v0", Pixels, None),
):  # fmt: skip
    if name not in gym.registry:
        gym.register(name, entry, vector_entry_point=native, max_episode_steps=1000)
