"""V-trace: against its definition read aloud, its reductions, and the values that it converges to."""

import pytest
import torch

from tests.zoo.rl.test_policy_gradient import rollout_of
from tests.zoo.rl.test_returns import episodes
from zoo.rl.flat import FlatParameters
from zoo.rl.on_policy.policy_gradient import Estimator, gradient_rows, policy_gradient_loss
from zoo.rl.on_policy.returns import discounted_returns, generalized_advantages, lambda_returns
from zoo.rl.on_policy.vtrace import vtrace, vtrace_rows
from zoo.rl.policies import ActorCritic
from zoo.rl.tabular.mdp import MDP

GAMMA = 0.93


def ratios(like, seed=5):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


def by_definition(log_ratio, rewards, values, next_values, terminated, truncated, gamma, lambda_, rho_bar, c_bar):
    """v_s = V(s_s) + sum_t gamma^(t-s) (prod_{i=s}^{t-1} c_i) delta_t over the rows of the same episode."""
    targets, ratio = values.clone(), log_ratio.exp()
    for index in range(values[0].numel()):
        at = (slice(None), *torch.unravel_index(torch.tensor(index), values.shape[1:]))
        column = [x[at].tolist() for x in (ratio, rewards, values, next_values, terminated, truncated)]
        r, reward, value, after, term, trunc = column
        for s in range(len(reward)):
            found, traced = value[s], 1.0
            for t in range(s, len(reward)):
                found += traced * min(rho_bar, r[t]) * (reward[t] + gamma * after[t] * (not term[t]) - value[t])
                if term[t] or trunc[t]:
                    break
                traced *= gamma * lambda_ * min(c_bar, r[t])
            targets[(s, *at[1:])] = found
    return targets


@pytest.mark.parametrize(("lambda_", "rho_bar", "c_bar"), [(1.0, 1.0, 1.0), (0.7, 2.0, 0.6), (1.0, float("inf"), 1.5)])
def test_it_is_its_definition(lambda_, rho_bar, c_bar):
    given = episodes()
    options = GAMMA, lambda_, rho_bar, c_bar
    found = vtrace(ratios(given[0]), *given, *options)
    expected = by_definition(ratios(given[0]), *given, *options)
    torch.testing.assert_close(found.targets, expected)
    rewards, values, next_values, terminated, truncated = given
    rho = ratios(rewards).exp().clamp(max=rho_bar)
    for t in range(len(rewards)):
        following = next_values[t]
        if t + 1 < len(rewards):
            following = torch.where(terminated[t] | truncated[t], following, expected[t + 1])
        advantage = rho[t] * (rewards[t] + GAMMA * following * ~terminated[t] - values[t])
        torch.testing.assert_close(found.advantages[t], advantage)


def test_on_policy_it_is_the_return():
    rewards, values, next_values, terminated, truncated = given = episodes()
    ends, zeros = (terminated, truncated), torch.zeros_like(rewards)
    found = vtrace(zeros, *given, GAMMA)
    returns = discounted_returns(rewards, next_values, *ends, GAMMA)
    torch.testing.assert_close(found.targets, returns)
    torch.testing.assert_close(found.advantages, generalized_advantages(rewards, values, next_values, *ends, GAMMA, 1))
    half = vtrace(zeros, *given, GAMMA, 0.5)
    torch.testing.assert_close(half.targets, lambda_returns(rewards, next_values, *ends, GAMMA, 0.5))


@pytest.mark.parametrize("terminates", [False, True])
def test_what_follows_an_end_does_not_matter(terminates):
    """Over an inner end it is that of the two trajectories."""
    rewards, values, next_values, terminated, truncated = episodes(ends=0.0)
    (terminated if terminates else truncated)[5] = True
    given = rewards, values, torch.where(ratios(rewards, 1) > 0, next_values, ratios(rewards, 2)), terminated, truncated
    whole = vtrace(ratios(rewards), *given, GAMMA)
    parts = [vtrace(ratios(rewards)[rows], *(x[rows] for x in given), GAMMA) for rows in (slice(6), slice(6, None))]
    for one, two in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(one, torch.cat(two))


@pytest.mark.parametrize("rho_bar", [0.5, 1.0, 100.0])
def test_its_values_are_those_of_the_policy_between(rho_bar):
    """The expected update is 0 at V of pi_rho ~ min(rho_bar mu, pi), and so not at V of pi unless rho_bar is large."""
    torch.manual_seed(0)
    states, actions = 4, 3
    p = torch.rand(states, actions, states, dtype=torch.float64)
    p = p / p.sum(-1, keepdim=True)
    rewards = torch.randn(states, actions, 1, dtype=torch.float64)
    indices, start = torch.arange(states).expand_as(p), torch.full((states,), 0.25, dtype=torch.float64)
    mdp = MDP(p, indices, rewards.expand_as(p), torch.zeros_like(p, dtype=torch.bool), start)
    mu, pi = torch.randn(2, states, actions, dtype=torch.float64).softmax(-1)
    between = torch.minimum(rho_bar * mu, pi)
    between = between / between.sum(1, keepdim=True)

    def update(values):
        """E_mu[rho (r + gamma V(s') - V(s))] in each state, by one row for each s, a, s'."""
        shape = states, actions, states
        log_ratio = (pi.log() - mu.log())[..., None].expand(shape).reshape(1, -1)
        rows = rewards.expand(shape).reshape(1, -1), values[:, None, None].expand(shape).reshape(1, -1)
        ends = torch.zeros(1, len(rows[0][0]), dtype=torch.bool)
        after = values.expand(shape).reshape(1, -1)
        found = vtrace(log_ratio, *rows, after, ends, ends, 0.9, rho_bar=rho_bar).targets - rows[1]
        return (found.view(shape) * mu[..., None] * p).sum((1, 2))

    torch.testing.assert_close(update(mdp.values(between, 0.9)), torch.zeros(states).double(), rtol=0, atol=1e-12)
    assert (update(mdp.values(pi, 0.9)).abs().max() < 1e-12) == (rho_bar == 100.0)


@pytest.mark.parametrize("space", [{"num_actions": (3,)}, {"action_low": (-1.0,), "action_high": (1.0,)}])
def test_without_lag_and_bound_its_gradient_is_a2c_s(space):
    torch.manual_seed(0)
    policy = ActorCritic((2,), hidden=(5, 4), **space)
    flat, rollout = FlatParameters(policy), rollout_of(policy)
    weights = {"value_weight": 0.5, "entropy_weight": 0.01}
    with torch.no_grad():
        ours, said = vtrace_rows(policy, rollout, torch.ones(()), 0.99, 1.0, float("inf"), 1.0)
        theirs = gradient_rows(policy, rollout, torch.ones(()), Estimator(), False)
    assert said["rho"] == 1
    assert said["clipped"] == 0
    gradients = [
        flat.gradient(lambda p, m: policy_gradient_loss(p, m, policy=policy, **weights), rows.pack())[0]
        for rows in (ours, theirs)
    ]
    torch.testing.assert_close(*gradients)
