"""Replay: collects transitions, stores them in a ring buffer, and samples minibatches from it."""

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from datamodules.experience.environments import check_finite, encoder
from zoo.errors import UserError, one_line
from zoo.rl.off_policy.priorities import Priorities
from zoo.rl.shaping import shaping

NOISE_STEPS = 128  # of exploration noise drawn at a time


class ReplayBuffer:
    """The last `capacity` rows, in one preallocated matrix: a sample of any size is one gather.

    Args:
        capacity, width: of the matrix. device: of the matrix and of samples.
        priorities: by which rows are drawn; the buffer tells them which rows are new.

    Raises:
        UserError: if the device has less free memory, before any is allocated.
    """

    def __init__(
        self,
        capacity: int,
        width: int,
        device: torch.device | str = "cpu",
        priorities: Priorities | None = None,
    ) -> None:
        device = torch.device(device)
        needed, there = 4 * capacity * width, free_memory(device)
        if needed > there:
            raise UserError(
                f"a replay buffer of {capacity:,} rows of {width} numbers takes {needed / 1e9:,.1f} GB, but {device} "
                f"has {there / 1e9:,.1f} GB free: set data.capacity to at most {there // (4 * width):,}"
            )
        self.rows = torch.empty(capacity, width, device=device)
        self.size = self.position = 0
        self.priorities = priorities

    def add(self, rows: np.ndarray[Any, Any]) -> None:
        """Adds rows (n, width); a full buffer overwrites the oldest."""
        for start in range(0, len(rows), len(self.rows)):
            self._add(torch.from_numpy(rows[start : start + len(self.rows)]))

    def _add(self, rows: Tensor) -> None:
        capacity, first = len(self.rows), min(len(rows), len(self.rows) - self.position)
        self.rows[self.position : self.position + first] = rows[:first].to(self.rows.device)
        self.rows[: len(rows) - first] = rows[first:].to(self.rows.device)
        if self.priorities is not None and len(rows):
            self.priorities.add((self.position + torch.arange(len(rows))) % capacity)
        self.position = (self.position + len(rows)) % capacity
        self.size = min(self.size + len(rows), capacity)

    def sample(self, count: int) -> Tensor:
        """(count, width), rows drawn uniformly with replacement, by PyTorch's global random state."""
        return self.rows[torch.randint(self.size, (count,), device=self.rows.device)]

    def state(self) -> dict[str, Any]:
        """What `restore` takes; the rows share memory with the buffer."""
        # from NumPy: PyTorch would save the whole matrix behind a part of it
        rows = torch.from_numpy(self.rows.cpu().numpy()[: self.size])
        state = {"rows": rows, "size": self.size, "position": self.position, "capacity": len(self.rows)}
        return state if self.priorities is None else state | {"priorities": self.priorities.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the exact buffer; the rows of the state may be a memory-mapped file.

        From a buffer of another capacity it takes the newest rows that fit, with new priorities.
        """
        rows, position = state["rows"], state["position"]
        if state["capacity"] != len(self.rows):
            if state["size"] == state["capacity"]:  # the oldest row was next to be overwritten
                rows = rows.roll(-position, 0)
            rows = rows[-len(self.rows) :]
            position = len(rows) % len(self.rows)
        self.size, self.position = len(rows), position
        self.rows[: self.size] = rows
        if self.priorities is not None:
            if state["capacity"] == len(self.rows):
                self.priorities.restore(state["priorities"])
            else:
                self.priorities.add(torch.arange(self.size))


def free_memory(device: torch.device) -> int:
    """Free bytes on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux: all memory of the machine
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values atomically, without a copy in memory."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote, with memory-mapped tensors.

    Raises:
        UserError: if the file is absent or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}, the replay buffer of this checkpoint, does not exist: resume from a later checkpoint")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises a dozen different exceptions for damaged files
        raise UserError(f"{path} is not a whole replay buffer: {one_line(str(error))}") from None
    return state


def save_beside(data: Any, folder: Path) -> None:
    """With `save_replay`, writes the replay of each process into the folder of a checkpoint about to be saved."""
    if data.save_replay and data.loader is not None:
        data.loader.write(folder)


def saved_beside(data: Any, folder: Path) -> None:
    """Removes older replays, once the checkpoint of the newest one is saved."""
    if data.save_replay and data.loader is not None:
        for path in folder.glob("replay-*.pt"):
            if not path.name.startswith(f"{data.loader.file}-"):
                path.unlink(missing_ok=True)


class TransitionCollector:
    """Transitions of vector environments as packed rows (`zoo.rl.types.Transitions`), of n steps each.

    The row of step t has r_t + gamma r_{t+1} + ... over n steps, or fewer if the episode ends earlier, and the true
    observation after them. A step that only resets an environment adds no row. `reset` drops the rows that still wait
    for their n-th step.

    Args:
        envs: vector environments that reset on the step after the end of an episode. gamma: discount. n_step: n.
        hold: steps for which a random action is repeated.
        scale: of rewards in rows. potential: that shapes them first. Returns of episodes are unscaled and unshaped.
    """

    def __init__(
        self,
        envs: VectorEnv,
        gamma: float,
        n_step: int = 1,
        hold: int = 1,
        scale: float = 1.0,
        potential: Callable[[Any], Any] | None = None,
    ) -> None:
        self.envs, self.gamma, self.n_step, self.hold, self.scale = envs, gamma, n_step, hold, scale
        self.potential = potential
        self._encode = encoder(envs.single_observation_space)
        self._held: Tensor | None = None
        self._waiting: list[deque[list[Any]]] = [deque() for _ in range(envs.num_envs)]
        self._returns, self._lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs, np.int64)
        self._noise: list[Tensor] = []
        self._vector_steps = 0
        self.episodes: list[tuple[float, int]] = []  # returns and lengths of finished episodes

    def reset(self, policy: Any, seed: int) -> None:
        """Starts new episodes, seeding environment i with seed + i, and new exploration noise."""
        first, _ = self.envs.reset(seed=seed)
        self._last = np.array(self._encode(first))
        self._ended = np.zeros(self.envs.num_envs, bool)
        self._returns[:], self._lengths[:] = 0, 0
        self._noise.clear()
        for waiting in self._waiting:
            waiting.clear()
        if begin := getattr(policy.distribution, "begin", None):
            begin()

    @torch.inference_mode()
    def collect(self, policy: Any, count: int, random: bool = False) -> tuple[np.ndarray[Any, Any], int]:
        """Steps until there are at least `count` new transitions; returns finished rows (n, width), and their number.

        Args:
            policy: an `Actor`. random: whether actions are drawn uniformly from the action space instead.

        Raises:
            UserError: if an environment returns a number that is not finite.
        """
        rows: list[np.ndarray[Any, Any]] = []
        seen, device = 0, policy.low.device
        while seen < count:
            now = self._last
            drawn = self._draw(policy, torch.from_numpy(now).to(device), random)
            last, rewards, terminated, truncated, info = self.envs.step(policy.to_environment(drawn).cpu().numpy())
            if "lost" in info:
                rows += self._cut(info["lost"])
            self._last = np.array(self._encode(last))  # a copy: the environments reuse their array
            check_finite(np.asarray(rewards)[None], "reward", self._vector_steps)
            check_finite(self._last[None], "observation", self._vector_steps)
            actions, going, learned = drawn.cpu().numpy(), np.flatnonzero(~self._ended), rewards
            if self.potential is not None:
                learned = rewards + shaping(self.potential, now, self._last, terminated, self.gamma)
            for i in going.tolist():
                self._waiting[i].append([now[i].ravel(), actions[i], 0.0, 1.0])
                rows += self._advance(i, self.scale * float(learned[i]), bool(terminated[i]), bool(truncated[i]))
            self._count(rewards, going, terminated | truncated)
            seen += len(going)
            self._vector_steps += 1
        width = 2 * self._last[0].size + drawn.shape[1] + 2
        return np.array(rows, np.float32).reshape(-1, width), seen

    def _cut(self, lost: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        """Ends episodes before a transition that was lost with its worker; their rows that still wait."""
        rows = []
        for i in np.flatnonzero(lost).tolist():
            rows += self._finish(i, len(self._waiting[i]), terminated=False)
        self._returns[lost], self._lengths[lost] = 0, 0
        self._ended |= lost  # this step resets them
        return rows

    def _draw(self, policy: Any, observations: Tensor, random: bool) -> Tensor:
        if random:
            if self._held is None or self._vector_steps % self.hold == 0:
                self._held = self._uniform(policy).to(observations.device)
            return self._held
        if not self._noise:
            noise = policy.distribution.noise(NOISE_STEPS, self.envs.num_envs).to(observations.device)
            self._noise = [*noise.flip(0)]
        return policy.draw(observations, self._noise.pop())

    def _uniform(self, policy: Any) -> Tensor:
        if policy.num_actions:
            return torch.randint(policy.num_actions[0], (self.envs.num_envs, 1)).float()
        return torch.rand(self.envs.num_envs, len(policy.low)) * 2 - 1

    def _advance(self, i: int, reward: float, terminated: bool, truncated: bool) -> list[np.ndarray[Any, Any]]:
        """Adds a reward to the waiting rows of environment i; returns those that are finished."""
        waiting = self._waiting[i]
        for row in waiting:
            row[2] += row[3] * reward
            row[3] *= self.gamma
        whole = len(waiting) if terminated or truncated else int(len(waiting) == self.n_step)
        return self._finish(i, whole, terminated)

    def _finish(self, i: int, count: int, terminated: bool) -> list[np.ndarray[Any, Any]]:
        """The first waiting rows of environment i, which the last observation follows."""
        next_observation, left = self._last[i].ravel(), 0.0 if terminated else 1.0
        done = (self._waiting[i].popleft() for _ in range(count))
        return [np.concatenate([row[0], row[1], (row[2], left * row[3]), next_observation]) for row in done]

    def _count(self, rewards: Any, going: np.ndarray[Any, Any], ended: np.ndarray[Any, Any]) -> None:
        self._returns += rewards
        self._lengths[going] += 1
        self._ended = np.asarray(ended).copy()
        if self._ended.any():
            self.episodes += [(float(self._returns[i]), int(self._lengths[i])) for i in np.flatnonzero(self._ended)]
            self._returns[self._ended], self._lengths[self._ended] = 0, 0
