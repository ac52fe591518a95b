"""Replay of whole episodes of a team, collected while it learns."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from datamodules.experience.environments import Arguments
from datamodules.experience.replay import ReplayBuffer, read_state, save_beside, saved_beside, write_state
from datamodules.teams.environments import make_native, make_team
from datamodules.teams.episodes import REWARDS, ROWS, Played, evaluate, play
from datamodules.teams.frame import TeamEnvs
from zoo.errors import UserError
from zoo.rl.types import Episodes
from zoo.teams.types import TeamEpisodes, TeamSpaces

VALIDATION_SEED = 1000  # of the first validation episode; 0 to 99 are reserved for the final evaluation
TEST_EPISODES = 100


class TeamReplay(L.LightningDataModule):
    """Minibatches of whole episodes of a team, from a replay of what it did in `num_envs` copies of an environment.

    A training batch is `TeamRounds`: in turns, an episode in each copy with the current team, and the minibatches that
    follow. The first round also collects `warmup_episodes`, in which the module explores as at the start. A validation
    batch is the `Episodes` that the team plays without exploration. Needs a module with `model`, a team, and
    `env_steps`.

    Args:
        environment: see `datamodules.teams.environments`: matrix/NAME, mpe2/NAME, or one of Gymnasium with tuples.
        total_env_steps: joint steps in the whole run, over all processes.
        num_envs: copies in each process.
        vectorization: "copies", one after another, or "native", a version of ours that steps all of them at once; both
            are the same to rounding. Validation and evaluation use the original.
        environment_arguments: of the environment's constructor; numbers, true or false.
        team_reward: "sum" or "mean" of the rewards of the agents, or "shared", the one that all of them get. Returns
            are logged and measured in it.
        reward_scale: factor of the rewards in the replay. Returns are logged unscaled.
        seed: of the environments; by default that of the run. Each process and each episode derives its own from it.
        validation_episodes: episodes of a validation, from fixed seeds.
        capacity: episodes in the replay of each process; the oldest are overwritten.
        batch_size: episodes of a minibatch.
        warmup_episodes: of each process, before the first minibatch.
        updates_per_round: minibatches after each round of `num_envs` episodes.
        rounds_per_batch: rounds in a training batch, whose metrics are averaged and logged once.
        max_episode_steps: after which an episode is truncated; by default the environment's own limit.
        save_replay: whether the replay is saved with each checkpoint, and restored from it. Otherwise a resumed run
            begins by collecting `warmup_episodes` with its team.
    """

    provides = ("team_spaces", "total_env_steps")

    def __init__(
        self,
        environment: str,
        total_env_steps: int = 1_000_000,
        num_envs: int = 8,
        vectorization: str = "copies",
        environment_arguments: Arguments | None = None,
        team_reward: str = "sum",
        reward_scale: float = 1.0,
        seed: int | None = None,
        validation_episodes: int = 20,
        capacity: int = 5_000,
        batch_size: int = 32,
        warmup_episodes: int = 100,
        updates_per_round: int = 8,
        rounds_per_batch: int = 20,
        max_episode_steps: int | None = None,
        save_replay: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        least = {"total_env_steps": total_env_steps, "num_envs": num_envs, "capacity": capacity}
        least |= {"batch_size": batch_size, "warmup_episodes": warmup_episodes}
        least |= {"updates_per_round": updates_per_round, "rounds_per_batch": rounds_per_batch}
        for option, value in least.items():
            if value < 1:
                raise UserError(f"data.{option} must be at least 1, got {value}")
        if validation_episodes < 0:
            raise UserError(f"data.validation_episodes must be at least 0, got {validation_episodes}")
        if vectorization not in ("copies", "native"):
            raise UserError(f"data.vectorization must be copies or native, got {vectorization!r}")
        if team_reward not in REWARDS:
            raise UserError(f"data.team_reward must be one of {', '.join(REWARDS)}, got {team_reward!r}")
        if not 0 < reward_scale < math.inf:
            raise UserError(f"data.reward_scale must be positive and finite, got {reward_scale}")
        self.environment, self.environment_arguments = environment, environment_arguments
        self.total_env_steps, self.num_envs, self.max_episode_steps = total_env_steps, num_envs, max_episode_steps
        self.vectorization = vectorization
        self.team_reward, self.reward_scale = team_reward, reward_scale
        self.seed = torch.initial_seed() % 2**31 if seed is None else seed
        self.validation_episodes, self.capacity, self.batch_size = validation_episodes, capacity, batch_size
        self.warmup_episodes, self.updates_per_round = warmup_episodes, updates_per_round
        self.rounds_per_batch, self.save_replay = rounds_per_batch, save_replay
        envs = self.make(1)
        self.team_spaces: TeamSpaces = envs.spaces
        envs.close()
        self.loader: TeamLoader | None = None

    def make(self, count: int) -> TeamEnvs:
        """New copies of the environment."""
        return make_team(self.environment, count, self.environment_arguments, self.max_episode_steps)

    def make_for_training(self) -> TeamEnvs:
        """The copies that experience is collected in."""
        make = make_native if self.vectorization == "native" else make_team
        return make(self.environment, self.num_envs, self.environment_arguments, self.max_episode_steps)

    def train_dataloader(self) -> "TeamLoader":
        self.close()
        self.loader = TeamLoader(self)
        return self.loader

    def val_dataloader(self) -> "TeamEpisodeLoader | list[Any]":
        if not self.validation_episodes:
            return []
        return TeamEpisodeLoader(self, range(VALIDATION_SEED, VALIDATION_SEED + self.validation_episodes))

    def test_dataloader(self) -> "TeamEpisodeLoader":
        return TeamEpisodeLoader(self, range(TEST_EPISODES))

    def teardown(self, stage: str) -> None:
        self.close()

    def on_exception(self, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """Closes the training environments."""
        if self.loader is not None:
            self.loader.envs.close()
            self.loader = None

    save_beside = save_beside
    saved_beside = saved_beside


class TeamRounds:
    """Rounds of a training batch, each collected when it is requested: a list of minibatches of `TeamEpisodes`.

    Attributes:
        env_steps: joint steps collected so far. returns, lengths: of the episodes so far.
    """

    def __init__(self, loader: "TeamLoader") -> None:
        self.loader, self.env_steps = loader, 0
        self.returns: list[float] = []
        self.lengths: list[int] = []

    def __iter__(self) -> Iterator[list[TeamEpisodes]]:
        loader, data = self.loader, self.loader.data
        for _ in range(data.rounds_per_batch):
            for played in loader.collect():
                self.returns += played.returns.tolist()
                self.lengths += played.lengths.tolist()
                self.env_steps += int(played.lengths.sum())
            rows = loader.buffer.sample(data.updates_per_round * data.batch_size)
            yield [loader.unpack(part) for part in rows.split(data.batch_size)]
            # several processes, whose episodes differ in length, stop together: after a whole batch
            if loader.world_size == 1 and loader.module.env_steps + self.env_steps >= data.total_env_steps:
                return


class TeamLoader:
    """The environments and the replay of one process.

    It has a length, so that Lightning requests the next batch only after it has trained on the last: the largest number
    of batches that `total_env_steps` can need, if every episode has one step. The run stops earlier.
    """

    def __init__(self, data: TeamReplay) -> None:
        trainer = data.trainer
        assert trainer is not None
        self.data, self.trainer = data, trainer
        self.module: Any = trainer.lightning_module
        self.rank, self.world_size = trainer.global_rank, trainer.world_size
        self.envs = data.make_for_training()
        width = self._width()
        most = -(-data.total_env_steps // self.world_size) + data.warmup_episodes + data.num_envs
        self.buffer = ReplayBuffer(min(data.capacity, most), width, self.module.device)
        self.batches = self.episodes = 0  # counted in the whole run, of this process
        self.file: str | None = None

    def __len__(self) -> int:
        steps = self.data.num_envs * self.data.rounds_per_batch * self.world_size
        return -(-self.data.total_env_steps // steps)

    def __iter__(self) -> Iterator[TeamRounds]:
        while self.batches < len(self):
            self.batches += 1
            yield TeamRounds(self)

    def collect(self) -> Iterator[Played]:
        """Plays an episode in each copy into the replay, and before the first those of the warm-up."""
        rounds = 1 if self.buffer.size else 1 + -(-self.data.warmup_episodes // self.data.num_envs)
        for _ in range(rounds):  # by PyTorch's global random state
            played = play(self.envs, self.module.model, self._seeds(), reward=self.data.team_reward, explore=True)
            episodes = played.episodes
            scaled = episodes._replace(rewards=self.data.reward_scale * episodes.rewards)
            self.buffer.add(scaled.pack().numpy())
            yield played

    def unpack(self, rows: Tensor) -> TeamEpisodes:
        """The episodes of rows of the replay."""
        return TeamEpisodes.unpack(rows, self.envs.limit, self.envs.spaces)

    def state_dict(self) -> dict[str, Any]:
        """What Lightning saves in the checkpoint."""
        return {"batches": self.batches, "episodes": self.episodes, "file": self.file}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches, self.episodes = state["batches"], state["episodes"]
        if not self.data.save_replay or state["file"] is None:
            return
        path = Path(str(self.trainer.ckpt_path)).parent / f"{state['file']}-{self.rank}.pt"
        saved = read_state(path)
        for name, value in self._describe().items():
            if saved.get(name) != value:
                raise UserError(f"{path} is a replay of {name} {saved.get(name)!r}, but this run has {value!r}")
        self.buffer.restore(saved)

    def write(self, folder: Path) -> None:
        """Writes the replay into a folder; the next checkpoint names the file."""
        folder.mkdir(parents=True, exist_ok=True)
        self.file = f"replay-{int(self.module.env_steps)}"
        write_state(folder / f"{self.file}-{self.rank}.pt", self.buffer.state() | self._describe())

    def _describe(self) -> dict[str, Any]:
        """What a restored replay must have in common with this run."""
        names = ("environment", "environment_arguments", "team_reward", "reward_scale")
        return {name: getattr(self.data, name) for name in names} | {"width": self._width()}

    def _width(self) -> int:
        """Numbers in a packed episode."""
        spaces, limit = self.envs.spaces, self.envs.limit
        agents, actions = len(spaces["num_actions"]), max(spaces["num_actions"])
        shown = agents * max(spaces["observation_sizes"]) + spaces["state_size"] + agents * actions
        return (limit + 1) * shown + limit * (agents + 3)

    def _seeds(self) -> list[int]:
        """Of the next episodes, which depend only on the run's seed, the process and the episodes so far."""
        sequence = np.random.SeedSequence([self.data.seed, self.rank, self.episodes])
        self.episodes += self.data.num_envs
        return [int(seed) >> 1 for seed in sequence.generate_state(self.data.num_envs)]


class TeamEpisodeLoader:
    """Plays one episode from each seed, without exploration, as a single batch."""

    def __init__(self, data: TeamReplay, seeds: range) -> None:
        self.data, self.seeds = data, seeds

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Episodes]:
        assert self.data.trainer is not None
        team: Any = self.data.trainer.lightning_module.model
        envs = self.data.make(ROWS)
        try:
            returns, lengths, _ = evaluate(envs, team, self.seeds, reward=self.data.team_reward)
        finally:
            envs.close()
        yield Episodes(returns, lengths)
