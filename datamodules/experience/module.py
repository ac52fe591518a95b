"""Experience as data: what a policy meets in its environments, collected while it learns."""

from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import torch

from datamodules.experience.collector import Collector, play
from datamodules.experience.environments import VECTORIZATIONS, Arguments, Sizes, make, make_vector, sizes
from zoo.errors import UserError
from zoo.rl.types import Episodes, Rollout

VALIDATION_SEED = 1000  # of the first validation episode; 0 to 99 are for the final evaluation alone
TEST_EPISODES = 100


class Experience(L.LightningDataModule):
    """Rollouts of the module in training, from `num_envs` copies of an environment.

    A training batch is a `zoo.rl.types.Rollout` of the policy as it is then, a validation batch the `Episodes` that it
    plays without exploring. Needs a module with `model`, a policy, and `env_steps`, a count.

    Args:
        environment: an id of Gymnasium's registry.
        total_env_steps: transitions in the whole run, over all processes.
        num_envs: copies in each process.
        rollout_steps: vector steps in a rollout.
        vectorization: "sync", "async" (a process each), "native" (where the environment has it) or "envpool".
        environment_arguments: of the environment's constructor; numbers, true or false.
        seed: of the environments; by default that of the run. Each process and each reset has its own.
        validation_episodes: episodes of a validation, from fixed seeds.
    """

    provides = ("observation_shape", "num_actions", "action_low", "action_high", "total_env_steps")

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
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        least = {"total_env_steps": total_env_steps, "num_envs": num_envs, "rollout_steps": rollout_steps}
        for option, value in (least | {"validation_episodes": validation_episodes}).items():
            if value < 1:
                raise UserError(f"data.{option} must be at least 1, got {value}")
        if vectorization not in VECTORIZATIONS:
            raise UserError(f"data.vectorization must be one of {', '.join(VECTORIZATIONS)}, got {vectorization!r}")
        self.environment, self.environment_arguments = environment, environment_arguments
        self.total_env_steps, self.num_envs, self.rollout_steps = total_env_steps, num_envs, rollout_steps
        self.vectorization, self.validation_episodes = vectorization, validation_episodes
        self.seed = torch.initial_seed() % 2**31 if seed is None else seed
        env = self.make()
        self.sizes: Sizes = sizes(environment, env.observation_space, env.action_space)
        env.close()
        # the sizes that a policy takes from its data
        self.observation_shape, self.num_actions, self.action_low, self.action_high = self.sizes
        self.loader: RolloutLoader | None = None

    def make(self) -> Any:
        """A new single environment."""
        return make(self.environment, self.environment_arguments)

    def train_dataloader(self) -> "RolloutLoader":
        self.close()
        self.loader = RolloutLoader(self)
        return self.loader

    def val_dataloader(self) -> "EpisodeLoader":
        return EpisodeLoader(self, range(VALIDATION_SEED, VALIDATION_SEED + self.validation_episodes))

    def test_dataloader(self) -> "EpisodeLoader":
        return EpisodeLoader(self, range(TEST_EPISODES))

    def teardown(self, stage: str) -> None:
        self.close()

    def close(self) -> None:
        """Ends the training environments, and their processes."""
        if self.loader is not None:
            self.loader.collector.envs.close()
            self.loader = None


class RolloutLoader:
    """Collects a rollout with the weights of the moment, each time one is asked for.

    It has a length, so that Lightning asks for the next one only when the last has been learned from. The length is the
    most that `total_env_steps` can take, if every other row reset an environment; the module stops the run before.
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
        self.rollouts = 0

    def __len__(self) -> int:
        return 2 * -(-self.data.total_env_steps // (self.data.num_envs * self.data.rollout_steps * self.world_size))

    def __iter__(self) -> Iterator[Rollout]:
        self.reset()
        while self.rollouts < len(self):
            self.rollouts += 1
            yield self.collector.collect(self.module.model)

    def reset(self) -> None:
        """Begins new episodes, from seeds that depend on the seed, the process and the steps so far alone."""
        self.collector.reset(self._reset_seed())

    def state_dict(self) -> dict[str, Any]:
        """Lightning stores it in the checkpoint. Environments cannot be stored: a resumed run resets them."""
        return {"rollouts": self.rollouts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rollouts = state["rollouts"]

    def _reset_seed(self) -> int:
        sequence = np.random.SeedSequence([self.data.seed, self.rank, int(self.module.env_steps)])
        return int(sequence.generate_state(1)[0]) >> 1


class EpisodeLoader:
    """Plays one episode from each seed, without exploring, as a single batch."""

    def __init__(self, data: Experience, seeds: range) -> None:
        self.data, self.seeds = data, seeds

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Episodes]:
        assert self.data.trainer is not None
        yield play(self.data.trainer.lightning_module.model, self.data.make, self.seeds)
