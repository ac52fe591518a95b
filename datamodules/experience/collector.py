"""Collects rollouts of a policy in vector environments."""

from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from datamodules.experience.environments import check_finite, encoder
from zoo.errors import UserError
from zoo.rl.types import Rollout


class Collector:
    """Collects rollouts of `steps` vector steps, with one batched action each, into preallocated arrays.

    Episodes continue from one rollout to the next. The step after the end of an episode only resets its environment.
    That row is no transition: `Rollout.valid` marks it, and it is not counted.

    Args:
        envs: vector environments that reset on the step after the end of an episode.
        steps: T.
    """

    def __init__(self, envs: VectorEnv, steps: int) -> None:
        self.envs, self.steps = envs, steps
        rows = (steps, envs.num_envs)
        self._encode = encoder(envs.single_observation_space)
        self._observations: np.ndarray[Any, Any] = np.zeros(0)  # made at the first reset, which shows its shape
        self._rewards = np.zeros(rows, np.float32)
        self._terminated, self._truncated, self._valid = (np.zeros(rows, bool) for _ in range(3))
        self._returns, self._lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs, np.int64)
        self._vector_steps = 0

    def reset(self, seed: int) -> None:
        """Starts a new episode in every environment; environment i is seeded with seed + i."""
        first, _ = self.envs.reset(seed=seed)
        self._last = self._encode(first)
        if not self._observations.size:
            self._observations = np.zeros((self.steps + 1, *self._last.shape), np.float32)
        self._ended = np.zeros(self.envs.num_envs, bool)
        self._returns[:], self._lengths[:] = 0, 0

    def noise(self, policy: Any) -> torch.Tensor:
        """What `collect` draws actions by, from PyTorch's global random state."""
        drawn: torch.Tensor = policy.distribution.noise(self.steps, self.envs.num_envs).to(policy.low.device)
        return drawn

    @torch.inference_mode()
    def collect(self, policy: Any, noise: torch.Tensor | None = None) -> Rollout:
        """The next rollout of a policy, an `ActorCritic` on any device.

        Args:
            noise: of `noise`, drawn before; by default drawn here.

        Raises:
            UserError: if an environment returns a number that is not finite.
        """
        device = policy.low.device
        noise = self.noise(policy) if noise is None else noise
        observations, actions, episodes = torch.from_numpy(self._observations), [], []
        self._observations[0] = self._last
        for t in range(self.steps):
            drawn = policy.draw(observations[t].to(device), noise[t])
            actions.append(drawn)
            last, reward, terminated, truncated, info = self.envs.step(policy.to_environment(drawn).cpu().numpy())
            self._observations[t + 1], self._rewards[t] = self._encode(last), reward
            self._terminated[t], self._truncated[t], self._valid[t] = terminated, truncated, ~self._ended
            self._returns += reward
            self._lengths += self._valid[t]
            if "lost" in info:
                self._cut(t, info["lost"])
            self._ended = self._terminated[t] | self._truncated[t]
            if self._ended.any():
                episodes += [(self._returns[i], self._lengths[i]) for i in np.flatnonzero(self._ended)]
                self._returns[self._ended], self._lengths[self._ended] = 0, 0
        self._last = self._observations[-1]  # row 0 of the next rollout, which is written before it is read again
        check_finite(self._rewards, "reward", self._vector_steps)
        check_finite(self._observations[1:], "observation", self._vector_steps)
        self._vector_steps += self.steps
        return self._rollout(torch.stack(actions).cpu(), episodes)

    def _cut(self, t: int, lost: np.ndarray[Any, Any]) -> None:
        """Ends episodes before row t, whose transition was lost with its worker; nothing counts them."""
        if t:
            self._truncated[t - 1] |= lost & ~self._ended
        self._valid[t] &= ~lost
        self._returns[lost], self._lengths[lost] = 0, 0

    def collect_episodes(self, policy: Any, longest: int) -> Rollout:
        """One whole episode of every environment, after a `reset`; rows behind its end are no transitions.

        T is the length of the longest, and `steps` is how often it is asked whether all have ended.

        Raises:
            UserError: if an episode has not ended after `longest` steps.
        """
        parts: list[Rollout] = []
        over = np.zeros(self.envs.num_envs, bool)
        while not over.all():
            if len(parts) * self.steps >= longest:
                raise UserError(
                    f"data.whole_episodes needs environments that end: an episode has not ended after {longest:,} "
                    "steps; register it with max_episode_steps, or raise data.max_episode_steps"
                )
            parts.append(self.collect(policy))
            over |= (parts[-1].terminated | parts[-1].truncated).any(0).numpy()
        observations = torch.cat([*(part.observations[:-1] for part in parts), parts[-1].observations[-1:]])
        actions, rewards, terminated, truncated = (torch.cat(column) for column in [*zip(*parts, strict=True)][1:5])
        ends = terminated | truncated
        valid = (ends.cumsum(0) - ends.long()) == 0  # no end before
        steps = int(valid.sum(0).max())
        rewards = rewards * valid
        rows = [part[:steps] for part in (actions, rewards, terminated & valid, truncated & valid, valid)]
        returns, lengths = rewards.double().sum(0).float(), valid.sum(0)
        return Rollout._make((observations[: steps + 1], *rows, returns, lengths, None))

    def _rollout(self, actions: torch.Tensor, episodes: list[tuple[float, int]]) -> Rollout:
        rows = (self._rewards, self._terminated, self._truncated, self._valid)
        rewards, terminated, truncated, valid = (torch.from_numpy(row.copy()) for row in rows)
        with torch.inference_mode(False):  # what is learned from must be ordinary tensors
            return Rollout(
                torch.from_numpy(self._observations.copy()),
                actions.clone(),
                rewards,
                terminated,
                truncated,
                valid,
                torch.tensor([float(value) for value, _ in episodes]),
                torch.tensor([int(length) for _, length in episodes]),
            )
