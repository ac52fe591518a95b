"""What a team learns from episodes: double-Q targets of the state that follows, masked errors, one value a step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.rl.on_policy.returns import lambda_returns
from zoo.teams import central, mixers
from zoo.teams.mixers import Sizes, Utilities
from zoo.teams.policy import Team, greedy
from zoo.teams.types import TeamEpisodes

METHODS: dict[str, Callable[..., Any]] = {
    "independent": mixers.Independent,
    "vdn": mixers.VDN,
    "qmix": mixers.QMIX,
    "qatten": mixers.Qatten,
    "qplex": mixers.QPLEX,
    "qtran": central.QTRAN,
    "cw-qmix": central.WeightedQMIX,
    "ow-qmix": partial(central.WeightedQMIX, central=False),
    "resq": central.ResQ,
    "resz": central.ResZ,
}


class Learned(nn.Module):
    """A team and its mixer, which learn together and of which a slow copy gives the targets."""

    def __init__(self, team: Team, mixer: nn.Module) -> None:
        super().__init__()
        self.team, self.mixer = team, mixer

    def forward(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """A function of this object: what `torch.func.functional_call` can call with other weights."""
        return function(self, *inputs)


def make_mixer(method: str, team: Team, **options: Any) -> nn.Module:
    """The mixer of a method for a team.

    Raises:
        ValueError: if there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    state = team.state_size + (team.agents.horizon > 0)
    sizes = Sizes(*team.shape, team.agents.num_actions, state, team.agents.quantiles)
    mixer: nn.Module = METHODS[method](sizes, **options)
    return mixer


def values_of(team: Team, episodes: TeamEpisodes) -> Tensor:
    """The utilities of every step and of the last observation, (T + 1, N, A, K, M), in one call."""
    none = torch.full_like(episodes.actions[:1], -1)
    return team.agents(episodes.observations, torch.cat([none, episodes.actions]))[0]


def states_of(team: Team, episodes: TeamEpisodes) -> Tensor:
    """What a mixer sees of every step and of the last state, (T + 1, N, S), with the time where the agents know it."""
    states = episodes.states
    if not team.agents.horizon:
        return states
    return torch.cat([states, team.agents.time(states)[:, None].expand(*states.shape[:2], 1)], -1)


def utilities_of(values: Tensor, actions: Tensor, best: Tensor, states: Tensor, observations: Tensor) -> Utilities:
    """What a mixer sees of utilities (..., A, K, M), at actions (..., A), with the greedy ones (..., A)."""
    chosen, greatest = (_at(values, index) for index in (actions, best))
    return Utilities(chosen, greatest, actions, best, states, observations)


@torch.no_grad()
def td_targets(target: Learned, choice: Tensor, episodes: TeamEpisodes, gamma: float, td_lambda: float = 0.0) -> Tensor:
    """y_t = r_t + gamma (1 - terminated_t) Q'_tot(s_{t+1}, u*), u* greedy by the agents that learn: double Q-learning.

    Q' is the slow copy, with its own mixer, at the state after the step. With `td_lambda` it is the lambda-return of
    these values, which ends where the episode does.

    Args:
        target: the slow copy. choice: (T + 1, N, A) greedy actions of the agents that learn.

    Returns:
        (T, N), or with a mixer that returns one value more for each agent or quantile (T, N, A) or (T, N, M).

    References:
        000_507b39bbaa34acda.txt, equation 57, which lacks (1 - terminated); van Hasselt et al. 2016, arXiv:1509.06461,
        equation 4; Rashid et al. 2018, arXiv:1803.11485, equation 6.
    """
    values = values_of(target.team, episodes)[1:]
    following = utilities_of(
        values, choice[1:], choice[1:], states_of(target.team, episodes)[1:], episodes.observations[1:]
    )
    bootstrap = target.mixer(following)
    steps = (episodes.rewards, episodes.terminated, episodes.valid)
    rewards, terminated, valid = ((part[..., None] if bootstrap.ndim > 2 else part) for part in steps)
    if td_lambda == 0:
        return rewards + gamma * bootstrap * ~terminated
    shape = bootstrap.shape
    ends = (terminated | last_steps(valid)).expand(shape)
    return lambda_returns(rewards.expand(shape), bootstrap, terminated.expand(shape), ends, gamma, td_lambda)


def team_loss(
    parameters: dict[str, Tensor],
    episodes: TeamEpisodes,
    *,
    network: Learned,
    target: Learned,
    gamma: float,
    td_lambda: float = 0.0,
    bootstrap_truncated: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """sum_t valid_t L_t / sum_t valid_t, L_t the sum of the losses of the mixer at step t.

    Args:
        parameters: of the network, by name.
        bootstrap_truncated: whether what would follow a truncated episode has a value; otherwise it counts for 0.

    Returns:
        the loss, and its statistics: loss, each of the mixer's losses, and value, the mean of the targets.
    """
    if not bootstrap_truncated:
        episodes = episodes._replace(terminated=episodes.terminated | last_steps(episodes.valid))
    return functional_call(network, parameters, (_loss, episodes, target, gamma, td_lambda))


def last_steps(valid: Tensor) -> Tensor:
    """Whether a step (T, N) is the last of its episode, or of the rows."""
    return torch.cat([~valid[1:], torch.ones_like(valid[:1])])


def _loss(
    network: Learned, episodes: TeamEpisodes, target: Learned, gamma: float, td_lambda: float
) -> tuple[Tensor, dict[str, Tensor]]:
    values = values_of(network.team, episodes)
    choice = greedy(values.detach().mean(-1), episodes.available)
    targets = td_targets(target, choice, episodes, gamma, td_lambda)
    losses = errors_of(network, values, choice, episodes, targets)
    weights = episodes.valid / episodes.valid.sum()
    terms = {name: (part * weights).sum() for name, part in losses.items()}
    loss = torch.stack([*terms.values()]).sum()
    value = targets.mean(-1) if targets.ndim > 2 else targets
    statistics = {"loss": loss, "value": (value * weights).sum()} | (terms if len(terms) > 1 else {})
    return loss, {name: part.detach() for name, part in statistics.items()}


def errors_of(
    network: Learned, values: Tensor, choice: Tensor, episodes: TeamEpisodes, targets: Tensor
) -> dict[str, Tensor]:
    """The losses of the mixer at every step, (T, N) each, from `values_of` and their greedy actions (T + 1, N, A)."""
    mixer: Any = network.mixer
    states = states_of(network.team, episodes)[:-1]
    now = utilities_of(values[:-1], episodes.actions, choice[:-1], states, episodes.observations[:-1])
    found: dict[str, Tensor] = mixer.losses(now, targets)
    return found


def _at(values: Tensor, actions: Tensor) -> Tensor:
    """(..., A, K, M) at (..., A) -> (..., A, M), or (..., A) of one quantile; a sum, whose gradient is no scatter."""
    chosen = torch.arange(values.shape[-2], device=values.device) == actions[..., None]
    picked = (values * chosen[..., None]).sum(-2)
    return picked[..., 0] if values.shape[-1] == 1 else picked
