"""Experience as data: rollouts of the policy in training, collected while it learns."""

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import lightning as L
import numpy as np
import torch

from datamodules.experience.ahead import Actor
from datamodules.experience.collector import Collector
from datamodules.experience.environments import Arguments, check_environment, make, spaces_of
from datamodules.experience.episodes import MAX_STEPS, play
from datamodules.experience.vector import VECTORIZATIONS, close_vector, make_vector
from zoo.errors import UserError
from zoo.rl.types import Episodes, Rollout, Spaces

VALIDATION_SEED = 1000  # of the first validation episode; 0 to 99 are reserved for the final evaluation
TEST_EPISODES = 100


class Experience(L.LightningDataModule):
    """Rollouts of the module in training, from `num_envs` copies of an environment.

    A training batch is an iterable of `zoo.rl.types.Rollout`, each collected with the current policy when it is
    requested. A validation batch is the `Episodes` that the policy plays without exploration. Needs a module with
    `model`, a policy, and `env_steps`, a count.

    Args:
        environment: an id of Gymnasium's registry.
        total_env_steps: transitions in the whole run, over all processes.
        num_envs: copies in each process.
        rollout_steps: vector steps in a rollout.
        whole_episodes: whether a rollout is one whole episode of every environment, of any length; then `rollout_steps`
            is how often it is asked whether all have ended, and what others do meanwhile is not counted.
        ahead: 1 to play the next rollout in a thread while one is learned from, by the policy of before that; 0 for by
            turns.
        rollouts_per_batch: rollouts in a training batch, whose metrics are averaged and logged once; by default one, or
            if that has fewer than 256 transitions, enough for 1,000.
        vectorization: "sync", "async" (a process each), "native" (where the environment has it), "envpool" or "ray" (an
            actor each, on this machine or on the cluster of the environment variable RAY_ADDRESS).
        environment_arguments: of the environment's constructor; numbers, true or false.
        seed: of the environments; by default that of the run. Each process and each reset derives its own from it.
        validation_episodes: episodes of a validation, from fixed seeds; 0 for none, for a simulator that allows only
            one instance.
        max_episode_steps: of a validation episode, or a whole one in training; a longer one is an error.
    """

    provides = ("spaces", "total_env_steps")

    def __init__(
        self,
        environment: str,
        total_env_steps: int = 100_000,
        num_envs: int = 8,
        rollout_steps: int = 128,
        vectorization: str = "sync",
        environment_arguments: Arguments | None = None,
        seed: int | None = None,
        validation_episodes: int = 10,
        rollouts_per_batch: int | None = None,
        max_episode_steps: int = MAX_STEPS,
        whole_episodes: bool = False,
        ahead: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        rows = max(1, num_envs * rollout_steps)
        rollouts = (
            (-(-1000 // rows) if rows < 256 and not whole_episodes else 1)
            if rollouts_per_batch is None
            else rollouts_per_batch
        )
        least = {"total_env_steps": total_env_steps, "num_envs": num_envs, "rollout_steps": rollout_steps}
        least |= {"rollouts_per_batch": rollouts}
        for option, value in (least | {"max_episode_steps": max_episode_steps}).items():
            if value < 1:
                raise UserError(f"data.{option} must be at least 1, got {value}")
        if validation_episodes < 0:
            raise UserError(f"data.validation_episodes must be at least 0, got {validation_episodes}")
        if ahead not in (0, 1):
            raise UserError(f"data.ahead must be 0 or 1, got {ahead}")
        if whole_episodes and vectorization == "ray":  # the episode of a worker that dies is cut
            raise UserError("data.whole_episodes loses none: set data.vectorization to sync, async, native or envpool")
        if ahead and whole_episodes:
            raise UserError("data.ahead 1 plays rollouts of one length: set data.whole_episodes false")
        if vectorization not in VECTORIZATIONS:
            raise UserError(f"data.vectorization must be one of {', '.join(VECTORIZATIONS)}, got {vectorization!r}")
        self.environment, self.environment_arguments = environment, environment_arguments
        self.total_env_steps, self.num_envs, self.rollout_steps = total_env_steps, num_envs, rollout_steps
        self.vectorization, self.validation_episodes = vectorization, validation_episodes
        self.rollouts_per_batch, self.ahead = rollouts, ahead
        self.seed = torch.initial_seed() % 2**31 if seed is None else seed
        self.max_episode_steps, self.whole_episodes = max_episode_steps, whole_episodes
        env = self.make()
        try:
            self.spaces: Spaces = spaces_of(environment, env.observation_space, env.action_space)
            check_environment(environment, env)
        finally:
            env.close()
        self.loader: RolloutLoader | None = None

    def make(self) -> Any:
        """A new single environment."""
        return make(self.environment, self.environment_arguments)

    def train_dataloader(self) -> "RolloutLoader":
        self.close()
        self.warn_without_limit()
        self.loader = RolloutLoader(self)
        return self.loader

    def warn_without_limit(self) -> None:
        """Warns if an episode may never end, for lack of a time limit."""
        if gym.spec(self.environment).max_episode_steps is None:
            warnings.warn(
                f"{self.environment} is registered without max_episode_steps: an episode may never end, and in "
                f"validation it is an error after {self.max_episode_steps:,} steps",
                stacklevel=2,
            )

    def val_dataloader(self) -> "EpisodeLoader | list[Any]":
        if not self.validation_episodes:
            return []
        return EpisodeLoader(self, range(VALIDATION_SEED, VALIDATION_SEED + self.validation_episodes))

    def test_dataloader(self) -> "EpisodeLoader":
        return EpisodeLoader(self, range(TEST_EPISODES))

    def teardown(self, stage: str) -> None:
        self.close()

    def on_exception(self, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """Closes the training environments, and their processes."""
        if self.loader is not None:
            self.loader.close()
            self.loader = None


class RolloutLoader:
    """Collects each rollout when it is requested, with the current weights.

    It has a length, so that Lightning requests the next batch only after it has trained on the last. The length is the
    largest number of rollouts that `total_env_steps` can need, where every other row resets an environment; the run
    stops earlier.
    """

    def __init__(self, data: Experience) -> None:
        trainer = data.trainer
        assert trainer is not None
        self.data = data
        self.module: Any = trainer.lightning_module
        self.rank, self.world_size = trainer.global_rank, trainer.world_size
        envs = make_vector(
            data.environment, data.num_envs, data.vectorization, data.environment_arguments, self._reset_seed()
        )
        self.collector = Collector(envs, data.rollout_steps)
        self.actor = Actor(self.collector)
        self.rollouts = 0

    def __iter__(self) -> Iterator["Rollouts"]:
        self.reset()
        while self.rollouts < len(self):
            yield Rollouts(self, self.data.rollouts_per_batch)

    def __len__(self) -> int:
        count = self.data.num_envs * self.world_size
        if self.data.whole_episodes:  # of one step at least
            return -(-self.data.total_env_steps // count)
        return 2 * -(-self.data.total_env_steps // (count * self.data.rollout_steps))

    def collect(self) -> Rollout:
        """The next rollout, on the device of the policy."""
        self.rollouts += 1
        device = self.module.device
        if self.data.ahead:
            return _on(device, self.actor.next(self.module.model))
        with torch.autocast(device.type, enabled=False):  # the policy acts in full precision
            if self.data.whole_episodes:
                self.reset()
                rollout = self.collector.collect_episodes(self.module.model, self.data.max_episode_steps)
            else:
                rollout = self.collector.collect(self.module.model)
        return _on(device, rollout)

    def reset(self) -> None:
        """Starts new episodes, from seeds that depend only on the run's seed, the process and the steps so far."""
        self.actor.forget()
        self.collector.reset(self._reset_seed())

    def close(self) -> None:
        """Closes the environments, once nothing plays in them."""
        self.actor.forget()
        close_vector(self.collector.envs)

    def state_dict(self) -> dict[str, Any]:
        """What Lightning saves in the checkpoint. Environments cannot be saved: a resumed run resets them."""
        return {"rollouts": self.rollouts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rollouts = state["rollouts"]

    def _reset_seed(self) -> int:
        sequence = np.random.SeedSequence([self.data.seed, self.rank, int(self.module.env_steps)])
        return int(sequence.generate_state(1)[0]) >> 1


def _on(device: torch.device, rollout: Rollout) -> Rollout:
    return Rollout._make(None if part is None else part.to(device) for part in rollout)


class Rollouts:
    """Up to `count` rollouts of a training batch, fewer if `total_env_steps` is reached first."""

    def __init__(self, loader: RolloutLoader, count: int) -> None:
        self.loader, self.count = loader, count

    def __iter__(self) -> Iterator[Rollout]:
        for k in range(self.count):
            if k and self.loader.module.env_steps >= self.loader.data.total_env_steps:
                return
            yield self.loader.collect()


class EpisodeLoader:
    """Plays one episode from each seed, without exploration, as a single batch."""

    def __init__(self, data: Experience, seeds: range) -> None:
        self.data, self.seeds = data, seeds

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Episodes]:
        assert self.data.trainer is not None
        policy: Any = self.data.trainer.lightning_module.model
        option = "data.max_episode_steps"
        yield play(policy, self.data.make, self.seeds, max_steps=self.data.max_episode_steps, option=option)
