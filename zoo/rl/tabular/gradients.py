"""Policy gradients of a softmax table on a finite process: exact, and as each estimator has them from episodes."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from zoo.rl.on_policy.policy_gradient import Estimator, estimate
from zoo.rl.tabular.mdp import MDP
from zoo.rl.types import Rollout


def corridor() -> MDP:
    """Three states in a row: "on" leads further with probability 0.8, "out" ends with a small reward, the last pays.

    The first action decides most and is discounted least, so that it matters how gamma^t weighs the steps.
    """
    probabilities = torch.tensor([[[0.8, 0.2], [1.0, 0.0]]] * 3, dtype=torch.float64)
    next_states = torch.tensor([[[1, 0], [0, 0]], [[2, 1], [1, 1]], [[0, 2], [2, 2]]])
    rewards = torch.tensor([[[0.0, -0.5], [1.0, 0.0]], [[0.0, -0.5], [0.5, 0.0]], [[2.0, 0.0], [3.0, 0.0]]])
    terminated = torch.tensor([[[False, False], [True, True]]] * 3)
    return MDP(probabilities, next_states, rewards.double(), terminated, one_hot(torch.tensor(0), 3).double())


def exact_gradient(mdp: MDP, logits: Tensor, gamma: float) -> Tensor:
    """dJ / dtheta of pi = softmax(theta), by differentiating J = start (I - gamma P_pi)^-1 r_pi: (S, A) -> (S, A)."""
    leaf = logits.detach().requires_grad_()
    with torch.enable_grad():
        value = mdp.start @ mdp.values(leaf.softmax(1), gamma)
    (gradient,) = torch.autograd.grad(value, leaf)
    return gradient


def theorem_gradient(mdp: MDP, logits: Tensor, gamma: float) -> Tensor:
    """sum_s d(s) sum_a pi(a | s) Q(s, a) grad log pi(a | s), d the expected discounted visits: (S, A) -> (S, A).

    References:
        Sutton et al. 1999, theorem 1; 000_507b39bbaa34acda.txt, section 1.
    """
    policy = logits.softmax(1)
    weighted = mdp.visitation(policy, gamma)[:, None] * policy * mdp.action_values(policy, gamma)
    return weighted - policy * weighted.sum(1, keepdim=True)  # grad log pi(a | s) = e_a - pi


def sample_episodes(
    mdp: MDP, policy: Tensor, count: int, batches: int, generator: torch.Generator, limit: int = 1000
) -> Rollout:
    """Whole episodes, (T, count, batches); observations are states (T + 1, ...), actions (T, ...), both int64.

    Args:
        policy: (S, A), pi(a | s). limit: steps after which an episode is truncated.
    """
    shape = count, batches
    draws = count * batches
    state = torch.multinomial(mdp.start, draws, True, generator=generator).view(shape)
    valid, states = torch.ones(shape, dtype=torch.bool), [state]
    rows: list[tuple[Tensor, ...]] = []
    while valid.any() and len(rows) < limit:
        action = torch.multinomial(policy[state.flatten()], 1, generator=generator).view(shape)
        outcome = torch.multinomial(mdp.probabilities[state, action].flatten(0, 1), 1, generator=generator).view(shape)
        ended = mdp.terminated[state, action, outcome] & valid
        cut = valid & ~ended & (len(rows) + 1 == limit)
        rows.append((action, mdp.rewards[state, action, outcome] * valid, ended, cut, valid))
        state, valid = mdp.next_states[state, action, outcome], valid & ~ended & ~cut
        states.append(state)
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    return Rollout._make((torch.stack(states), *columns, torch.zeros(0), torch.zeros(0), None))


def estimated_gradients(rollout: Rollout, logits: Tensor, values: Tensor, how: Estimator) -> Tensor:
    """(batches, S, A): sum_t Psi_t grad log pi(a_t | s_t), averaged over the episodes of each batch.

    Args:
        rollout: of `sample_episodes`. values: (S,), V that baselines and bootstraps take, right or wrong.
    """
    states = rollout.observations[:-1]
    psi, _ = estimate(rollout, values[states], values[rollout.observations[1:]], how)
    psi = psi * rollout.valid
    shape = (psi.shape[2], *logits.shape)
    pairs = torch.zeros(shape[0], logits.numel(), dtype=psi.dtype)  # sums of Psi over each pair, for each batch
    index = (states * logits.shape[1] + rollout.actions).flatten(0, 1).T
    pairs.scatter_add_(1, index, psi.flatten(0, 1).T)
    pairs = pairs.view(shape) / psi.shape[1]
    return pairs - logits.softmax(1) * pairs.sum(2, keepdim=True)
