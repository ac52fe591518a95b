"""Value decomposition of matrix games with tables for utilities: what each method can represent, and finds."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from zoo.teams.losses import Learned, errors_of, make_mixer, utilities_of, values_of
from zoo.teams.policy import Team, greedy
from zoo.teams.types import TeamEpisodes

WIDTH = 16  # of mixers and central values: there are nine joint actions


class Fit(NamedTuple):
    """What copies of a method made of their games.

    Attributes:
        total: (S, K, K) Q_tot of every joint action. actions: (S, 2), which the agents take.
        payoffs: (S,) of these.
    """

    total: Tensor
    actions: Tensor
    payoffs: Tensor


def fit_tables(
    method: str,
    games: Tensor,
    seeds: Sequence[int],
    updates: int,
    learning_rate: float = 1e-2,
    prepare: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
) -> Fit:
    """Trains one copy of a method for each game and seed, all at once, on every joint action equally often.

    Uniform exploration is what separates methods: with epsilon-greedy exploration the outcome is decided by the first
    greedy actions, for all of them.

    Args:
        games: (S, K, K) payoffs, one for each seed (S,).
        updates: of Adam, on all K^2 joint actions.
        prepare: applied to the gradient of all copies; a compiler.
    """
    count, size = games.shape[:2]
    copies = []
    for seed in seeds:
        torch.manual_seed(seed)
        team = Team((1, 1), (size, size), 1, hidden=(), last_action=False, quantiles=8 if method == "resz" else 1)
        copies.append(Learned(team, make_mixer(method, team, width=WIDTH)))
    network = copies[0]
    parameters, _ = stack_module_state(copies)
    episodes = _every_action(size)

    def loss(own: dict[str, Tensor], game: Tensor) -> Tensor:
        return functional_call(network, own, (_errors, episodes, game.reshape(1, -1)))

    gradient = prepare(vmap(grad(loss)))
    adam = torch.optim.Adam(parameters.values(), learning_rate, fused=True)
    for _ in range(updates):
        found = gradient(parameters, games)
        for name, parameter in parameters.items():
            parameter.grad = found[name]
        adam.step()
    with torch.no_grad():
        total, actions = vmap(partial(_judge, network, episodes))(parameters)
    total = total.view(count, size, size)
    return Fit(total, actions, games[torch.arange(count), actions[:, 0], actions[:, 1]])


def _every_action(size: int) -> TeamEpisodes:
    """Episodes of one step, one for each joint action, without rewards."""
    joint = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    rows = len(joint)
    ends = torch.ones(1, rows, dtype=torch.bool)
    seen, states, available = torch.ones(2, rows, 2, 1), torch.ones(2, rows, 1), torch.ones(2, rows, 2, size)
    return TeamEpisodes(seen, states, available > 0, joint[None], torch.zeros(1, rows), ends, ends)


def _errors(learned: Learned, episodes: TeamEpisodes, payoffs: Tensor) -> Tensor:
    """The mean loss over all joint actions, whose targets are their payoffs."""
    values = values_of(learned.team, episodes)
    choice = greedy(values.detach().mean(-1), episodes.available)
    targets = payoffs[..., None].expand(*payoffs.shape, values.shape[-1]) if values.shape[-1] > 1 else payoffs
    losses = errors_of(learned, values, choice, episodes, targets)
    return torch.stack([*losses.values()]).sum(0).mean()


def _judge(network: Learned, episodes: TeamEpisodes, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Q_tot of every joint action, and the greedy one (2,)."""

    def total(learned: Learned) -> tuple[Tensor, Tensor]:
        values = values_of(learned.team, episodes)[:1]
        best = greedy(values.mean(-1), episodes.available[:1])
        mixer: Any = learned.mixer
        found = mixer.total(
            utilities_of(values, episodes.actions, best, episodes.states[:1], episodes.observations[:1])
        )
        return (found.mean(-1) if found.ndim > 2 else found)[0], best[0, 0]

    return functional_call(network, parameters, (total,))
