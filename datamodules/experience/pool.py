"""EnvPool's environments, which step in C++ threads, behind Gymnasium's vector interface."""

import importlib.util
import warnings
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from zoo.errors import UserError


class EnvPool(VectorEnv):
    """`num_envs` environments of EnvPool; the step after the end of an episode ignores its action and resets.

    EnvPool can be seeded only when it is made, so `reset(seed=...)` makes it again.

    Raises:
        UserError: if EnvPool is not installed, or has no such environment.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, name: str, num_envs: int, arguments: dict[str, Any] | None, seed: int = 0) -> None:
        if importlib.util.find_spec("envpool") is None:
            raise UserError("data.vectorization envpool needs EnvPool: pip install 'lightning-zoo[envpool]'")
        import envpool

        if name not in envpool.list_all_envs():
            raise UserError(f"EnvPool has no {name}: set data.vectorization to sync or async")
        self.num_envs = num_envs
        self._pool = partial(envpool.make_gymnasium, name, num_envs=num_envs, **(arguments or {}))
        self._make(seed)
        self.single_observation_space = self._envs.observation_space
        self.single_action_space = self._envs.action_space

    def _make(self, seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the precision of bounds
            self._envs = self._pool(seed=seed)
            _ = self._envs.observation_space, self._envs.action_space  # created on first use

    def reset(self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None) -> Any:
        if isinstance(seed, int):
            self._make(seed)
        return self._envs.reset()

    def step(self, actions: np.ndarray[Any, Any]) -> Any:
        return self._envs.step(actions.astype(self.single_action_space.dtype))

    def close_extras(self, **_: Any) -> None:
        self._envs.close()
