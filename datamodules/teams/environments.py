"""Environments of teams by name, and one interface for all: several copies that step together.

`matrix/NAME` is a game of `zoo.teams.payoffs`, `mpe2/NAME` one of the particle worlds of the package mpe2, and any
other name one of Gymnasium's registry whose spaces are tuples, as those of lbforaging. An environment of your own with
PettingZoo's parallel interface is added by `PARALLEL["my-name"] = function`, which takes `render_mode` and numbers.
"""

import difflib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from datamodules.experience.environments import Arguments, check_name
from datamodules.teams.adapters import Parallel, Single, Tuples
from datamodules.teams.frame import Bools, Floats, Frame, TeamEnvs
from datamodules.teams.matrix import GAMES, MatrixGames
from datamodules.teams.speaker_listener import SpeakerListener
from datamodules.teams.spread import Spread
from zoo.errors import UserError, one_line


def _spread(**options: Any) -> Any:
    from mpe2 import simple_spread_v3

    return simple_spread_v3.parallel_env(**options)


def _speaker_listener(**options: Any) -> Any:
    from mpe2 import simple_speaker_listener_v4

    return simple_speaker_listener_v4.parallel_env(**options)


def _reference(**options: Any) -> Any:
    from mpe2 import simple_reference_v3

    return simple_reference_v3.parallel_env(**options)


# the particle worlds whose agents share a purpose
PARALLEL: dict[str, Callable[..., Any]] = {
    "mpe2/simple_spread_v3": _spread,
    "mpe2/simple_speaker_listener_v4": _speaker_listener,
    "mpe2/simple_reference_v3": _reference,
}
NATIVE: dict[str, Callable[[int], TeamEnvs]] = {
    "mpe2/simple_spread_v3": Spread,
    "mpe2/simple_speaker_listener_v4": SpeakerListener,
}


def make_native(name: str, count: int, arguments: Arguments | None = None, limit: int | None = None) -> TeamEnvs:
    """`count` copies in one array, for training.

    Raises:
        UserError: if there is no such version, or not with these arguments.
    """
    if name.startswith("matrix/"):
        return _game(name, count, arguments, render=False)
    if name not in NATIVE or arguments or limit is not None:
        known = " and ".join(NATIVE)
        raise UserError(
            f"{name} has no native version with these options (only {known} have one, with none): set "
            "data.vectorization to copies"
        )
    return NATIVE[name](count)


def make_team(
    name: str, count: int = 1, arguments: Arguments | None = None, limit: int | None = None, render: bool = False
) -> TeamEnvs:
    """`count` copies of an environment.

    Args:
        arguments: of its constructor; numbers, true or false.
        limit: steps after which an episode is truncated; by default the environment's own.
        render: whether `render()` of a copy must return pictures.

    Raises:
        UserError: if there is no such environment, a package that it needs is missing, or it is not one of a team that
            chooses discrete actions.
    """
    for key, value in (arguments or {}).items():
        if not isinstance(value, int | float):
            raise UserError(f"environment argument {key!r} must be a number, true or false, got {value!r}")
    if limit is not None and limit < 1:
        raise UserError(f"data.max_episode_steps must be at least 1, or null, got {limit}")
    if name.startswith("matrix/"):
        return _game(name, count, arguments, render)
    return Copies(name, count, partial(_single, name, arguments or {}, render), limit)


def _game(name: str, count: int, arguments: Arguments | None, render: bool) -> TeamEnvs:
    if name.removeprefix("matrix/") not in GAMES:
        raise UserError(f"unknown matrix game {name!r}; there are {', '.join(f'matrix/{game}' for game in GAMES)}")
    if arguments:
        raise UserError(f"{name} takes no arguments, got {min(arguments)!r}")
    if render:
        raise UserError(f"{name} is a table, so there is no video of it: docs/teams.md draws it")
    return MatrixGames(name.removeprefix("matrix/"), count)


def _single(name: str, arguments: Arguments, render: bool) -> Single:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures, without a window
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # a greeting on standard output, where answers go
    options: dict[str, Any] = {**arguments, **({"render_mode": "rgb_array"} if render else {})}
    try:
        if name in PARALLEL:
            return Parallel(name, PARALLEL[name](**options))
        if name.startswith(("Foraging", "lbforaging")):
            import lbforaging  # noqa: F401  which registers them
        if name not in gym.registry:
            near = difflib.get_close_matches(name, [*PARALLEL, *(f"matrix/{game}" for game in GAMES)], 3, 0.4)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"unknown environment of a team {name!r}{hint}")
        check_name(name, arguments)
        return Tuples(name, gym.make(name, disable_env_checker=True, **options))
    except ImportError as error:
        raise UserError(f"{name} needs a package that is not installed: pip install 'lightning-zoo[teams]'") from error
    except (TypeError, ValueError, gym.error.Error) as error:
        raise UserError(f"environment {name} with arguments {arguments}: {one_line(str(error))}") from None


class Copies:
    """Environments one after another in this process, with observations and actions padded to one size."""

    def __init__(self, name: str, count: int, make: Callable[[], Single], limit: int | None) -> None:
        self.singles = [make() for _ in range(count)]
        first = self.singles[0]
        found = limit or first.limit
        if found is None:
            raise UserError(f"{name} does not say how long an episode may be: set data.max_episode_steps")
        self.limit, self.spaces = found, first.spaces
        agents, actions = len(self.spaces["num_actions"]), max(self.spaces["num_actions"])
        self._own = np.arange(actions) < np.asarray(self.spaces["num_actions"])[:, None]
        self._frame = Frame(
            np.zeros((count, agents, max(self.spaces["observation_sizes"])), np.float32),
            np.zeros((count, self.spaces["state_size"]), np.float32),
            np.broadcast_to(self._own, (count, agents, actions)).copy(),
        )
        self._steps = np.zeros(count, np.int64)

    def reset(self, seeds: Sequence[int | None]) -> Frame:
        for n, seed in enumerate(seeds):
            if seed is not None:
                self._show(n, self.singles[n].reset(seed))
                self._steps[n] = 0
        return self._frame

    def step(self, actions: NDArray[np.int64], running: Bools) -> tuple[Frame, Floats, Bools, Bools]:
        rewards = np.zeros(actions.shape, np.float32)
        terminated, truncated = np.zeros(len(actions), bool), np.zeros(len(actions), bool)
        for n in np.flatnonzero(running).tolist():
            shown, rewards[n], terminated[n], truncated[n] = self.singles[n].step(actions[n].tolist())
            self._show(n, shown)
            self._steps[n] += 1
            truncated[n] |= not terminated[n] and self._steps[n] >= self.limit
        return self._frame, rewards, terminated, truncated

    def close(self) -> None:
        for single in self.singles:
            single.env.close()

    def _show(self, n: int, shown: tuple[Sequence[Any], Any, Any]) -> None:
        """Copies what one environment shows into the frame: observations, and if it has them state and masks."""
        observations, state, masks = shown
        for row, observation in zip(self._frame.observations[n], observations, strict=True):
            row[: np.size(observation)] = np.ravel(observation)
        if state is None:
            state = np.concatenate([np.ravel(observation) for observation in observations])
        self._frame.states[n] = np.ravel(state)
        if masks is not None:
            for row, mask in zip(self._frame.available[n], masks, strict=True):
                row[:] = False
                row[: len(mask)] = mask
            if not self._frame.available[n].any(-1).all():
                raise UserError("an agent has no action that it may take: mask the agent's episode, or give it a no-op")
