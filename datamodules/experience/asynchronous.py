"""Experience of asynchronous workers, which play and learn by themselves."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from datamodules.experience.environments import Arguments
from datamodules.experience.episodes import MAX_STEPS
from datamodules.experience.module import Experience
from datamodules.experience.workers import Order, Report, Workers
from zoo.errors import UserError


class AsynchronousExperience(Experience):
    """Worker processes on this machine for `A3C`, each with one environment and the learner that the module gives it.

    A training batch is `Segments`, which the workers play and learn from on their own, and wait. So validation and
    checkpoints see parameters that nobody steps. With one worker a run is reproducible, and as resumable as any; with
    more, the order of their steps is up to the machine.

    Args:
        environment, environment_arguments, seed, validation_episodes, max_episode_steps: as `Experience`.
        total_env_steps: transitions of all workers in the whole run.
        workers: processes.
        rollout_steps: of a segment, after which a worker steps the shared parameters. It may span the end of an
            episode.
        rollouts_per_batch: segments of all workers in a training batch; by default some 1,000 environment steps.
    """

    def __init__(
        self,
        environment: str,
        total_env_steps: int = 100_000,
        workers: int = 2,
        rollout_steps: int = 5,
        environment_arguments: Arguments | None = None,
        seed: int | None = None,
        validation_episodes: int = 10,
        rollouts_per_batch: int | None = None,
        max_episode_steps: int = MAX_STEPS,
    ) -> None:
        if workers < 1:
            raise UserError(f"data.workers must be at least 1, got {workers}")
        super().__init__(
            environment, total_env_steps, 1, rollout_steps, "sync", environment_arguments, seed, validation_episodes,
            rollouts_per_batch, max_episode_steps,
        )  # fmt: skip
        self.workers = workers

    def train_dataloader(self) -> "SegmentLoader":  # type: ignore[override]
        self.close()
        self.warn_without_limit()
        self.loader: Any = SegmentLoader(self)
        return self.loader


class Segments:
    """A training batch: `count` segments of all workers.

    Attributes:
        workers: how many there are.
    """

    def __init__(self, loader: "SegmentLoader", count: int) -> None:
        self.loader, self.count, self.workers = loader, count, loader.data.workers

    def run(self, settings: list[dict[str, Any]]) -> list[Report]:
        """What each worker did, with its own settings."""
        return self.loader.run(self.count, settings)


class SegmentLoader:
    """Owns the workers, which start with the first batch, when the module has been restored."""

    def __init__(self, data: AsynchronousExperience) -> None:
        assert data.trainer is not None
        self.data = data
        self.module: Any = data.trainer.lightning_module
        if not hasattr(self.module, "make_worker"):
            name = type(self.module).__name__
            raise UserError(f"AsynchronousExperience is for A3C, whose workers learn: {name} takes other data")
        self.workers: Workers | None = None
        self.segments, self._anew = 0, True

    def __iter__(self) -> Iterator[Segments]:
        self.reset()
        while self.segments < len(self):
            self.segments += self.data.rollouts_per_batch
            yield Segments(self, self.data.rollouts_per_batch)

    def __len__(self) -> int:
        """More than can be needed, where every other row resets an environment; the run stops earlier."""
        return 2 * -(-self.data.total_env_steps // self.data.rollout_steps)

    def run(self, count: int, settings: list[dict[str, Any]]) -> list[Report]:
        """Lets the workers play and learn `count` segments."""
        data = self.data
        if self.workers is None:
            self.workers = Workers(
                data.workers, self.module.make_worker(), data.environment, data.environment_arguments,
                data.rollout_steps,
            )  # fmt: skip
        seeds = [self._reset_seed(k) if self._anew else None for k in range(data.workers)]
        self._anew = False
        return self.workers.run(count, [Order(*each) for each in zip(seeds, settings, strict=True)])

    def reset(self) -> None:
        """Starts new episodes, from seeds that depend only on the run's seed, the worker and the steps so far."""
        self._anew = True

    def close(self) -> None:
        """Ends the workers."""
        if self.workers is not None:
            self.workers.close()
            self.workers = None

    def state_dict(self) -> dict[str, Any]:
        """What Lightning saves in the checkpoint. Environments cannot be saved: a resumed run resets them."""
        return {"segments": self.segments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.segments = state["segments"]

    def _reset_seed(self, worker: int) -> int:
        sequence = np.random.SeedSequence([self.data.seed, worker, int(self.module.env_steps)])
        return int(sequence.generate_state(1)[0]) >> 1
