"""Mixers: Q_tot(s, u) from the utilities of the agents, so that each agent alone finds its part of the best action.

A mixer is called with `Utilities` and returns the value that targets bootstrap from; its `losses(utilities, targets)`
are unreduced, and its `total(utilities)` is Q_tot, for whose maximum the principle IGM holds:

    argmax_u Q_tot(s, u) = (argmax_u1 Q_1(tau_1, u1), ..., argmax_uA Q_A(tau_A, uA)).

References:
    000_507b39bbaa34acda.txt, section 10.1, equations 54 to 58.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import elu


class Utilities(NamedTuple):
    """What a mixer sees of joint actions u in states s, with any axes in front.

    Attributes:
        chosen: (..., A) Q_i(tau_i, u_i), or (..., A, M) quantiles of it. best: the same of the greedy actions.
        actions, greedy: (..., A) int64, u and the actions that are greedy by the agents that are learning.
        states: (..., S). observations: (..., A, D).
    """

    chosen: Tensor
    best: Tensor
    actions: Tensor
    greedy: Tensor
    states: Tensor
    observations: Tensor

    def at_greedy(self) -> "Utilities":
        """The same states with the greedy actions."""
        return self._replace(chosen=self.best, actions=self.greedy)


class Sizes(NamedTuple):
    """A, D, K, S and M: agents, features of an observation, actions, features of a state, quantiles."""

    agents: int
    observation: int
    actions: int
    state: int
    quantiles: int = 1


def squared_errors(mixer: Any, utilities: Utilities, targets: Tensor) -> dict[str, Tensor]:
    """(Q_tot(s, u) - y)^2; a trailing axis, of agents, is summed."""
    errors = (mixer(utilities) - targets).square()
    return {"td": errors.sum(-1) if errors.ndim == utilities.actions.ndim else errors}


class Independent(nn.Module):
    """No mixing: each agent learns of the team's reward alone, Q_i(tau_i, u_i), (..., A). The floor of all methods.

    References:
        Tan 1993, Multi-agent reinforcement learning: independent versus cooperative agents.
    """

    losses = squared_errors

    def __init__(self, sizes: Sizes, width: int = 32) -> None:
        super().__init__()

    def forward(self, utilities: Utilities) -> Tensor:
        return utilities.chosen

    def total(self, utilities: Utilities) -> Tensor:
        return utilities.chosen.sum(-1)


class VDN(nn.Module):
    """Q_tot = sum_i Q_i(tau_i, u_i).

    References:
        Sunehag et al. 2017, arXiv:1706.05296, equation 1.
    """

    losses = squared_errors

    def __init__(self, sizes: Sizes, width: int = 32) -> None:
        super().__init__()

    def forward(self, utilities: Utilities) -> Tensor:
        return utilities.chosen.sum(-1)

    total = forward


class QMIX(nn.Module):
    """Q_tot = |W_2(s)| elu(|W_1(s)| q + b_1(s)) + b_2(s), monotone in every utility: dQ_tot / dQ_i >= 0.

    W_1, W_2 and b_2 are networks of the state with one hidden layer, b_1 a linear one. That of b_2, the value of a
    state, is four times as wide as in the paper: what it gets wrong is noise in the targets of every action.

    Args:
        width: of the mixing layer.

    References:
        Rashid et al. 2018, arXiv:1803.11485, equations 4 and 5, figure 2; 000_507b39bbaa34acda.txt, equation 55.
    """

    losses = squared_errors

    def __init__(self, sizes: Sizes, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.first, self.second = _two_layers(sizes.state, sizes.agents * width), _two_layers(sizes.state, width)
        self.bias, self.offset = nn.Linear(sizes.state, width), _two_layers(sizes.state, 1, 4 * width)
        for network in (self.first, self.second):  # dQ_tot / dQ_i is about 1, not 0.1: agents begin to learn as in VDN
            last = network[-1]
            assert isinstance(last, nn.Linear)
            nn.init.constant_(last.bias, width**-0.5)

    def forward(self, utilities: Utilities) -> Tensor:
        s, q = utilities.states, utilities.chosen
        first = self.first(s).abs().unflatten(-1, (q.shape[-1], self.width))  # (..., A, E)
        hidden = elu((q[..., None] * first).sum(-2) + self.bias(s))
        return (hidden * self.second(s).abs()).sum(-1) + self.offset(s)[..., 0]

    total = forward


class Qatten(nn.Module):
    """Q_tot = c(s) + sum_h w_h(s) sum_i lambda_ih(s) Q_i, lambda_ih = softmax_i(<K_h o_i, T_h(s)> / sqrt d), w_h >= 0.

    Attention of the state to the agents, H heads; the features of an agent are what it observes.

    Args:
        width: H d, of all heads together. heads: H.

    References:
        Yang et al. 2020, arXiv:2002.03939, equations 10 to 13; 000_507b39bbaa34acda.txt, equations 61 and 62.
    """

    losses = squared_errors

    def __init__(self, sizes: Sizes, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of the {heads} heads of Qatten, got {width}")
        self.heads = heads
        self.keys = nn.Linear(sizes.observation, width, bias=False)
        self.queries = _two_layers(sizes.state, width)
        self.weights, self.offset = _two_layers(sizes.state, heads), _two_layers(sizes.state, 1)

    def forward(self, utilities: Utilities) -> Tensor:
        s = utilities.states
        keys = self.keys(utilities.observations).unflatten(-1, (self.heads, -1))  # (..., A, H, d)
        queries = self.queries(s).unflatten(-1, (self.heads, -1))
        attention = ((keys * queries[..., None, :, :]).sum(-1) / keys.shape[-1] ** 0.5).softmax(-2)  # (..., A, H)
        of_heads = (attention * utilities.chosen[..., None]).sum(-2)
        return (self.weights(s).abs() * of_heads).sum(-1) + self.offset(s)[..., 0]

    total = forward


class QPLEX(nn.Module):
    """Q_tot = sum_i V_i + sum_i lambda_i(s, u) A_i, lambda_i > 0, of w_i(s) Q_i + b_i(s) = V_i + A_i with w_i > 0.

    V_i is the value of the greedy action, so A_i <= 0 with equality there, which is IGM whatever lambda is. It has all
    joint actions as its input: any function with the same greedy actions can be learned. The gradient of A_i is that of
    lambda_i = 1, as in the authors' code: small lambda_i must not silence an agent.

    Args:
        width: of the hidden layers.
        heads: terms of lambda_i(s, u) = sum_h |k_h(s)| sigmoid(phi_hi(s)) sigmoid(psi_hi(s, u)).

    References:
        Wang et al. 2021, arXiv:2008.01062, equations 6 to 11; 000_507b39bbaa34acda.txt, section 10.4, equation 4, whose
        lambda_i lacks the state.
    """

    losses = squared_errors

    def __init__(self, sizes: Sizes, width: int = 64, heads: int = 10) -> None:
        super().__init__()
        self.sizes, self.heads = sizes, heads
        both = sizes.state + sizes.agents * sizes.actions
        self.scale, self.shift = (_two_layers(sizes.state, sizes.agents, width) for _ in range(2))
        self.key = _two_layers(sizes.state, heads, width)
        self.of_state = _two_layers(sizes.state, heads * sizes.agents, width)
        self.of_both = _two_layers(both, heads * sizes.agents, width)

    def forward(self, utilities: Utilities) -> Tensor:
        s = utilities.states
        scale, shift = self.scale(s).abs() + 1e-10, self.shift(s)
        chosen = scale * utilities.chosen + shift
        advantages = (scale * (utilities.chosen - utilities.best)).detach()
        return chosen.sum(-1) + (advantages * (self.importance(utilities) - 1)).sum(-1)

    total = forward

    def importance(self, utilities: Utilities) -> Tensor:
        """lambda_i(s, u), (..., A)."""
        s, shape = utilities.states, (self.heads, self.sizes.agents)
        key = self.key(s).abs()[..., None] + 1e-10
        of_state = self.of_state(s).unflatten(-1, shape).sigmoid()
        of_both = self.of_both(joint_inputs(s, utilities.actions, self.sizes.actions)).unflatten(-1, shape).sigmoid()
        return (key * of_state * of_both).sum(-2)


def joint_inputs(states: Tensor, actions: Tensor, num_actions: int) -> Tensor:
    """(..., S) and (..., A) -> (..., S + A K), the state and the one-hot actions of all agents."""
    taken = actions[..., None] == torch.arange(num_actions, device=actions.device)  # `one_hot` has no `vmap`
    return torch.cat([states, taken.flatten(-2).to(states.dtype)], -1)


def _two_layers(inputs: int, outputs: int, width: int = 64) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))
