"""Vector environments: in this process, in worker processes, on a cluster, or native; and how they are closed."""

import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.util import Finalize
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from datamodules.experience.environments import Arguments, check_name, make
from zoo.errors import UserError

VECTORIZATIONS = ("sync", "async", "native", "envpool", "ray")
PATIENCE = 5.0  # seconds that a worker process has to close its environment


def make_vector(name: str, num_envs: int, vectorization: str, arguments: Arguments | None, seed: int = 0) -> VectorEnv:
    """`num_envs` copies that step together, and reset on the step after an episode ends (`AutoresetMode.NEXT_STEP`).

    Args:
        vectorization: "sync", one after another in this process; "async", each in a process of its own; "native", the
            environment's own vector version; "envpool", EnvPool's threads; "ray", each in a Ray actor.
        seed: for EnvPool, which must be seeded when it is made.

    Raises:
        UserError: as `make`, and if the environment does not support this vectorization.
    """
    check_name(name, arguments)
    if vectorization not in VECTORIZATIONS:
        raise UserError(f"data.vectorization must be one of {', '.join(VECTORIZATIONS)}, got {vectorization!r}")
    if num_envs < 1:
        raise UserError(f"data.num_envs must be at least 1, got {num_envs}")
    if vectorization == "native":
        return _native(name, num_envs, arguments)
    if vectorization == "envpool":
        from datamodules.experience.pool import EnvPool

        return EnvPool(name, num_envs, arguments, seed)
    if vectorization == "ray":
        from datamodules.experience.remote import RayEnvs

        return RayEnvs(name, num_envs, arguments, seed)
    make(name, arguments).close()  # so that an error is raised here and not in a worker process
    if vectorization == "sync":
        return _sync(partial(make, name, arguments), num_envs)
    # a spawned process does not know the user's environments: it is given the registry's entry
    maker = partial(_make_in_process, gym.spec(name), arguments, os.getpid())
    return AsyncVectorEnv([maker] * num_envs, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)


def close_vector(envs: VectorEnv) -> None:
    """Closes every environment, even after an error or in the middle of a step; kills workers that do not respond."""
    if isinstance(envs, AsyncVectorEnv):  # its own `close` would wait for a step that may never end
        for process in envs.processes:
            process.terminate()  # it closes its environment on the way out
        for process in envs.processes:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
        for pipe in envs.parent_pipes:
            if pipe is not None:
                pipe.close()
        envs.closed = True
    elif isinstance(envs, SyncVectorEnv):
        _close_all(envs.envs)
        envs.closed = True
    else:
        envs.close()


def _native(name: str, num_envs: int, arguments: Arguments | None) -> VectorEnv:
    if not gym.spec(name).vector_entry_point:
        raise UserError(f"{name} has no native vector environment: set data.vectorization to sync or async")
    options: dict[str, Any] = {**(arguments or {})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the metadata that are checked below
        envs = gym.make_vec(name, num_envs, vectorization_mode="vector_entry_point", **options)
    mode = envs.metadata.get("autoreset_mode")
    if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP.value):
        envs.close()
        raise UserError(
            f'the native vector environment of {name} has metadata["autoreset_mode"] {mode}, but NEXT_STEP is needed: '
            "set data.vectorization to sync or async"
        )
    return envs


def _sync(maker: Callable[[], gym.Env[Any, Any]], num_envs: int) -> SyncVectorEnv:
    opened: list[gym.Env[Any, Any]] = []

    def open_one() -> gym.Env[Any, Any]:
        opened.append(maker())
        return opened[-1]

    try:
        return SyncVectorEnv([open_one] * num_envs, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
    except BaseException:
        _close_all(opened)
        raise


def _close_all(envs: Any) -> None:
    for env in envs:
        with suppress(Exception):  # an environment that fails to close must not keep the others open
            env.close()


def _make_in_process(spec: EnvSpec, arguments: Arguments | None, parent: int) -> gym.Env[Any, Any]:
    """An environment in a worker process, which ignores Ctrl-C and closes the environment when it is terminated.

    A forked process would otherwise inherit the Trainer's signal handlers.
    """
    forked = os.getpid() != parent  # Gymnasium also makes one in the parent, to read its spaces
    if forked:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _leave)
    gym.registry.setdefault(spec.id, spec)
    env = make(spec.id, arguments)
    if forked:
        # the signal may interrupt the worker's own `close`, so it is repeated on exit
        Finalize(None, _close_all, args=([env],), exitpriority=0)
    return env


def _leave(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)
