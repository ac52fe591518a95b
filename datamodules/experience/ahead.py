"""An actor that plays while its learner learns."""

import copy
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from datamodules.experience.collector import Collector
from zoo.rl.types import Rollout


class Actor:
    """Plays rollouts in a thread, by a copy of the policy as it is when the rollout before is handed out.

    So each rollout is exactly one update old when it is learned from, however fast either side is, but for the first
    after `forget`. Its random numbers are drawn by the caller's thread.

    Args:
        collector: whose environments nobody else steps meanwhile.
    """

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self._policy: Any = None
        self._pending: Future[Rollout] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def next(self, policy: Any) -> Rollout:
        """A rollout with the log-probabilities of its actions; the next one is begun."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "actor")
        if self._policy is None:
            self._policy = copy.deepcopy(policy)
        if self._pending is None:
            self._begin(policy)
        assert self._pending is not None
        rollout = self._pending.result()
        self._begin(policy)
        return rollout

    def forget(self) -> None:
        """Waits for the rollout that is played, and drops it with the thread."""
        if self._pending is not None:
            self._pending.exception()
        if self._thread is not None:
            self._thread.shutdown()
        self._pending = self._thread = None

    def _begin(self, policy: Any) -> None:
        assert self._thread is not None
        with torch.no_grad():
            for own, given in zip(self._tensors(self._policy), self._tensors(policy), strict=True):
                own.copy_(given)
        self._pending = self._thread.submit(self._play, self.collector.noise(policy))

    def _play(self, noise: torch.Tensor) -> Rollout:
        rollout = self.collector.collect(self._policy, noise)
        device = self._policy.low.device
        with torch.no_grad():
            seen = rollout.observations[:-1].to(device)
            log_probs = self._policy(seen, rollout.actions.to(device)).log_prob
        return rollout._replace(log_probs=log_probs)

    @staticmethod
    def _tensors(policy: Any) -> list[torch.Tensor]:
        return [*policy.parameters(), *policy.buffers()]
