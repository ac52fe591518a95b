"""Environments by name: how one is made, what its spaces are, and an error with a fix for all that can be wrong."""

import difflib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np

from datamodules.experience import minatar
from zoo.errors import UserError, one_line
from zoo.rl.policies import LARGEST_RANGE
from zoo.rl.types import Spaces

# missing package -> the extra of this project that installs it
EXTRAS = {"mujoco": "mujoco", "imageio": "mujoco", "box2d": "box2d", "pygame": "video", "minatar": "minatar"}
Arguments = dict[str, int | float | bool]
minatar.register()


def make(name: str, arguments: Arguments | None = None, render: bool = False) -> gym.Env[Any, Any]:
    """One environment.

    Args:
        name: its id in Gymnasium's registry. arguments: of its constructor; numbers, true or false.
        render: whether `render()` must return pictures.

    Raises:
        UserError: if there is no such environment, a package that it needs is missing, or an argument does not fit.
    """
    check_name(name, arguments)
    if render and importlib.util.find_spec("pygame") is None:
        raise UserError("a video needs a renderer: pip install 'lightning-zoo[video]'")
    if render:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures, without a window
        if sys.platform == "linux" and not os.environ.get("DISPLAY"):
            os.environ.setdefault("MUJOCO_GL", "egl")  # by default MuJoCo opens a window
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


def check_name(name: str, arguments: Arguments | None = None) -> None:
    """Raises a UserError unless `name` is registered and the arguments are plain numbers."""
    if ":" in name:  # Gymnasium would import the module before it
        raise UserError(f"environment {name!r} must not contain ':': name the module with --env-module instead")
    for key, value in (arguments or {}).items():
        if not isinstance(value, int | float):  # a string could name a file
            raise UserError(f"environment argument {key!r} must be a number, true or false, got {value!r}")
    if name not in gym.registry:
        near = difflib.get_close_matches(name, gym.registry, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(
            f"unknown environment {name!r}; {hint}for an environment of yours, name its module with --env-module MODULE"
        )


def spaces_of(name: str, observations: gym.Space[Any], actions: gym.Space[Any]) -> Spaces:
    """The spaces of an environment in plain values.

    Raises:
        UserError: unless observations are a Box or a Discrete, and actions a Discrete from 0, a MultiDiscrete from 0 or
            a bounded Box of real numbers in one dimension.
    """
    if isinstance(observations, gym.spaces.Discrete):
        shape: tuple[int, ...] = (int(observations.n),)  # one-hot
    elif isinstance(observations, gym.spaces.Box) and observations.shape:
        shape = tuple(int(size) for size in observations.shape)
    else:
        raise UserError(f"{name} has observations {observations}, but only Box and Discrete are supported: wrap it")
    spaces = Spaces(observation_shape=shape, num_actions=(), action_low=(), action_high=())
    match actions:
        case gym.spaces.Discrete() if actions.start == 0:
            return spaces | {"num_actions": (int(actions.n),)}
        case gym.spaces.MultiDiscrete() if actions.nvec.ndim == 1 and not actions.start.any():
            return spaces | {"num_actions": tuple(int(n) for n in actions.nvec)}
        case gym.spaces.Box() if np.issubdtype(actions.dtype, np.integer):
            raise UserError(f"{name} has actions {actions} of integers: make them MultiDiscrete, or floats")
        case gym.spaces.Box() if len(actions.shape) == 1 and actions.is_bounded():
            low, high = _within(actions.low, np.inf), _within(actions.high, -np.inf)
            if not (high.astype(np.float64) - low < LARGEST_RANGE).all():
                raise UserError(f"{name} has actions {actions}, which are practically unbounded: give them real bounds")
            return spaces | {"action_low": tuple(low.tolist()), "action_high": tuple(high.tolist())}
    raise UserError(
        f"{name} has actions {actions}, but only Discrete and MultiDiscrete from 0, and a one-dimensional Box with "
        "finite bounds are supported: wrap it"
    )


def _within(bounds: np.ndarray[Any, Any], inwards: float) -> np.ndarray[Any, Any]:
    """Bounds in float32, rounded inwards where rounding to nearest would exceed them."""
    rounded = bounds.astype(np.float32)
    outside = rounded < bounds if inwards > 0 else rounded > bounds
    return np.where(outside, np.nextafter(rounded, np.float32(inwards)), rounded)


def encoder(space: gym.Space[Any]) -> Callable[[Any], np.ndarray[Any, Any]]:
    """A function of observations, one or many, to float32: Discrete becomes one-hot, and uint8 is divided by 255."""
    if isinstance(space, gym.spaces.Discrete):
        size, start = int(space.n), int(space.start)

        def one_hot(observations: Any) -> np.ndarray[Any, Any]:
            index = np.asarray(observations)[..., None] - start
            rows = np.zeros((*index.shape[:-1], size), np.float32)
            np.put_along_axis(rows, index, 1, -1)
            return rows

        return one_hot
    if space.dtype == np.uint8:
        return lambda observations: np.asarray(observations, np.float32) / np.float32(255)
    return lambda observations: np.asarray(observations, np.float32)


def check_environment(name: str, env: gym.Env[Any, Any]) -> None:
    """Takes one step, and raises a UserError if the environment does not return what Gymnasium's interface demands."""

    def wrong(what: str) -> UserError:
        return UserError(f"environment {name}: {what}")

    def observed(observation: Any, where: str) -> None:
        space = env.observation_space
        shape, wanted = np.shape(observation), space.shape
        if shape != wanted:
            raise wrong(f"{where} returned an observation of shape {shape}, but its space has {wanted}")
        if isinstance(space, gym.spaces.Box) and not np.can_cast(
            np.asarray(observation).dtype, space.dtype, "same_kind"
        ):
            given = np.asarray(observation).dtype
            raise wrong(f"{where} returned an observation of type {given}, but its space has {space.dtype}")

    try:
        env.action_space.seed(0)
        first = env.reset(seed=0)
        if not (isinstance(first, tuple) and len(first) == 2):
            raise wrong("reset must return (observation, info)")
        answer = env.step(env.action_space.sample())
    except UserError:
        raise
    except Exception as error:  # a user's environment may raise anything
        raise wrong(f"{type(error).__name__}: {one_line(str(error))}") from error
    observed(first[0], "reset")
    if not (isinstance(answer, tuple) and len(answer) == 5):
        raise wrong("step must return (observation, reward, terminated, truncated, info)")
    observed(answer[0], "step")
    reward = np.asarray(answer[1])
    if reward.ndim or not np.issubdtype(reward.dtype, np.number):
        raise wrong(f"step must return a number as the reward, got {answer[1]!s:.50}")


def check_finite(values: np.ndarray[Any, Any], what: str, first_step: int) -> None:
    """Raises a UserError that names the step and the environment of the first NaN or infinity in (T, N, ...)."""
    if np.isfinite(values.sum()) or np.isfinite(values).all():
        return
    rows = ~np.isfinite(values.reshape(*values.shape[:2], -1)).all(-1)
    step, environment = (int(index) for index in np.argwhere(rows)[0])
    raise UserError(
        f"environment {environment} returned a {what} that is not finite at its step {first_step + step} of this run: "
        "check the environment, and whether the policy diverged"
    )


def _follow(env: gym.Env[Any, Any]) -> None:
    """Selects the camera that follows the body, if the MuJoCo model has one: the default camera stands still."""
    renderer: Any = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is None:
        return
    import mujoco

    camera = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    renderer.camera_id = camera if camera >= 0 else renderer.camera_id


@contextmanager
def _silence(name: str) -> Iterator[None]:
    """Hides warnings about outdated environments, and MuJoCo's about its model file, which it prints and logs."""
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
