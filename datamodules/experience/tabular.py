"""Experience for tables: an environment of whole-numbered states, its model where it has one, and exact validation."""

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from datamodules.experience.environments import Arguments
from datamodules.experience.episodes import MAX_STEPS
from datamodules.experience.module import Experience
from datamodules.experience.planning import has_model, mdp_of, states_and_actions, time_limit
from zoo.errors import UserError
from zoo.rl.tabular.mdp import MDP, greedy
from zoo.rl.tabular.simulator import Simulator, Step, World
from zoo.rl.types import Episodes


class TabularExperience(Experience):
    """Steps of one environment whose states and actions are whole numbers, for `Tabular`.

    A training batch is a `Walk`: an environment that goes on where it was, and how many steps to take. Where the
    environment has a model (`env.P`), a validation is exact: the expected undiscounted return of the greedy policy
    within the time limit, and the expected length. Elsewhere episodes are played, as in `Experience`.

    Args:
        environment, environment_arguments, seed, validation_episodes: as `Experience`.
        total_env_steps: of the whole run; for planning, which takes none, the most sweeps or rounds.
        steps_per_batch: steps in a training batch, whose metrics are logged as one; 1 logs each sweep of planning.
        simulate: whether steps are drawn from the arrays of the model, some six times as fast as the environment.
        max_episode_steps: after which an episode is truncated, if the environment has no limit or a later one.
    """

    def __init__(
        self,
        environment: str,
        total_env_steps: int = 100_000,
        steps_per_batch: int = 1000,
        simulate: bool = False,
        environment_arguments: Arguments | None = None,
        seed: int | None = None,
        validation_episodes: int = 10,
        max_episode_steps: int = MAX_STEPS,
    ) -> None:
        if steps_per_batch < 1:
            raise UserError(f"data.steps_per_batch must be at least 1, got {steps_per_batch}")
        super().__init__(
            environment, total_env_steps, 1, steps_per_batch, "sync", environment_arguments, seed, validation_episodes,
            max_episode_steps=max_episode_steps,
        )  # fmt: skip
        self.steps_per_batch, self.simulate = steps_per_batch, simulate
        env = self.make()
        try:
            states_and_actions(environment, env)
            self.mdp: MDP | None = mdp_of(environment, env) if simulate or has_model(env) else None
            self.limit = min(time_limit(env) or MAX_STEPS, max_episode_steps)
        finally:
            env.close()
        self.protocol = "" if self.mdp is None else "exact"

    def train_dataloader(self) -> "WalkLoader":  # type: ignore[override]
        self.close()
        self.warn_without_limit()
        self.loader: Any = WalkLoader(self)
        return self.loader

    def val_dataloader(self) -> Any:
        return super().val_dataloader() if self.mdp is None else ExactLoader(self)

    def warn_without_limit(self) -> None:
        """An environment without a limit of steps may never end an episode."""
        if self.limit == MAX_STEPS:
            warnings.warn(
                f"{self.environment} is registered without max_episode_steps: its episodes are truncated after "
                f"{self.limit:,} steps, or fewer with data.max_episode_steps",
                stacklevel=2,
            )

    def close(self) -> None:
        if self.loader is not None:
            self.loader.close()
            self.loader = None


class Walk:
    """A training batch.

    Attributes:
        world: to `reset` and `step`. steps: to be taken.
        mdp: the model, if there is one.
    """

    def __init__(self, world: World, steps: int, mdp: MDP | None) -> None:
        self.world, self.steps, self.mdp = world, steps, mdp


class WalkLoader:
    """Knows how many steps there are and were, and owns the world that they are taken in."""

    def __init__(self, data: TabularExperience) -> None:
        _table(data)  # refuses a module of another kind
        self.data = data
        self.world: Simulator | Environment | None = None
        self.done = 0  # steps

    def __len__(self) -> int:
        return -(-self.data.total_env_steps // self.data.steps_per_batch)

    def __iter__(self) -> Iterator[Walk]:
        self.reset()
        assert self.world is not None
        while self.done < self.data.total_env_steps:
            steps = min(self.data.steps_per_batch, self.data.total_env_steps - self.done)
            self.done += steps
            yield Walk(self.world, steps, self.data.mdp)

    def reset(self) -> None:
        """Begins anew, from a seed that depends on the seed of the data and the steps so far alone."""
        self.close()
        sequence = np.random.SeedSequence([self.data.seed, 0, self.done])
        seed = int(sequence.generate_state(1)[0]) >> 1
        if self.data.simulate and self.data.mdp is not None:
            self.world = Simulator(self.data.mdp, self.data.limit, seed)
        else:
            self.world = Environment(self.data.make(), self.data.limit, seed)

    def close(self) -> None:
        if isinstance(self.world, Environment):
            self.world.env.close()

    def state_dict(self) -> dict[str, Any]:
        """Lightning stores it in the checkpoint. Environments cannot be stored: a resumed run resets them."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["done"]


class Environment:
    """A Gymnasium environment as a `World`: states from 0, plain numbers, truncated after `limit` steps at the latest.

    Args:
        seed: of the first reset.
    """

    def __init__(self, env: gym.Env[Any, Any], limit: int, seed: int) -> None:
        space: Any = env.observation_space
        self.env, self.limit, self._first, self._steps = env, limit, int(space.start), 0
        self._seed: int | None = seed

    def reset(self) -> int:
        observation, _ = self.env.reset(seed=self._seed)
        self._seed = None
        self._steps = 0
        return int(observation) - self._first

    def step(self, action: int) -> Step:
        observation, reward, terminated, truncated, _ = self.env.step(action)
        self._steps += 1
        cut = (truncated or self._steps >= self.limit) and not terminated
        return int(observation) - self._first, float(reward), bool(terminated), bool(cut)


class ExactLoader:
    """The expected return and length of the greedy policy, as the one episode of a batch."""

    def __init__(self, data: TabularExperience) -> None:
        self.data = data

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Episodes]:
        assert self.data.mdp is not None
        mdp, policy = self.data.mdp, greedy(_table(self.data).cpu().double())
        steps = mdp._replace(rewards=torch.ones_like(mdp.rewards))
        expected = [each.expected_return(policy, limit=self.data.limit) for each in (mdp, steps)]
        yield Episodes(*torch.tensor(expected, dtype=torch.float64).unsqueeze(1))


def _table(data: TabularExperience) -> torch.Tensor:
    """Q(s, a) of the module in training, which must have a table."""
    assert data.trainer is not None
    module: Any = data.trainer.lightning_module
    table = getattr(module.model, "q", None)
    if not isinstance(table, torch.Tensor):
        raise UserError(f"TabularExperience is for Tabular, a table: {type(module).__name__} takes other data")
    return table.detach()
