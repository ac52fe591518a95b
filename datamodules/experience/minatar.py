"""MinAtar as Gymnasium environments: five Atari games on 10x10 pixels, with sticky actions and a time limit."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

GAMES = {
    "Asterix": "asterix",
    "Breakout": "breakout",
    "Freeway": "freeway",
    "Seaquest": "seaquest",
    "SpaceInvaders": "space_invaders",
}
MAX_EPISODE_STEPS = 10_000
CELL = 24  # pixels of a picture to one of the game
# of the background, and of each channel: Okabe and Ito's colours, which the colour-blind tell apart
COLOURS = np.array(
    [0x000000, 0x56B4E9, 0xF0E442, 0x999999, 0xE69F00, 0x009E73, 0xD55E00, 0xCC79A7, 0x0072B2, 0xFFFFFF, 0x666666]
)


class MinAtar(gym.Env[Any, Any]):
    """One game: observations (10, 10, C), a channel for each kind of object, and six actions, or those that matter.

    Two differences from the package's own class: an episode depends on its seed alone, as it begins without an action
    to repeat, and pictures are large enough to be seen.

    Args:
        game: a value of GAMES. minimal: whether only actions that change the game are offered.
        sticky_action_prob: with which the last action is repeated instead. difficulty_ramping: whether it becomes
            harder.

    References:
        Young and Tian 2019, arXiv:1903.03176.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(
        self,
        game: str,
        minimal: bool = False,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        render_mode: str | None = None,
    ) -> None:
        from minatar import Environment  # imports matplotlib

        self.render_mode = render_mode
        self._game: Any = Environment(game, sticky_action_prob, difficulty_ramping)
        self._actions = self._game.minimal_action_set() if minimal else range(self._game.num_actions())
        self.action_space = Discrete(len(self._actions))
        self.observation_space = Box(0, 1, tuple(self._game.state_shape()), np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.bool_], dict[str, Any]]:
        self._game.seed(seed)
        self._game.last_action = 0
        self._game.reset()
        return self._game.state(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.bool_], float, bool, bool, dict[str, Any]]:
        reward, terminated = self._game.act(self._actions[action])
        return self._game.state(), float(reward), bool(terminated), False, {}

    def render(self) -> NDArray[np.uint8]:
        state = self._game.state()
        top = (state * np.arange(1, state.shape[2] + 1)).max(2)  # the last channel of those that are on
        colours = (COLOURS[top][..., None] >> np.array([16, 8, 0]) & 255).astype(np.uint8)
        return np.kron(colours, np.ones((CELL, CELL, 1), np.uint8))


def register() -> None:
    """MinAtar/Breakout-v0 and the others, with all six actions; -v1 has the minimal ones."""
    for name, game in GAMES.items():
        for version, minimal in enumerate((False, True)):
            gym.register(
                f"MinAtar/{name}-v{version}",
                "datamodules.experience.minatar:MinAtar",
                max_episode_steps=MAX_EPISODE_STEPS,
                kwargs={"game": game, "minimal": minimal},
            )
