"""Experience as data for off-policy methods: collection and replay in turns."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.experience.environments import Arguments
from datamodules.experience.episodes import MAX_STEPS
from datamodules.experience.module import Experience
from datamodules.experience.replay import (
    ReplayBuffer,
    TransitionCollector,
    read_state,
    save_beside,
    saved_beside,
    write_state,
)
from datamodules.experience.vector import close_vector, make_vector
from zoo.errors import UserError
from zoo.rl.off_policy.priorities import Priorities, importance_weights
from zoo.rl.shaping import POTENTIALS

PRIORITIES = (None, "proportional", "rank")


class Replay(Experience):
    """Minibatches from a replay buffer, `replay_ratio` for each new transition, of `num_envs` copies of an environment.

    A training batch is `Rounds`: in turns, `update_every` environment steps with the current policy, and the
    minibatches that follow them. The first round also collects `warmup_env_steps` transitions with random actions.
    Validation is that of `Experience`. Needs a module with `model`, an actor, `gamma` and `env_steps`.

    Args:
        environment, vectorization, environment_arguments, seed, validation_episodes, max_episode_steps: as
            `Experience`.
        total_env_steps: transitions in the whole run, over all processes.
        num_envs: copies in each process.
        capacity: of the buffer of each process, on the device of the policy; the oldest rows are overwritten.
        batch_size: rows of a minibatch.
        warmup_env_steps: transitions of each process before the first minibatch.
        warmup_hold: steps for which a random action is repeated, which explores farther than independent actions.
        update_every: environment steps of each process between minibatches; a multiple of num_envs.
        replay_ratio: minibatches for each environment step; update_every times it must be whole.
        n_step: rewards that are summed before the target bootstraps.
        reward_scale: factor of the rewards in the buffer (Haarnoja et al. 2018, arXiv:1801.01290, section 5.2): values
            of about 1 to 100 are learned best. Returns are logged unscaled.
        shaping: name of a potential Phi: gamma Phi(s') - Phi(s) is added to the rewards in the buffer (Ng et al. 1999),
            which keeps optimal policies optimal. Returns are logged unshaped.
        rounds_per_batch: rounds in a training batch, whose metrics are averaged and logged once; by default 1,000
            environment steps of them.
        priority: null draws rows uniformly, "proportional" by the size of their last error, "rank" by its rank (Schaul
            et al. 2016, arXiv:1511.05952); for a module that weighs rows and gives back errors, as DQN. The minibatches
            of a round are drawn at once, by the priorities before it.
        priority_exponent: alpha, of priorities; 0 draws uniformly.
        weight_exponent: beta, with which the weights of rows begin to correct for that; it rises linearly to 1.
        save_replay: whether the buffer is saved with each checkpoint, and restored from it. Otherwise a resumed run
            begins by collecting `warmup_env_steps` transitions with its policy.
    """

    def __init__(
        self,
        environment: str,
        total_env_steps: int = 100_000,
        num_envs: int = 1,
        vectorization: str = "sync",
        environment_arguments: Arguments | None = None,
        seed: int | None = None,
        validation_episodes: int = 10,
        capacity: int = 1_000_000,
        batch_size: int = 256,
        warmup_env_steps: int = 1_000,
        warmup_hold: int = 1,
        update_every: int = 1,
        replay_ratio: float = 1.0,
        n_step: int = 1,
        reward_scale: float = 1.0,
        rounds_per_batch: int | None = None,
        save_replay: bool = False,
        max_episode_steps: int = MAX_STEPS,
        priority: str | None = None,
        priority_exponent: float = 0.6,
        weight_exponent: float = 0.4,
        shaping: str | None = None,
    ) -> None:
        rounds = max(1, 1000 // max(update_every, 1)) if rounds_per_batch is None else rounds_per_batch
        least = {"capacity": capacity, "batch_size": batch_size, "warmup_env_steps": warmup_env_steps}
        least |= {"warmup_hold": warmup_hold, "update_every": update_every}
        least |= {"n_step": n_step, "rounds_per_batch": rounds}
        for option, value in least.items():
            if value < 1:
                raise UserError(f"data.{option} must be at least 1, got {value}")
        if not 0 < reward_scale < math.inf:
            raise UserError(f"data.reward_scale must be positive and finite, got {reward_scale}")
        if shaping is not None and shaping not in POTENTIALS:
            raise UserError(f"data.shaping must be null or one of {', '.join(POTENTIALS)}, got {shaping!r}")
        if priority not in PRIORITIES:
            raise UserError(f"data.priority must be null, {' or '.join(PRIORITIES[1:])}, got {priority!r}")
        if not 0 <= priority_exponent < math.inf:
            raise UserError(f"data.priority_exponent must be at least 0 and finite, got {priority_exponent}")
        if not 0 <= weight_exponent <= 1:
            raise UserError(f"data.weight_exponent must be between 0 and 1, got {weight_exponent}")
        super().__init__(
            environment, total_env_steps, num_envs, 1, vectorization, environment_arguments, seed, validation_episodes,
            max_episode_steps=max_episode_steps,
        )  # fmt: skip
        if update_every % num_envs:
            raise UserError(
                f"data.update_every must be a multiple of data.num_envs {num_envs}, whose environments step together, "
                f"got {update_every}"
            )
        if warmup_env_steps + update_every < (first := n_step * num_envs):
            raise UserError(
                f"data.warmup_env_steps must be {first - update_every} for rows of data.n_step {n_step} steps, or more"
            )
        updates = update_every * replay_ratio
        if math.isfinite(updates) and math.isclose(updates, round(updates), rel_tol=1e-9):
            updates = round(updates)  # 100 times 0.29 is not quite 29
        if not math.isfinite(updates) or updates < 1 or updates != int(updates):
            raise UserError(
                f"data.update_every {update_every} times data.replay_ratio {replay_ratio} must be a whole number of "
                f"minibatches, got {updates:g}"
            )
        self.capacity, self.batch_size, self.warmup_env_steps = capacity, batch_size, warmup_env_steps
        self.update_every, self.updates_per_round, self.n_step = update_every, int(updates), n_step
        self.reward_scale, self.shaping = reward_scale, shaping
        if shaping is not None and POTENTIALS[shaping].shape != self.spaces["observation_shape"]:
            raise UserError(
                f"data.shaping {shaping} is for observations of shape {POTENTIALS[shaping].shape}, but those of "
                f"{environment} are of shape {self.spaces['observation_shape']}"
            )
        self.rounds_per_batch, self.save_replay, self.warmup_hold = rounds, save_replay, warmup_hold
        self.priority, self.priority_exponent, self.weight_exponent = priority, priority_exponent, weight_exponent

    def train_dataloader(self) -> "ReplayLoader":  # type: ignore[override]
        self.close()
        self.warn_without_limit()
        self.loader: Any = ReplayLoader(self)
        return self.loader

    save_beside = save_beside
    saved_beside = saved_beside


class Rounds:
    """Rounds of a training batch, each collected when it is requested: (G, batch_size, width) rows to learn from.

    Prioritised rows have one column more, their weights, and `prioritize` takes their errors.

    Attributes:
        env_steps: transitions collected so far. episodes: returns and lengths of the episodes that ended.
    """

    def __init__(self, loader: "ReplayLoader", count: int) -> None:
        self.loader, self.count = loader, count
        self.env_steps = 0
        self.episodes = loader.collector.episodes

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tensor]:
        data, loader = self.loader.data, self.loader
        self.episodes.clear()
        self._before = int(loader.module.env_steps)
        for _ in range(self.count):
            self.env_steps += loader.collect()
            count = data.updates_per_round * data.batch_size
            rows = loader.buffer.sample(count) if loader.priorities is None else self._weighted(count)
            yield rows.view(data.updates_per_round, data.batch_size, -1)

    def prioritize(self, errors: Tensor) -> None:
        """|delta| of the round that was learned from (G, batch_size); nothing where rows are drawn uniformly."""
        if self.loader.priorities is not None:
            self.loader.priorities.update(self._drawn, errors.cpu().flatten())

    def _weighted(self, count: int) -> Tensor:
        data, loader, priorities = self.loader.data, self.loader, self.loader.priorities
        assert priorities is not None
        self._drawn, probabilities = priorities.draw(count)
        done = min(1.0, (self._before + loader.world_size * self.env_steps) / data.total_env_steps)
        exponent = data.weight_exponent + (1 - data.weight_exponent) * done
        weights = importance_weights(probabilities.view(-1, data.batch_size), loader.buffer.size, exponent)
        rows = loader.buffer.rows[self._drawn.to(loader.buffer.rows.device)]
        return torch.cat([rows, weights.view(-1, 1).to(rows)], 1)


class ReplayLoader:
    """The environments, the collector and the buffer of one process; counts the rounds of the run."""

    def __init__(self, data: Replay) -> None:
        trainer = data.trainer
        assert trainer is not None
        self.data, self.trainer = data, trainer
        self.module: Any = trainer.lightning_module
        if not hasattr(self.module, "gamma"):
            name = type(self.module).__name__
            raise UserError(f"Replay is for off-policy learning: {name} takes other data, as Experience")
        self.rank, self.world_size = trainer.global_rank, trainer.world_size
        envs = make_vector(
            data.environment, data.num_envs, data.vectorization, data.environment_arguments, self._reset_seed()
        )
        gamma: Any = self.module.gamma
        potential = None if data.shaping is None else POTENTIALS[data.shaping].function
        self.collector = TransitionCollector(envs, gamma, data.n_step, data.warmup_hold, data.reward_scale, potential)
        spaces = data.spaces
        action_size = len(spaces["num_actions"]) or len(spaces["action_low"])
        width = 2 * math.prod(spaces["observation_shape"]) + action_size + 2
        capacity = min(data.capacity, data.total_env_steps)
        self.priorities = self._priorities(capacity)
        self.buffer = ReplayBuffer(capacity, width, self.module.device, self.priorities)
        own = -(-data.total_env_steps // self.world_size)  # transitions of this process
        self.rounds = -(-max(1, own - data.warmup_env_steps) // data.update_every)
        self.done = 0  # rounds
        self.surplus = 0  # transitions collected beyond those that the rounds needed
        self.file: str | None = None

    def __len__(self) -> int:
        return -(-self.rounds // self.data.rounds_per_batch)

    def __iter__(self) -> Iterator[Rounds]:
        self.reset()
        while self.done < self.rounds:
            count = min(self.data.rounds_per_batch, self.rounds - self.done)
            self.done += count
            yield Rounds(self, count)

    def _priorities(self, capacity: int) -> Priorities | None:
        if self.data.priority is None:
            return None
        if not getattr(self.module, "takes_weights", False):
            raise UserError(
                f"data.priority {self.data.priority} is for DQN, which weighs rows and gives back their errors: "
                f"leave it out for {type(self.module).__name__}"
            )
        return Priorities(capacity, self.data.priority_exponent, self.data.priority == "rank")

    def reset(self) -> None:
        """Starts new episodes, from seeds that depend only on the run's seed, the process and the steps so far."""
        self.collector.reset(self.module.model, self._reset_seed())

    def close(self) -> None:
        """Closes the environments."""
        close_vector(self.collector.envs)

    def collect(self) -> int:
        """Collects the transitions of a round into the buffer, those of the warm-up first; returns their number."""
        warmup = 0 if self.buffer.size else self.data.warmup_env_steps
        seen = self._collect(warmup, random=not self.module.env_steps)
        self.surplus += seen - warmup
        due = self.data.update_every - self.surplus
        fresh = self._collect(due)
        self.surplus = fresh - due
        return seen + fresh

    def _collect(self, count: int, random: bool = False) -> int:
        if count <= 0:
            return 0
        rows, seen = self.collector.collect(self.module.model, count, random)
        self.buffer.add(rows)
        return seen

    def state_dict(self) -> dict[str, Any]:
        """What Lightning saves in the checkpoint. Environments cannot be saved: a resumed run resets them."""
        return {"rounds": self.done, "file": self.file}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done = state["rounds"]
        if not self.data.save_replay or state["file"] is None:
            return
        path = Path(str(self.trainer.ckpt_path)).parent / f"{state['file']}-{self.rank}.pt"
        saved = read_state(path)
        for name, value in self._describe().items():
            if saved.get(name) != value:
                raise UserError(f"{path} is a replay buffer of {name} {saved.get(name)!r}, but this run has {value!r}")
        self.buffer.restore(saved)
        self.surplus = saved["surplus"]

    def write(self, folder: Path) -> None:
        """Writes the buffer into a folder; the next checkpoint names the file."""
        folder.mkdir(parents=True, exist_ok=True)
        self.file = f"replay-{int(self.module.env_steps)}"
        state = self.buffer.state() | self._describe() | {"surplus": self.surplus}
        write_state(folder / f"{self.file}-{self.rank}.pt", state)

    def _describe(self) -> dict[str, Any]:
        """What a restored buffer must have in common with this run."""
        names = ("environment", "environment_arguments", "n_step", "reward_scale", "priority", "shaping")
        described = {name: getattr(self.data, name) for name in names}
        return described | {"gamma": self.module.gamma, "width": self.buffer.rows.shape[1]}

    def _reset_seed(self) -> int:
        sequence = np.random.SeedSequence([self.data.seed, self.rank, int(self.module.env_steps)])
        return int(sequence.generate_state(1)[0]) >> 1
