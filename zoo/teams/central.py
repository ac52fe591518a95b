"""Methods with a central value Q_jt(s, u) of every joint action, to which the agents' utilities are fitted.

Q_jt is a network of the state and all actions. It learns by temporal differences, targets bootstrap from it, and its
greedy action is taken to be that of the agents: no one could search all joint actions. Mixers as in
`zoo.teams.mixers`; `total` is what the utilities make of Q_jt.
"""

import torch
from torch import Tensor, nn

from zoo.teams.mixers import QMIX, Sizes, Utilities, joint_inputs


class JointValue(nn.Module):
    """Q(s, u), a network of the state and the one-hot actions: (..., S) and (..., A) -> (..., M)."""

    def __init__(self, sizes: Sizes, width: int = 64) -> None:
        super().__init__()
        self.num_actions = sizes.actions
        inputs = sizes.state + sizes.agents * sizes.actions
        self.layers = nn.Sequential(
            nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, sizes.quantiles)
        )

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        return self.layers(joint_inputs(states, actions, self.num_actions))


class QTRAN(nn.Module):
    """Q'(s, u) = sum_i Q_i(tau_i, u_i) + V(s) equals Q_jt at the greedy action, and is nowhere below it.

    L = (Q_jt(u) - y)^2 + (Q'(u*) - Q_jt(u*))^2 + min(Q'(u) - Q_jt(u), 0)^2, with Q_jt fixed in the last two.

    Args:
        weight: of each of the last two.

    References:
        Son et al. 2019, arXiv:1905.05408, equations 4 and 7 to 9 (QTRAN-base). 000_507b39bbaa34acda.txt, section 10.4,
        equations 1 and 2, whose loss has an unsquared ReLU.
    """

    def __init__(self, sizes: Sizes, width: int = 64, weight: float = 1.0) -> None:
        super().__init__()
        self.joint, self.weight = JointValue(sizes, width), weight
        self.offset = nn.Sequential(nn.Linear(sizes.state, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, utilities: Utilities) -> Tensor:
        return self.joint(utilities.states, utilities.actions)[..., 0]

    def total(self, utilities: Utilities) -> Tensor:
        return utilities.chosen.sum(-1) + self.offset(utilities.states)[..., 0]

    def losses(self, utilities: Utilities, targets: Tensor) -> dict[str, Tensor]:
        values, best = self(utilities), utilities.at_greedy()
        optimum = (self.total(best) - self(best).detach()).square()
        below = (self.total(utilities) - values.detach()).clamp(max=0).square()
        return {"td": (values - targets).square(), "optimum": self.weight * optimum, "below": self.weight * below}


class WeightedQMIX(nn.Module):
    """w(s, u) (Q_tot(s, u) - y)^2: a monotone Q_tot that may be wrong, with weight alpha, where it does no harm.

    Centrally weighted (CW): w = 1 where u is greedy or y > Q_jt(s, u*). Optimistically weighted (OW): w = 1 where
    Q_tot < y.

    Args:
        central: which of the two. alpha: of all other actions.

    References:
        Rashid et al. 2020, arXiv:2006.10800, equations 5 to 9.
    """

    def __init__(self, sizes: Sizes, width: int = 64, central: bool = True, alpha: float = 0.1) -> None:
        super().__init__()
        self.joint, self.main = JointValue(sizes, width), QMIX(sizes, width // 2)
        self.central, self.alpha = central, alpha

    def forward(self, utilities: Utilities) -> Tensor:
        return self.joint(utilities.states, utilities.actions)[..., 0]

    def total(self, utilities: Utilities) -> Tensor:
        return self.main(utilities)

    def losses(self, utilities: Utilities, targets: Tensor) -> dict[str, Tensor]:
        values, total = self(utilities), self.main(utilities)
        if self.central:
            full = is_greedy(utilities) | (targets > self(utilities.at_greedy()).detach())
        else:
            full = total.detach() < targets
        weights = torch.where(full, 1.0, self.alpha)
        return {"td": (values - targets).square(), "main": weights * (total - targets).square()}


class ResQ(nn.Module):
    """Q_tot + w_r Q_r, with Q_tot monotone, Q_r <= 0, and w_r = 0 at the greedy action of Q_tot, else 1.

    The residual may lower every action but the one that the agents find, so Q_tot need be right there alone.

    L = (Q_jt - y)^2 + (Q_tot + w_r Q_r - y)^2. The authors' code lets Q_r become positive.

    References:
        Shen et al. 2022, ResQ: a residual Q function-based approach for multi-agent reinforcement learning value
        factorization, NeurIPS; 000_507b39bbaa34acda.txt, section 10.3.
    """

    def __init__(self, sizes: Sizes, width: int = 64) -> None:
        super().__init__()
        self.joint, self.residual = JointValue(sizes, width), JointValue(sizes, width)
        self.main = QMIX(sizes, width // 2)

    def forward(self, utilities: Utilities) -> Tensor:
        return self.joint(utilities.states, utilities.actions)[..., 0]

    def total(self, utilities: Utilities) -> Tensor:
        return self.main(utilities) + masked_residual(self.residual, utilities)[..., 0]

    def losses(self, utilities: Utilities, targets: Tensor) -> dict[str, Tensor]:
        return {
            "td": (self(utilities) - targets).square(),
            "main": (self.total(utilities) - targets).square(),
        }


class ResZ(nn.Module):
    """Z_tot + w_r Z_r, quantiles of the return: Z_tot = sum_i k_i(s) Z_i(tau_i, u_i), k_i >= 0, and every Z_r <= 0.

    ResQ for distributions. Quantiles of one level are added, as if the returns of all agents rose together.

    L = the quantile Huber losses of Z_jt and of Z_tot + w_r Z_r for the target's quantiles.

    References:
        Shen et al. 2022, as `ResQ`; Dabney et al. 2018, arXiv:1710.10044, equation 10; 000_507b39bbaa34acda.txt,
        section 10.3.
    """

    def __init__(self, sizes: Sizes, width: int = 64) -> None:
        super().__init__()
        self.joint, self.residual = JointValue(sizes, width), JointValue(sizes, width)
        self.weights = nn.Sequential(nn.Linear(sizes.state, width), nn.ReLU(), nn.Linear(width, sizes.agents))

    def forward(self, utilities: Utilities) -> Tensor:
        return self.joint(utilities.states, utilities.actions)

    def total(self, utilities: Utilities) -> Tensor:
        main = (self.weights(utilities.states).abs()[..., None] * utilities.chosen).sum(-2)
        return main + masked_residual(self.residual, utilities)

    def losses(self, utilities: Utilities, targets: Tensor) -> dict[str, Tensor]:
        return {
            "td": quantile_huber(self(utilities), targets),
            "main": quantile_huber(self.total(utilities), targets),
        }


def is_greedy(utilities: Utilities) -> Tensor:
    """Whether u is the greedy joint action, (...,) bool."""
    return (utilities.actions == utilities.greedy).all(-1)


def masked_residual(residual: JointValue, utilities: Utilities) -> Tensor:
    """w_r Q_r, (..., M): minus the absolute value of a network, and 0 at the greedy action."""
    lowered = -residual(utilities.states, utilities.actions).abs()
    return lowered.masked_fill(is_greedy(utilities)[..., None], 0.0)


def quantile_huber(quantiles: Tensor, targets: Tensor) -> Tensor:
    """sum_m mean_j |tau_m - 1[y_j < z_m]| huber(y_j - z_m), tau_m = (m - 1/2) / M: (..., M), (..., M) -> (...,).

    References:
        Dabney et al. 2018, arXiv:1710.10044, equation 10.
    """
    count = quantiles.shape[-1]
    levels = (torch.arange(count, device=quantiles.device, dtype=quantiles.dtype) + 0.5) / count
    errors = targets[..., None, :] - quantiles[..., :, None]  # (..., M, J)
    huber = torch.where(errors.abs() <= 1, 0.5 * errors.square(), errors.abs() - 0.5)
    return ((levels[:, None] - (errors.detach() < 0).to(errors.dtype)).abs() * huber).mean(-1).sum(-1)
