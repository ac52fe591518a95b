"""Environment steps a second of environments that wait, in one process, in worker processes and in Ray actors.

    python -m benchmarks.actors [--milliseconds 5] [--rounds 5]

An environment sleeps as a slow simulator or a robot would, so that the cores are free: what is measured is how well
steps overlap, and what the way to a worker and back costs. The ways take turns; medians are over rounds.
"""

import argparse
import statistics
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from benchmarks.clock import alternate, machine, table
from datamodules.experience.vector import close_vector, make_vector

COUNTS, STEPS = (1, 2, 4, 8), 40
NAME = "benchmark-waiting-v0"


class Waiting(gym.Env[Any, Any]):
    """Sleeps for some milliseconds a step; its episodes do not end."""

    observation_space, action_space = Box(-1.0, 1.0, (4,), np.float32), Discrete(2)

    def __init__(self, milliseconds: float = 5.0) -> None:
        self.seconds = milliseconds / 1e3

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return np.zeros(4, np.float32), {}

    def step(self, action: int) -> Any:
        time.sleep(self.seconds)
        return np.zeros(4, np.float32), 0.0, False, False, {}


def register() -> None:
    gym.register(NAME, "benchmarks.actors:Waiting", disable_env_checker=True, order_enforce=False)


def measure(count: int, milliseconds: float, rounds: int, ways: tuple[str, ...]) -> dict[str, list[float]]:
    """Seconds a vector step of each way in each round."""
    made = {way: make_vector(NAME, count, way, {"milliseconds": milliseconds}) for way in ways}
    actions = np.zeros(count, np.int64)
    try:
        for envs in made.values():
            envs.reset(seed=0)
            envs.step(actions)
        return alternate({way: lambda e=envs: e.step(actions) for way, envs in made.items()}, rounds, STEPS)
    finally:
        for envs in made.values():
            close_vector(envs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--milliseconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", default=["sync", "async", "ray"])
    args = parser.parse_args()
    register()
    print(machine())
    rows = []
    for count in COUNTS:
        times = measure(count, args.milliseconds, args.rounds, tuple(args.ways))
        rates = [[count / seconds for seconds in times[way]] for way in args.ways]
        rows.append([count, *(f"{statistics.median(r):.0f} ({min(r):.0f} to {max(r):.0f})" for r in rates)])
    table(f"Environment steps a second, {args.milliseconds:g} ms a step", ["environments", *args.ways], rows)


if __name__ == "__main__":
    main()
