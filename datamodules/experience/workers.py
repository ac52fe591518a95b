"""Processes that play and learn by themselves, each with an environment of its own."""

import signal
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import connection
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import CloudpickleWrapper

from datamodules.experience.collector import Collector
from datamodules.experience.environments import Arguments
from datamodules.experience.vector import PATIENCE, close_vector, make_vector
from zoo.errors import UserError


class Order(NamedTuple):
    """What a worker is told.

    Attributes:
        seed: of new episodes and of its random numbers; None to go on. settings: of its learner's `begin`.
    """

    seed: int | None
    settings: dict[str, Any]


class Report(NamedTuple):
    """What a worker did: transitions, the statistics of each segment, and the episodes that ended."""

    env_steps: int
    statistics: list[dict[str, float]]
    returns: list[float]
    lengths: list[float]


class Workers:
    """Fresh processes, not forked ones, which may hang in a lock of PyTorch's threads.

    Args:
        count: of processes.
        make_learner: called in each; what it returns has `policy`, `begin`, `refresh` and `learn`, as
            `zoo.rl.asynchronous.Worker`.
        environment, arguments: of `make_vector`. steps: of a segment.
    """

    def __init__(
        self, count: int, make_learner: Callable[[], Any], environment: str, arguments: Arguments | None, steps: int
    ) -> None:
        context: Any = torch.multiprocessing.get_context("spawn")
        # a new process does not know the user's environments: it is given the registry's entry
        make_envs: Any = CloudpickleWrapper(partial(_make, gym.spec(environment), arguments))
        self._tickets = context.Value("q", 0)
        self._make_learner = make_learner  # its lock is gone from the system when this process forgets it
        self._processes, self._pipes = [], []
        for _ in range(count):
            here, there = context.Pipe()
            given = make_learner, make_envs, steps, there, self._tickets
            process = context.Process(target=_work, args=given, daemon=True)
            process.start()
            there.close()  # so that `here` ends with the process
            self._processes.append(process)
            self._pipes.append(here)

    def run(self, segments: int, orders: Sequence[Order]) -> list[Report]:
        """Lets them play and learn this many segments in all, whoever comes first; then they wait.

        Raises:
            UserError: if a worker raises one, or dies.
            RuntimeError: if a worker fails in another way, with its traceback.
        """
        self._tickets.value = segments
        for k, order in enumerate(orders):
            try:
                self._pipes[k].send(order)
            except ConnectionError:
                raise self._death(k) from None
        reports: dict[int, Report] = {}
        while len(reports) < len(self._pipes):
            for pipe in connection.wait([pipe for k, pipe in enumerate(self._pipes) if k not in reports]):
                k = self._pipes.index(pipe)
                reports[k] = self._receive(k)
        return [reports[k] for k in sorted(reports)]

    def close(self) -> None:
        """Ends the processes, which close their environments; kills those that do not respond."""
        self._tickets.get_obj().value = 0  # without its lock, which a worker that died may hold
        for pipe in self._pipes:
            pipe.close()
        deadline = time.monotonic() + PATIENCE
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    def _receive(self, k: int) -> Report:
        try:
            answer = self._pipes[k].recv()
        except (EOFError, ConnectionError):
            raise self._death(k) from None
        if isinstance(answer, UserError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"worker {k} failed:\n{answer}")
        assert isinstance(answer, Report)
        return answer

    def _death(self, k: int) -> UserError:
        self._processes[k].join(PATIENCE)
        code = self._processes[k].exitcode
        fix = "a script must start training below `if __name__ == '__main__':`" if code == 1 else "resume the run"
        return UserError(f"worker {k} of data.workers {len(self._pipes)} died with exit code {code}: {fix}")


def _make(spec: EnvSpec, arguments: Arguments | None) -> VectorEnv:
    gym.registry.setdefault(spec.id, spec)
    return make_vector(spec.id, 1, "sync", arguments)


def _work(
    make_learner: Callable[[], Any], make_envs: Callable[[], VectorEnv], steps: int, pipe: Any, tickets: Any
) -> None:
    """The life of a worker, which ends when the other end of its pipe is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they are for the process that owns the run
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        learner = make_learner()
        collector = Collector(make_envs(), steps)
        try:
            while True:
                pipe.send(_play(learner, collector, pipe.recv(), tickets))
        finally:
            close_vector(collector.envs)
    except (EOFError, ConnectionError):
        return
    except UserError as error:
        pipe.send(error)
    except Exception:
        pipe.send(traceback.format_exc())


def _play(learner: Any, collector: Collector, order: Order, tickets: Any) -> Report:
    """Segments as long as there are tickets."""
    if order.seed is not None:
        torch.manual_seed(order.seed)
        collector.reset(order.seed)
    learner.begin(**order.settings)
    env_steps, statistics, returns, lengths = 0, [], [], []
    while _take(tickets):
        learner.refresh()
        rollout = collector.collect(learner.policy)
        counted = int(rollout.valid.sum())
        if counted:  # a segment of one row may only reset
            statistics.append(learner.learn(rollout))
        env_steps += counted
        returns += rollout.episode_returns.tolist()
        lengths += rollout.episode_lengths.tolist()
    return Report(env_steps, statistics, returns, lengths)


def _take(tickets: Any) -> bool:
    with tickets.get_lock():
        left: bool = tickets.value > 0
        tickets.value -= left
    return left
