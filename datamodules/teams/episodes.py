"""Whole episodes of a team, padded to one length."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.experience.environments import check_finite
from datamodules.teams.frame import Floats, Frame, TeamEnvs
from zoo.errors import UserError
from zoo.teams.types import TeamEpisodes

REWARDS = ("sum", "mean", "shared")  # how the reward of a team is made of those of its agents
ROWS = 10  # copies in which a policy is evaluated


class Played(NamedTuple):
    """Episodes, and what they came to.

    Attributes:
        episodes: N of them. returns: (N,) float64, of the team. lengths: (N,) int64.
        of_agents: (N, A) float64, the return of each agent.
    """

    episodes: TeamEpisodes
    returns: Tensor
    lengths: Tensor
    of_agents: Tensor


@torch.no_grad()
def play(
    envs: TeamEnvs,
    team: Any,
    seeds: Sequence[int | None],
    *,
    reward: str = "sum",
    explore: bool = False,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, Any], None] | None = None,
) -> Played:
    """One episode in every copy that has a seed; the rows of the others are not valid.

    Args:
        envs: N copies. team: a `zoo.teams.policy.Team`. seeds: (N,).
        reward: of the team: the "sum" or "mean" of those of its agents, or "shared", the one that they all get.
        on_step: called with (copy, its environment) after the reset and after each step.

    Raises:
        UserError: if a reward is not finite, or not shared where it should be.
    """
    running = np.array([seed is not None for seed in seeds])
    device, limit = team.own.device, envs.limit
    frame = envs.reset(seeds)
    team.reset(len(seeds))
    frames = [_copy(frame)]
    steps: list[tuple[Any, ...]] = []
    _notify(on_step, envs, running)
    for _ in range(limit):
        observations, _, available = (torch.from_numpy(part).to(device) for part in frame)
        actions = team.act(observations, explore, generator, available).cpu().numpy()
        frame, rewards, terminated, truncated = envs.step(actions, running)
        steps.append((actions, rewards, terminated, running.copy()))
        frames.append(_copy(frame))
        _notify(on_step, envs, running)
        running &= ~(terminated | truncated)
        if not running.any():
            break
    for _ in range(limit - len(steps)):  # padding
        steps.append(tuple(np.zeros_like(part) for part in steps[-1]))
        frames.append(frames[-1])
    actions, each, terminated, valid = (np.stack(parts) for parts in zip(*steps, strict=True))
    check_finite(each, "reward", 0)
    parts = (*(np.stack(parts) for parts in zip(*frames, strict=True)), actions, team_reward(each, reward))
    episodes = TeamEpisodes(*(torch.from_numpy(part) for part in (*parts, terminated & valid, valid)))
    of_agents = torch.from_numpy(each.astype(np.float64).sum(0))
    returns = episodes.rewards.double().sum(0)
    return Played(episodes, returns, episodes.valid.long().sum(0), of_agents)


def evaluate(
    envs: TeamEnvs, team: Any, seeds: Sequence[int], *, reward: str = "sum", **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (K,), lengths (K,), and returns of agents (K, A), of one episode from each of ascending seeds.

    Rounding depends on the shape of a batch and on the row. So the policy always sees ten rows, and the episode of seed
    s is in row s modulo ten.

    Args:
        envs: ROWS copies. options: of `play`.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for wave in sorted({seed // ROWS for seed in seeds}):
        rows = [wave * ROWS + row for row in range(ROWS)]
        asked = [row in seeds for row in rows]
        played = play(envs, team, [row if row in seeds else None for row in rows], reward=reward, **options)
        found.append((played.returns[asked], played.lengths[asked], played.of_agents[asked]))
    returns, lengths, of_agents = (torch.cat(parts) for parts in zip(*found, strict=True))
    return returns, lengths, of_agents


def team_reward(rewards: Floats, reward: str) -> Floats:
    """(..., A) of the agents -> (...,) of the team.

    Raises:
        UserError: if they differ, but should be one.
    """
    if reward == "shared":
        differ = np.argwhere(rewards != rewards[..., :1])
        if len(differ):
            got = rewards[tuple(differ[0][:-1])].tolist()
            raise UserError(f"the agents do not share their reward, got {got}: set data.team_reward to sum or mean")
        return rewards[..., 0]
    total: Floats = rewards.sum(-1)
    return total if reward == "sum" else total / rewards.shape[-1]


def _copy(frame: Frame) -> Frame:
    return Frame(frame.observations.copy(), frame.states.copy(), frame.available.copy())


def _notify(on_step: Callable[[int, Any], None] | None, envs: Any, running: Any) -> None:
    if on_step is not None:
        for n in np.flatnonzero(running):
            on_step(int(n), envs.singles[n].env)
