import numpy as np
import pytest
import torch

from zoo.rl.on_policy.returns import (
    discounted_returns,
    generalized_advantages,
    lambda_returns,
    linear_recurrence,
    n_step_returns,
)

GAMMA, LAMBDA = 0.93, 0.7
T, N = 13, 3


def episodes(steps=T, seed=0, ends=0.3):
    """(rewards, values, next_values, terminated, truncated) with ends of both kinds, also both at once."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values, last = (torch.randn(steps, N, 2, generator=generator, dtype=torch.float64) for _ in range(3))
    terminated, truncated = (torch.rand(steps, N, 2, generator=generator) < ends for _ in range(2))
    over = terminated | truncated
    next_values = torch.where(over, last, torch.cat([values[1:], last[-1:]]))
    return rewards, values, next_values, terminated, truncated


def loop(rewards, values, next_values, terminated, truncated, gamma, lambda_):
    """GAE as its definition reads, one step after another."""
    advantages, following = torch.zeros_like(rewards), torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * (1 - terminated[t].double()) * next_values[t] - values[t]
        following = delta + gamma * lambda_ * (1 - (terminated[t] | truncated[t]).double()) * following
        advantages[t] = following
    return advantages


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 13, 64])
def test_the_recurrence_by_doubling_is_the_loop(steps):
    generator = torch.Generator().manual_seed(steps)
    x, decay = (torch.rand(steps, 4, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    expected, following = torch.zeros_like(x), 0.0
    for t in reversed(range(steps)):
        expected[t] = following = x[t] + decay[t] * following
    # only the order of the sums differs
    torch.testing.assert_close(linear_recurrence(x, decay), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_advantages_are_those_of_the_definition(seed):
    given = episodes(seed=seed)
    torch.testing.assert_close(
        generalized_advantages(*given, GAMMA, LAMBDA), loop(*given, GAMMA, LAMBDA), rtol=1e-12, atol=1e-12
    )


def test_advantages_have_their_closed_form():
    # reward 1, V = v, no end, cut after T rows: delta (1 - (gamma lambda)^(T - t)) / (1 - gamma lambda)
    v = 2.5
    ones = torch.ones(T, N, dtype=torch.float64)
    no = torch.zeros(T, N, dtype=torch.bool)
    delta, rate = 1 + GAMMA * v - v, GAMMA * LAMBDA
    left = torch.arange(T, 0, -1, dtype=torch.float64)[:, None].expand(T, N)
    expected = delta * (1 - rate**left) / (1 - rate)
    got = generalized_advantages(ones, v * ones, v * ones, no, no, GAMMA, LAMBDA)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_lambda_0_is_one_step_and_lambda_1_is_the_return():
    rewards, values, next_values, terminated, truncated = given = episodes()
    one_step = rewards + GAMMA * next_values * ~terminated - values
    torch.testing.assert_close(generalized_advantages(*given, GAMMA, 0.0), one_step)
    returns = discounted_returns(rewards, next_values, terminated, truncated, GAMMA)
    torch.testing.assert_close(generalized_advantages(*given, GAMMA, 1.0) + values, returns, rtol=1e-12, atol=1e-12)


def test_advantages_plus_values_are_lambda_returns():
    rewards, values, next_values, terminated, truncated = given = episodes()
    expected = lambda_returns(rewards, next_values, terminated, truncated, GAMMA, LAMBDA)
    got = generalized_advantages(*given, GAMMA, LAMBDA) + values
    # the two agree where V(s'_t) is the value of row t + 1 or of the end, which is how `episodes` are made
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_n_steps_end_in_one_step_and_in_the_whole_return():
    rewards, _, next_values, terminated, truncated = episodes()
    rest = (rewards, next_values, terminated, truncated, GAMMA)
    torch.testing.assert_close(n_step_returns(*rest, 1), lambda_returns(*rest, 0.0))
    torch.testing.assert_close(n_step_returns(*rest, T + 4), discounted_returns(*rest), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="n must be at least 1"):
        n_step_returns(*rest, 0)


def test_lambda_returns_mix_n_step_returns():
    # without ends: (1 - lambda) sum_n lambda^(n-1) G^(n) + lambda^(T-1) G^(T), for the first row
    rewards, values, _, _, _ = episodes()
    no = torch.zeros_like(rewards, dtype=torch.bool)
    next_values = torch.cat([values[1:], values[:1]])
    rest = (rewards, next_values, no, no, GAMMA)
    steps = [n_step_returns(*rest, n)[0] for n in range(1, T + 1)]
    mixed = (1 - LAMBDA) * sum(LAMBDA**n * value for n, value in enumerate(steps[:-1])) + LAMBDA ** (T - 1) * steps[-1]
    torch.testing.assert_close(lambda_returns(*rest, LAMBDA)[0], mixed, rtol=1e-12, atol=1e-12)


def test_nothing_crosses_an_end_and_only_termination_ends_the_value():
    rewards, values, next_values, terminated, truncated = episodes(ends=0.0)
    for end in (terminated, truncated):
        end[5, 1, 0] = True
        advantages = generalized_advantages(rewards, values, next_values, terminated, truncated, GAMMA, LAMBDA)
        later = rewards.clone()
        later[6:] += 100
        changed = generalized_advantages(later, values, next_values, terminated, truncated, GAMMA, LAMBDA)
        assert torch.equal(advantages[:6, 1, 0], changed[:6, 1, 0])
        assert not torch.equal(advantages[:6, 0, 0], changed[:6, 0, 0])
        bootstrapped = rewards[5, 1, 0] + GAMMA * next_values[5, 1, 0] * (end is truncated) - values[5, 1, 0]
        torch.testing.assert_close(advantages[5, 1, 0], bootstrapped)
        end[5, 1, 0] = False


def test_advantages_are_those_of_stable_baselines():
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    from gymnasium.spaces import Box

    rewards, values, next_values, terminated, truncated = (x[..., 0] for x in episodes(steps=T))
    # they add gamma V(s') to the reward where an episode was cut, and know ends as starts of the next row
    cut = truncated & ~terminated
    added = (rewards + GAMMA * cut * next_values).numpy()
    over = (terminated | truncated).numpy()
    space = Box(-1, 1, (1,))
    buffer = buffers.RolloutBuffer(T, space, space, device="cpu", gae_lambda=LAMBDA, gamma=GAMMA, n_envs=N)
    start = np.zeros(N)
    for t in range(T):
        buffer.add(np.zeros((N, 1)), np.zeros((N, 1)), added[t], start, values[t], torch.zeros(N))
        start = over[t]
    buffer.compute_returns_and_advantage(next_values[-1], start)
    got = generalized_advantages(rewards, values, next_values, terminated, truncated, GAMMA, LAMBDA)
    # they compute in float32
    np.testing.assert_allclose(got.numpy(), buffer.advantages, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose((got + values).numpy(), buffer.returns, rtol=1e-4, atol=1e-5)
