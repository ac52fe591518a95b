"""MinAtar's games as environments: their spaces, their ends, their pictures."""

import importlib.util
import sys

import gymnasium as gym
import numpy as np
import pytest

from datamodules import Experience
from datamodules.experience.environments import make
from datamodules.experience.minatar import CELL, COLOURS, GAMES
from zoo.errors import UserError

installed = pytest.mark.skipif(importlib.util.find_spec("minatar") is None, reason="MinAtar is not installed")


def played(env, seed, steps=60):
    """Observations of an episode from a seed, with actions that depend on the step alone."""
    observations = [env.reset(seed=seed)[0]]
    for t in range(steps):
        observation, _, terminated, truncated, _ = env.step(np.int64(t * 7 % 6))
        observations.append(observation)
        if terminated or truncated:
            break
    return np.array(observations)


@installed
@pytest.mark.parametrize("game", GAMES)
def test_games_are_environments(game):
    spaces = Experience(f"MinAtar/{game}-v0").spaces
    assert spaces["observation_shape"][:2] == (10, 10)
    assert spaces["num_actions"] == (6,)
    assert make(f"MinAtar/{game}-v1").action_space.n == {
        "Freeway": 3,
        "SpaceInvaders": 4,
        "Breakout": 3,
        "Asterix": 5,
    }.get(game, 6)
    assert gym.spec(f"MinAtar/{game}-v0").max_episode_steps == 10_000
    assert spaces["observation_shape"][2] < len(COLOURS), "each channel has a colour"


@installed
def test_an_episode_depends_on_its_seed_alone():
    env = make("MinAtar/Breakout-v0")
    first = played(env, seed=5)
    played(env, seed=6, steps=3)  # ends in the middle, with an action that might be repeated
    assert np.array_equal(first, played(env, seed=5))
    assert not np.array_equal(first, played(env, seed=8))


@installed
def test_pictures_show_the_uppermost_object():
    env = make("MinAtar/Breakout-v0", render=True)
    state, _ = env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (10 * CELL, 10 * CELL, 3)
    assert picture.dtype == np.uint8
    for y, x in ((0, 0), (9, 4), (2, 5)):  # nothing, the paddle, a brick
        channel = 1 + int(np.flatnonzero(state[y, x])[-1]) if state[y, x].any() else 0
        red, green, blue = picture[y * CELL + 5, x * CELL + 5].tolist()
        assert red << 16 | green << 8 | blue == COLOURS[channel]


def test_without_the_package_there_is_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "minatar", None)
    with pytest.raises(UserError, match=r"pip install 'lightning-zoo\[minatar\]'"):
        make("MinAtar/Breakout-v0")
