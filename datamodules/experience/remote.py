"""Environments in Ray actors, on this machine or on a cluster, behind Gymnasium's vector interface."""

import importlib.util
import logging
import os
import socket
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from datamodules.experience.environments import Arguments, make
from zoo.errors import UserError

ADDRESS = "RAY_ADDRESS"  # Ray's own environment variable: host:port, or ray://host:port
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 300.0  # for one step of an environment
RESTARTS = 10  # of one worker in a row


class RayEnvs(VectorEnv):
    """`num_envs` environments, each in a Ray actor; the step after the end of an episode ignores its action and resets.

    Without the environment variable RAY_ADDRESS, Ray is started on this machine, and stopped on closing.

    A worker that dies is restarted. The transition that it was computing is lost and `infos["lost"]` marks its row: the
    observation there is the first one of a new episode, and the former one is cut off before that row and not counted.

    Raises:
        UserError: if Ray is not installed, the address does not answer, or a worker dies again and again.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, name: str, num_envs: int, arguments: Arguments | None, seed: int = 0) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UserError("data.vectorization ray needs Ray: pip install 'lightning-zoo[ray]'")
        env = make(name, arguments)
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        env.close()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.num_envs, self._name, self._spec, self._arguments = num_envs, name, gym.spec(name), arguments
        self._seeds, self._deaths = [*range(seed, seed + num_envs)], [0] * num_envs
        self._is_own = _connect()
        self._workers = [self._start() for _ in range(num_envs)]

    def reset(self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self._seeds = [*seed] if isinstance(seed, list) else [*range(seed, seed + self.num_envs)]
        seeds = self._seeds if seed is not None else [None] * self.num_envs
        pending = [worker.reset.remote(own) for worker, own in zip(self._workers, seeds, strict=True)]
        rows = [self._answer(answer) for answer in pending]
        first = [self._restarted(i) if row is None else row[0] for i, row in enumerate(rows)]
        return np.stack(first), {}

    def step(self, actions: np.ndarray[Any, Any]) -> Any:
        pending = [worker.step.remote(action) for worker, action in zip(self._workers, actions, strict=True)]
        rows, lost = [], np.zeros(self.num_envs, bool)
        for i, answer in enumerate(pending):
            row = self._answer(answer)
            lost[i] = row is None
            self._deaths[i] *= lost[i]
            rows.append((self._restarted(i), 0.0, False, False) if row is None else row)
        observations, rewards, terminated, truncated = zip(*rows, strict=True)
        ends = np.array(terminated), np.array(truncated)
        return np.stack(observations), np.array(rewards), *ends, {"lost": lost} if lost.any() else {}

    def close_extras(self, **_: Any) -> None:
        import ray

        for worker in self._workers:
            ray.kill(worker)
        if self._is_own:
            ray.shutdown()

    def _start(self) -> Any:
        import ray

        # 0 cores, since Ray would wait for a core that is free: `spread` places the workers over the nodes
        remote = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(_Worker)
        return remote.remote(self._spec, self._arguments)

    def _answer(self, pending: Any) -> Any:
        """What a worker returned, None if it has died.

        Raises:
            UserError: if it does not answer. What the environment itself raises is raised here too.
        """
        import ray

        try:
            return ray.get(pending, timeout=ANSWER_SECONDS)
        except ray.exceptions.RayActorError:
            return None
        except ray.exceptions.GetTimeoutError:
            raise UserError(f"the Ray worker of {self._name} has not answered for {ANSWER_SECONDS:.0f} s") from None
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def _restarted(self, i: int) -> Any:
        """The first observation of a new worker i."""
        while True:
            self._deaths[i] += 1
            if self._deaths[i] > RESTARTS:
                raise UserError(f"the Ray worker of {self._name} died {RESTARTS} times in a row: see Ray's logs")
            self._workers[i] = self._start()
            self._seeds[i] += self.num_envs  # a seed that no other worker has had
            if (answer := self._answer(self._workers[i].reset.remote(self._seeds[i]))) is not None:
                return answer[0]


class _Worker:
    """One environment, which resets itself on the step after the end of an episode."""

    def __init__(self, spec: EnvSpec, arguments: Arguments | None) -> None:
        gym.registry.setdefault(spec.id, spec)
        self.env, self.ended = make(spec.id, arguments), False

    def reset(self, seed: int | None) -> tuple[Any, float, bool, bool]:
        self.ended = False
        return self.env.reset(seed=seed)[0], 0.0, False, False

    def step(self, action: Any) -> tuple[Any, float, bool, bool]:
        if self.ended:
            return self.reset(None)
        observation, reward, terminated, truncated, _ = self.env.step(action)
        self.ended = bool(terminated or truncated)
        return observation, float(reward), bool(terminated), bool(truncated)


def _connect() -> bool:
    """Connects to the cluster of RAY_ADDRESS, or starts Ray here; whether it was started."""
    import ray

    if ray.is_initialized():
        return False
    address = os.environ.get(ADDRESS)
    if address and address != "auto":
        _check_reachable(address)
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError, SystemExit) as error:
        raise UserError(f"Ray could not be started or reached at {ADDRESS}={address}: {error}") from None
    return not address


def _check_reachable(address: str) -> None:
    """Raises a UserError at once where Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{ADDRESS} must be host:port or ray://host:port, got {address!r}")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {ADDRESS}={address}: {error}") from None
