"""The model of an environment that has one: Gymnasium's `env.P` as the arrays of an `MDP`."""

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from datamodules.experience.replay import free_memory
from zoo.errors import UserError
from zoo.rl.tabular.mdp import MDP

BYTES = 25  # of an outcome in an MDP: a probability, a reward, a state, and whether it terminates


def states_and_actions(name: str, env: gym.Env[Any, Any]) -> tuple[int, int]:
    """S and A.

    Raises:
        UserError: if observations or actions are not Discrete, or a table of them does not fit into memory.
    """
    for what, space, instead in (
        ("observations", env.observation_space, "DQN or PPO"),
        ("actions", env.action_space, "SAC or PPO"),
    ):
        if not isinstance(space, gym.spaces.Discrete):
            raise UserError(f"a table needs Discrete {what}, but those of {name} are {space}: use {instead} there")
    states, actions = int(env.observation_space.n), int(env.action_space.n)  # type: ignore[attr-defined]
    # while learning: values and counts of two tables as Python objects, and a few observations one-hot
    needed, there = states * (120 * actions + 200), free_memory(torch.device("cpu"))
    if needed > there:
        raise UserError(
            f"a table for the {states:,} states of {name} times {actions} actions takes {needed / 1e9:,.1f} GB, but "
            f"{there / 1e9:,.1f} GB are free: use DQN or PPO there"
        )
    return states, actions


def time_limit(env: gym.Env[Any, Any]) -> int | None:
    """Steps after which it truncates an episode."""
    return None if env.spec is None else env.spec.max_episode_steps


def has_model(env: gym.Env[Any, Any]) -> bool:
    """Whether `env.P` says all that the environment does."""
    inner: Any = env.unwrapped
    return (
        hasattr(inner, "P")
        and hasattr(inner, "initial_state_distrib")
        and not getattr(inner, "fickle_passenger", False)  # Taxi changes the destination beside P
    )


def mdp_of(name: str, env: gym.Env[Any, Any]) -> MDP:
    """The MDP that `env.P` lists, P[s][a] = [(probability, next state, reward, terminated), ...].

    Raises:
        UserError: if the environment has no such model, its model leaves something out, or the arrays do not fit into
            memory.
    """
    states, actions = states_and_actions(name, env)
    inner: Any = env.unwrapped
    if not has_model(env):
        raise UserError(
            f"{name} has no model that says all of it (env.P and env.initial_state_distrib), which planning and exact "
            "returns need: learn from its steps instead, model.method q_learning"
        )
    listed = [[inner.P[s][a] for a in range(actions)] for s in range(states)]
    most = max(len(outcomes) for row in listed for outcomes in row)
    needed, there = states * actions * most * BYTES, free_memory(torch.device("cpu"))
    if needed > there:
        raise UserError(
            f"the model of {name}, {states:,} states times {actions} actions times {most} outcomes, takes "
            f"{needed / 1e9:,.1f} GB, but {there / 1e9:,.1f} GB are free"
        )
    outcomes = np.zeros((states, actions, most, 4))
    for s, row in enumerate(listed):
        for a, found in enumerate(row):
            outcomes[s, a, : len(found)] = found
    if not np.allclose(outcomes[..., 0].sum(-1), 1):
        raise UserError(f"the probabilities of {name}'s env.P do not add up to 1")
    probabilities, next_states, rewards, terminated = torch.from_numpy(outcomes).unbind(-1)
    return MDP(
        probabilities.contiguous(),
        next_states.long(),
        rewards.contiguous(),
        terminated.bool(),
        torch.from_numpy(np.asarray(inner.initial_state_distrib, np.float64)),
    )


class Grid(NamedTuple):
    """A grid world: states are its cells, row by row.

    Attributes:
        letters: of the cells, (rows, columns): S start, G goal, H hole, C cliff.
        moves: (rows down, columns right) of each action.
    """

    letters: np.ndarray[Any, Any]
    moves: tuple[tuple[int, int], ...]


def grid_of(name: str, env: gym.Env[Any, Any]) -> Grid:
    """The grid of FrozenLake or CliffWalking.

    Raises:
        UserError: for another environment.
    """
    up, down, left, right = (-1, 0), (1, 0), (0, -1), (0, 1)
    inner: Any = env.unwrapped
    if hasattr(inner, "desc") and name.startswith("FrozenLake"):
        return Grid(np.char.decode(inner.desc), (left, down, right, up))
    if name.startswith("CliffWalking"):
        letters = np.where(inner._cliff, "C", "F")
        letters[-1, 0], letters[-1, -1] = "S", "G"
        return Grid(letters, (up, right, down, left))
    raise UserError(f"figure values draws grid worlds, FrozenLake and CliffWalking, and {name} is none")
