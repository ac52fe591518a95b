"""Matrix games: one step, one payoff for the whole team, which tell the methods of value decomposition apart."""

import torch
from torch import Tensor


def _penalty(k: float) -> list[list[float]]:
    return [[k, 0, 10], [0, 2, 0], [10, 0, k]]


# The optimum of `qtran`, `mg3` and `climbing` lies beside the largest losses, so that the mean over what the others do
# speaks against it; in `mg1` it lies in a corner of a plateau; `penalty` has two optima that must not be mixed.
PAYOFFS: dict[str, list[list[float]]] = {
    "qtran": [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]],
    "mg1": [[10.4, 0, 10], [0, 10, 10], [10, 10, 10]],
    "mg3": [[8, -12, -12], [-12, 6, 0], [-12, 0, 6]],
    "climbing": [[11, -30, 0], [-30, 7, 0], [0, 6, 5]],
    "penalty-25": _penalty(-25),
    "penalty-100": _penalty(-100),
    "tape": [[12, -0.1, -0.1], [-0.1, 0, 0], [-0.1, 0, 0]],
    "monotonic": [[1, 4, 2], [0, 3, 1], [2, 5, 3]],
}
# The first agent's first action chooses which of these is played in the second step: a sure 7, or up to 8.
TWO_STEP: list[list[list[float]]] = [[[7, 7], [7, 7]], [[0, 1], [1, 8]]]


def payoff(name: str) -> Tensor:
    """The payoff (K, K) of a game: row the action of the first agent, column that of the second.

    `qtran` is the game of the QTRAN paper, `mg1` and `mg3` are of QPLEX's code, `climbing` and `penalty` of Claus and
    Boutilier 1998, `tape` of TAPE's code. Additive in the agents' actions is `monotonic` alone.

    Raises:
        ValueError: if there is no such game.

    References:
        Son et al. 2019, arXiv:1905.05408, table 1; Wang et al. 2021, arXiv:2008.01062, appendix.
    """
    if name not in PAYOFFS:
        raise ValueError(f"a matrix game must be one of {', '.join(PAYOFFS)}, got {name!r}")
    return torch.tensor(PAYOFFS[name], dtype=torch.float32)


def additive_fit(table: Tensor) -> Tensor:
    """argmin_Q sum_u (R(u) - Q(u))^2 over Q(u) = sum_i q_i(u_i): sum_i mean_{u_-i} R - (A - 1) mean R.

    It is what VDN learns of a one-step game under uniform exploration, whatever its utilities.

    Args:
        table: R (K_1, ..., K_A).

    Returns:
        Q, of the same shape.
    """
    agents = range(table.ndim)
    means = [table.mean([j for j in agents if j != i], keepdim=True) for i in agents]
    fit = sum(means) - (table.ndim - 1) * table.mean()
    assert isinstance(fit, Tensor)
    return fit
