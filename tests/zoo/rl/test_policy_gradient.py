"""The policy gradient: every estimator against the exact gradient of a small process, and A2C against PPO."""

from itertools import pairwise

import pytest
import torch

from zoo.rl.flat import FlatParameters, FlatRMSprop
from zoo.rl.on_policy.losses import clipped_surrogate
from zoo.rl.on_policy.policy_gradient import Estimator, estimate, gradient_rows, policy_gradient_loss
from zoo.rl.on_policy.ppo import ppo_loss, rows_of
from zoo.rl.policies import ActorCritic
from zoo.rl.tabular.gradients import (
    corridor,
    estimated_gradients,
    exact_gradient,
    sample_episodes,
    theorem_gradient,
)
from zoo.rl.types import Rollout

GAMMA, EPISODES, BATCHES = 0.8, 4, 12_500
MDP = corridor()
LOGITS = torch.tensor([[0.3, -0.2], [0.1, 0.4], [-0.3, 0.2]]).double()
POLICY = LOGITS.softmax(1)
VALUES = MDP.values(POLICY, GAMMA)
EXACT = exact_gradient(MDP, LOGITS, GAMMA)
MONTE_CARLO = Estimator("monte-carlo", "none", discount_states=True, gamma=GAMMA)
TOTAL = MONTE_CARLO._replace(reward_to_go=False, discount_states=False)


@pytest.fixture(scope="module")
def episodes():
    return sample_episodes(MDP, POLICY, EPISODES, BATCHES, torch.Generator().manual_seed(1))


def measured(episodes, how, values=VALUES):
    """The mean over batches, its standard error, and the variance of one episode's estimate, summed over entries."""
    found = estimated_gradients(episodes, LOGITS, values, how)
    return found.mean(0), found.std(0) / BATCHES**0.5, EPISODES * float(found.var(0).sum())


def z_score(episodes, how, values=VALUES, target=EXACT):
    mean, error, _ = measured(episodes, how, values)
    return float(((mean - target) / error).abs().max())


def test_the_theorem_is_the_derivative():
    torch.testing.assert_close(theorem_gradient(MDP, LOGITS, GAMMA), EXACT, rtol=0, atol=1e-12)


def test_the_sampled_episodes_earn_the_expected_return(episodes):
    discounts = GAMMA ** torch.arange(len(episodes.rewards))[:, None, None]
    returns = (episodes.rewards * discounts).sum(0).flatten()
    error = returns.std() / len(returns) ** 0.5
    assert abs(returns.mean() - MDP.expected_return(POLICY, GAMMA)) < 4 * error
    assert (episodes.valid[1:] <= episodes.valid[:-1]).all()
    assert ((episodes.terminated | episodes.truncated).sum(0) == 1).all()


@pytest.mark.parametrize(
    "how",
    [
        TOTAL, MONTE_CARLO, MONTE_CARLO._replace(baseline="leave-one-out"), MONTE_CARLO._replace(baseline="value"),
        TOTAL._replace(baseline="leave-one-out"), TOTAL._replace(baseline="value"),
        *(MONTE_CARLO._replace(returns="gae", baseline="value", gae_lambda=lambda_) for lambda_ in (0.0, 0.9)),
        *(MONTE_CARLO._replace(returns="n-step", baseline=b, n_step=n) for b in ("none", "value") for n in (1, 3)),
    ],
    ids=str,
)  # fmt: skip
def test_these_estimators_are_unbiased(episodes, how):
    # with the exact V, bootstrapping is no bias. Of 3 independent entries the largest |z| is above 4 once in 5,000 runs
    assert z_score(episodes, how) < 4


def test_without_gamma_to_the_t_it_is_another_gradient(episodes):
    assert z_score(episodes, MONTE_CARLO._replace(discount_states=False)) > 15


def test_a_mean_with_its_own_sample_shrinks_the_gradient(episodes):
    mean = MONTE_CARLO._replace(baseline="mean")
    assert z_score(episodes, mean) > 15
    assert z_score(episodes, mean, target=EXACT * (1 - 1 / EPISODES)) < 4
    one, other = (estimate(episodes, VALUES[:1], VALUES[:1], MONTE_CARLO._replace(baseline=kind))[0]
                  for kind in ("mean", "leave-one-out"))  # fmt: skip
    torch.testing.assert_close(one, other * (1 - 1 / EPISODES), rtol=1e-9, atol=1e-12)


def test_wrong_values_bias_a_bootstrap_and_not_a_baseline(episodes):
    wrong = VALUES / 2
    assert z_score(episodes, MONTE_CARLO._replace(baseline="value"), wrong) < 4
    biased = [MONTE_CARLO._replace(returns="gae", baseline="value", gae_lambda=x) for x in (0.0, 0.5, 0.9, 1.0)]
    scores = [z_score(episodes, how, wrong) for how in biased]
    assert scores == sorted(scores, reverse=True), "more of the returns, less of the bias"
    assert scores[2] > 8
    assert scores[3] < 4, "lambda 1 is a Monte Carlo return"


def test_the_variance_falls(episodes):
    kinds = [TOTAL, MONTE_CARLO, MONTE_CARLO._replace(baseline="leave-one-out"), MONTE_CARLO._replace(baseline="value")]
    kinds.append(MONTE_CARLO._replace(returns="n-step", baseline="value", n_step=1))
    variances = [measured(episodes, how)[2] for how in kinds]
    assert all(a > 1.05 * b for a, b in pairwise(variances)), variances


def test_episodes_as_loops():
    """Two columns of lengths 3 and 2, the first truncated, against the definitions read aloud."""
    rewards = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
    terminated = torch.tensor([[False, False], [False, True], [False, False]])
    truncated = torch.tensor([[False, False], [False, False], [True, False]])
    valid = torch.tensor([[True, True], [True, True], [True, False]])
    none = torch.zeros(0)
    rollout = Rollout(none, none, rewards, terminated, truncated, valid, none, none)
    values, following = torch.full((3, 2), 10.0), torch.full((3, 2), 100.0)
    how = Estimator("monte-carlo", "none", gamma=0.5)
    psi, targets = estimate(rollout, values, following, how)
    assert targets[:, 0].tolist() == psi[:, 0].tolist() == [1 + 1.5 + 1.25, 3 + 2.5, 5], "a limit is an end"
    assert psi[:2, 1].tolist() == [4, 4]
    psi, targets = estimate(rollout, values, following, how._replace(baseline="value"))
    assert targets[:, 0].tolist() == [1 + 0.5 * (3 + 0.5 * 55), 3 + 0.5 * 55, 55], "what was cut off has a value"
    assert targets[:2, 1].tolist() == [4, 4]
    assert torch.equal(psi, targets - values)
    psi, _ = estimate(rollout, values, following, how._replace(reward_to_go=False))
    assert psi[:, 0].tolist() == [3.75] * 3
    psi, _ = estimate(rollout, values, following, how._replace(discount_states=True))
    assert psi[:, 0].tolist() == [3.75, 2.75, 1.25]
    psi, _ = estimate(rollout, values, following, how._replace(baseline="leave-one-out"))
    assert psi.tolist() == [[3.75 - 4, 4 - 3.75], [5.5 - 4, 4 - 5.5], [5.0, -5.0]]


def rollout_of(policy, steps=6, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(steps + 1, count, 2, generator=generator)
    with torch.no_grad():
        noise = policy.distribution.noise(steps, count, generator)
        actions = torch.stack([policy.draw(observations[t], noise[t]) for t in range(steps)])
    terminated, truncated = (torch.rand(steps, count, generator=generator) < 0.2 for _ in range(2))
    valid = ~torch.cat([torch.zeros(1, count, dtype=torch.bool), (terminated | truncated)[:-1]])
    rewards = torch.randn(steps, count, generator=generator)
    return Rollout(observations, actions, rewards, terminated & valid, truncated & valid, valid, rewards[0], rewards[0])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("space", [{"num_actions": (3,)}, {"action_low": (-1.0,), "action_high": (1.0,)}])
def test_the_gradient_of_a2c_is_ppo_s_first(space, normalize):
    torch.manual_seed(0)
    policy = ActorCritic((2,), hidden=(5, 4), **space)
    flat, rollout = FlatParameters(policy), rollout_of(policy)
    weights = {"value_weight": 0.5, "entropy_weight": 0.01}
    with torch.no_grad():
        how = Estimator(gae_lambda=0.9)
        ours, raw = (gradient_rows(policy, rollout, torch.ones(()), how, n) for n in (normalize, False))
        theirs = rows_of(policy, rollout, torch.ones(()), 0.99, 0.9)
        for name in ("observations", "actions", "advantages", "targets", "weights"):
            torch.testing.assert_close(getattr(raw, name), getattr(theirs, name))
        # the same rows, so that nothing rounds differently before the losses
        theirs = raw._replace(log_probs=policy(raw.observations, raw.actions).log_prob)
    options = {"policy": policy, "value_clip": None, "normalize_advantages": normalize}
    one, _ = flat.gradient(lambda p, m: policy_gradient_loss(p, m, policy=policy, **weights), ours.pack())
    clip = torch.tensor(0.2)
    two, _ = flat.gradient(lambda p, m: ppo_loss(p, m, clip, **options, **weights), theirs.pack())
    assert torch.equal(one, two), "to the bit: the ratio is 1"


def test_reinforce_sums_over_steps_and_averages_over_episodes():
    torch.manual_seed(0)
    policy = ActorCritic((2,), (3,), hidden=(5,))
    rollout = rollout_of(policy, count=2)
    ended = torch.zeros(6, 2, dtype=torch.bool)
    ended[3, 0] = ended[5, 1] = True
    valid = torch.ones(6, 2, dtype=torch.bool)
    valid[4:, 0] = False
    rollout = rollout._replace(terminated=ended, truncated=ended & False, valid=valid, rewards=rollout.rewards * valid)
    how = Estimator("monte-carlo", "none")
    rows = gradient_rows(policy, rollout, torch.ones(()), how, False)
    names = {"value_weight": 0.0, "entropy_weight": 0.0}
    loss, _ = policy_gradient_loss(dict(policy.named_parameters()), rows.pack(), policy=policy, **names)
    expected = 0.0
    for column, length in enumerate((4, 6)):
        for t in range(length):
            gain = sum(0.99 ** (k - t) * rollout.rewards[k, column] for k in range(t, length))
            said = policy(rollout.observations[t, column], rollout.actions[t, column])
            expected = expected - gain * said.log_prob / 2
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)  # float32


@pytest.mark.parametrize("inside", [False, True])
def test_rmsprop(inside):
    """Epsilon outside is PyTorch's to rounding; inside is the recurrence as written."""
    vector, other = (torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]).double()) for _ in range(2))
    ours = FlatRMSprop(vector, 0.01, epsilon=0.1, inside=inside)
    theirs = torch.optim.RMSprop([other], 0.01, alpha=0.99, eps=0.1)
    square, by_hand = 1.0, other.detach().clone()
    for step in range(3):
        gradient = torch.tensor([0.3, 0.01, -2.0]).double() * (step + 1)
        ours.update(gradient.clone())
        other.grad = gradient.clone()
        theirs.step()
        square = 0.99 * square + 0.01 * gradient**2
        by_hand -= 0.01 * gradient / (square + 0.1).sqrt()
    torch.testing.assert_close(vector.detach(), by_hand if inside else other.detach(), rtol=1e-12, atol=0)


def test_the_importance_sampled_gradient_is_exact_in_the_action_and_not_in_the_state():
    """E_mu[r grad log pi A] = grad E_pi[A] for the old advantages and visits; J itself also changes through visits."""
    torch.manual_seed(0)
    old, new = LOGITS, (LOGITS + 0.3 * torch.randn(3, 2, dtype=torch.float64)).requires_grad_()
    visits, q = MDP.visitation(POLICY, GAMMA), MDP.action_values(POLICY, GAMMA)
    advantages = q - VALUES[:, None]
    weights = visits[:, None] * old.softmax(1)  # of the rows that the old policy visits
    ratio = new.log_softmax(1) - old.log_softmax(1)
    loss = (weights * clipped_surrogate(ratio, advantages, torch.tensor(torch.inf))).sum()
    (sampled,) = torch.autograd.grad(-loss, new)
    expected = visits[:, None] * new.detach().softmax(1) * advantages
    expected = expected - new.detach().softmax(1) * expected.sum(1, keepdim=True)
    torch.testing.assert_close(sampled, expected)
    exact = exact_gradient(MDP, new.detach(), GAMMA)
    assert (sampled - exact).norm() > 0.1 * exact.norm(), "away from the old policy"
    at_old = exact_gradient(MDP, old, GAMMA)
    scores = weights * advantages
    torch.testing.assert_close(scores - old.softmax(1) * scores.sum(1, keepdim=True), at_old, rtol=0, atol=1e-12)
