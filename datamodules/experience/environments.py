"""Environments by their names: one, or many at once, with a fix for each thing that can be wrong with a name."""

import difflib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from zoo.errors import UserError, one_line
from zoo.rl.types import Spaces

VECTORIZATIONS = ("sync", "async", "native", "envpool")
# what is missing -> our extra that brings it
EXTRAS = {"mujoco": "mujoco", "imageio": "mujoco", "box2d": "box2d", "pygame": "video"}
Arguments = dict[str, int | float | bool]


def make(name: str, arguments: Arguments | None = None, render: bool = False) -> gym.Env[Any, Any]:
    """One environment.

    Args:
        name: its id in Gymnasium's registry. arguments: of its constructor; numbers and truth values.
        render: whether `render()` is to give pictures.

    Raises:
        UserError: if there is no such environment, a package that it needs is missing, or an argument does not fit.
    """
    check_name(name, arguments)
    if render and importlib.util.find_spec("pygame") is None:
        raise UserError("a video needs a renderer: pip install 'lightning-zoo[video]'")
    if render:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures are wanted, and no window
        if sys.platform == "linux" and not os.environ.get("DISPLAY"):
            os.environ.setdefault("MUJOCO_GL", "egl")  # by itself MuJoCo would ask for a window
    options: dict[str, Any] = {**(arguments or {}), **({"render_mode": "rgb_array"} if render else {})}
    try:
        with _silence(name):
            env = gym.make(name, disable_env_checker=True, **options)
        if render:
            _follow(env)
        return env
    except gym.error.DependencyNotInstalled as error:
        raise UserError(f"{name} needs {_missing(str(error))}") from None
    except ImportError as error:
        raise UserError(f"{name} needs {_missing(str(error))}") from None
    except (TypeError, gym.error.Error, ValueError) as error:
        if render and "render" in str(error):
            raise UserError(f"{name} has no renderer that gives pictures, so there is no video of it") from None
        raise UserError(f"environment {name} with arguments {arguments}: {one_line(str(error))}") from None


def make_vector(name: str, num_envs: int, vectorization: str, arguments: Arguments | None, seed: int = 0) -> VectorEnv:
    """`num_envs` copies that step together and reset themselves on the step after an end (`AutoresetMode.NEXT_STEP`).

    Args:
        vectorization: "sync" one after another in this process, "async" each in a process, "native" the environment's
            own arrays, "envpool" EnvPool's threads. seed: EnvPool's, which takes none later.

    Raises:
        UserError: as `make`, and if the environment cannot be had in this way.
    """
    check_name(name, arguments)
    if vectorization not in VECTORIZATIONS:
        raise UserError(f"data.vectorization must be one of {', '.join(VECTORIZATIONS)}, got {vectorization!r}")
    if num_envs < 1:
        raise UserError(f"data.num_envs must be at least 1, got {num_envs}")
    if vectorization == "native":
        if not gym.spec(name).vector_entry_point:
            raise UserError(f"{name} has no native vector environment: set data.vectorization to sync or async")
        options: dict[str, Any] = {**(arguments or {})}
        return gym.make_vec(name, num_envs, vectorization_mode="vector_entry_point", **options)
    if vectorization == "envpool":
        from datamodules.experience.pool import EnvPool

        return EnvPool(name, num_envs, arguments, seed)
    make(name, arguments).close()  # a mistake is told from here and not from a process below
    makers = [lambda: make(name, arguments)] * num_envs
    if vectorization == "sync":
        return SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
    return AsyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)


def check_name(name: str, arguments: Arguments | None = None) -> None:
    """Raises a UserError unless the registry knows `name` and the arguments are plain numbers."""
    if ":" in name:  # Gymnasium would import what stands before it
        raise UserError(f"environment {name!r} must not hold a ':': name the module with --env-module instead")
    for key, value in (arguments or {}).items():
        if not isinstance(value, int | float):  # a text could name a file
            raise UserError(f"environment argument {key!r} must be a number, true or false, got {value!r}")
    if name not in gym.registry:
        near = difflib.get_close_matches(name, gym.registry, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "is it your own? Then name its module: --env-module"
        raise UserError(f"unknown environment {name!r}; {hint}")


def spaces_of(name: str, observations: gym.Space[Any], actions: gym.Space[Any]) -> Spaces:
    """The spaces of an environment in plain values.

    Raises:
        UserError: unless observations are a Box, and actions a Discrete from 0, a MultiDiscrete from 0 or a bounded Box
            in one dimension.
    """
    if not isinstance(observations, gym.spaces.Box) or not observations.shape:
        raise UserError(f"{name} has observations {observations}, but only a Box of numbers is known: wrap it")
    spaces = Spaces(observation_shape=tuple(observations.shape), num_actions=(), action_low=(), action_high=())
    match actions:
        case gym.spaces.Discrete() if actions.start == 0:
            return spaces | {"num_actions": (int(actions.n),)}
        case gym.spaces.MultiDiscrete() if actions.nvec.ndim == 1 and not actions.start.any():
            return spaces | {"num_actions": tuple(actions.nvec.tolist())}
        case gym.spaces.Box() if len(actions.shape) == 1 and actions.is_bounded():
            return spaces | {"action_low": tuple(actions.low.tolist()), "action_high": tuple(actions.high.tolist())}
    raise UserError(
        f"{name} has actions {actions}, which no policy here takes: only Discrete and MultiDiscrete from 0, and Box of "
        "one dimension with finite bounds"
    )


def check_finite(values: np.ndarray[Any, Any], what: str, first_step: int) -> None:
    """Raises a UserError that names the step and the environment of the first NaN or infinity in (T, N, ...)."""
    if np.isfinite(values.sum()) or np.isfinite(values).all():
        return
    rows = ~np.isfinite(values.reshape(*values.shape[:2], -1)).all(-1)
    step, environment = (int(index) for index in np.argwhere(rows)[0])
    raise UserError(
        f"environment {environment} gave a {what} that is not finite at its step {first_step + step} of this run: "
        "the environment is at fault, or the actions that it was given"
    )


def _follow(env: gym.Env[Any, Any]) -> None:
    """Looks through MuJoCo's camera that follows a body, if its model has one: the default one stands still."""
    renderer: Any = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is None:
        return
    import mujoco

    camera = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    renderer.camera_id = camera if camera >= 0 else renderer.camera_id


@contextmanager
def _silence(name: str) -> Iterator[None]:
    """Nothing is said of an environment that is out of date, nor by MuJoCo of its file, on a console or in a log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if ".mujoco." not in str(gym.spec(name).entry_point):
            yield
            return
        import mujoco

        before = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(lambda message: None)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(before)


def _missing(text: str) -> str:
    extra = next((ours for package, ours in EXTRAS.items() if package in text.lower()), None)
    return f"a package that is not installed: pip install 'lightning-zoo[{extra}]'" if extra else one_line(text)
