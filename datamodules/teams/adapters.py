"""One environment of a team: PettingZoo's parallel interface, or Gymnasium's with tuples, as lists over the agents."""

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from zoo.errors import UserError
from zoo.teams.types import TeamSpaces

Shown = tuple[
    list[Any], Any, list[Any] | None
]  # observations of the agents, the state or None, masks of actions or None
Step = tuple[Shown, list[float], bool, bool]  # rewards of the agents, terminated, truncated


class Single(Protocol):
    """An environment of a team.

    Attributes:
        env: the one that is wrapped. limit: its own largest number of steps, None if it does not say.
    """

    env: Any
    spaces: TeamSpaces
    limit: int | None

    def reset(self, seed: int) -> Shown: ...

    def step(self, actions: Sequence[int]) -> Step: ...


class Parallel:
    """PettingZoo's parallel interface: dicts by the names of agents, which all stay to the end."""

    def __init__(self, name: str, env: Any) -> None:
        self.name, self.env = name, env
        self.agents = [*env.possible_agents]
        self.limit: int | None = getattr(env.unwrapped, "max_cycles", None)
        observations, _ = env.reset(seed=0)
        self._has_state = _has_state(env)
        masked = isinstance(next(iter(observations.values())), dict)
        seen = [env.observation_space(agent) for agent in self.agents]
        spaces = [space["observation"] if masked else space for space in seen]
        state = env.state() if self._has_state else None
        self.spaces = spaces_of(name, spaces, [env.action_space(agent) for agent in self.agents], state)

    def reset(self, seed: int) -> Shown:
        observations, infos = self.env.reset(seed=seed)
        return self._shown(observations, infos)

    def step(self, actions: Sequence[int]) -> Step:
        given = dict(zip(self.agents, actions, strict=True))
        observations, rewards, terminated, truncated, infos = self.env.step(given)
        over = [bool(terminated[agent]) for agent in self.agents], [bool(truncated[agent]) for agent in self.agents]
        if len({*zip(*over, strict=True)}) > 1:
            raise UserError(f"the agents of {self.name} leave at different times, but a team's must stay to the end")
        shown = self._shown(observations, infos)
        return shown, [float(rewards[agent]) for agent in self.agents], over[0][0], over[1][0]

    def _shown(self, observations: dict[str, Any], infos: dict[str, Any]) -> Shown:
        each = [observations[agent] for agent in self.agents]
        masks = [infos.get(agent, {}).get("action_mask") for agent in self.agents]
        if isinstance(each[0], dict):
            each, masks = [seen["observation"] for seen in each], [seen["action_mask"] for seen in each]
        known = None if any(mask is None for mask in masks) else masks
        return each, self.env.state() if self._has_state else None, known


class Tuples:
    """Gymnasium's interface with tuples over the agents, a list of rewards, and no state.

    lbforaging says that an episode terminated where it was cut by its limit: such an end is taken for a truncation.
    """

    def __init__(self, name: str, env: gym.Env[Any, Any]) -> None:
        self.env = env
        observations, actions = env.observation_space, env.action_space
        if not isinstance(observations, gym.spaces.Tuple) or not isinstance(actions, gym.spaces.Tuple):
            raise UserError(f"{name} is not an environment of a team: its spaces must be tuples over the agents")
        self.spaces = spaces_of(name, observations.spaces, actions.spaces, None)
        own = getattr(env.unwrapped, "_max_episode_steps", None)
        limit = own or (env.spec and env.spec.max_episode_steps)
        self.limit: int | None = int(limit) if limit else None
        self._steps = 0

    def reset(self, seed: int) -> Shown:
        self._steps = 0
        observations, info = self.env.reset(seed=seed)
        return self._shown(observations, info)

    def step(self, actions: Sequence[int]) -> Step:
        observations, rewards, terminated, truncated, info = self.env.step(tuple(actions))
        self._steps += 1
        cut = bool(truncated) or (bool(terminated) and self._steps == self.limit)
        each = [float(reward) for reward in np.ravel(np.asarray(rewards))]
        return self._shown(observations, info), each, bool(terminated) and not cut, cut

    def _shown(self, observations: Any, info: dict[str, Any]) -> Shown:
        return [*observations], None, info.get("action_mask")


def spaces_of(name: str, observations: Sequence[Any], actions: Sequence[Any], state: Any) -> TeamSpaces:
    """The sizes of a team's environment.

    Raises:
        UserError: unless each agent sees a Box and chooses from a Discrete that begins at 0.
    """
    for i, (seen, chosen) in enumerate(zip(observations, actions, strict=True)):
        if not isinstance(chosen, gym.spaces.Discrete) or chosen.start != 0:
            raise UserError(
                f"agent {i} of {name} has actions {chosen}, but value decomposition needs Discrete ones from 0"
            )
        if not isinstance(seen, gym.spaces.Box):
            raise UserError(f"agent {i} of {name} has observations {seen}, but only Box is supported: wrap it")
    sizes = tuple(int(np.prod(space.shape)) for space in observations)
    return {
        "observation_sizes": sizes,
        "num_actions": tuple(int(space.n) for space in actions),
        "state_size": sum(sizes) if state is None else int(np.size(state)),
    }


def _has_state(env: Any) -> bool:
    try:
        return env.state() is not None
    except (NotImplementedError, AttributeError):
        return False
