import pytest
import torch

from zoo.rl.flat import FlatAdam, FlatParameters
from zoo.rl.on_policy.losses import (
    approximate_kl,
    clipped_surrogate,
    explained_variance,
    standardized,
    value_loss,
    weighted_mean,
)
from zoo.rl.on_policy.ppo import Rows, next_penalty, ppo_loss, rows_of
from zoo.rl.policies import ActorCritic
from zoo.rl.types import Rollout

WEIGHTS = {"value_weight": 0.5, "entropy_weight": 0.01, "value_clip": None, "normalize_advantages": False}
CLIP = torch.tensor(0.2)


def made(seed=0):
    torch.manual_seed(seed)
    return ActorCritic((3,), action_low=(-1.0, -1.0), action_high=(1.0, 1.0), hidden=(5, 4)).double()


def rows(count=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(count, 3), (count, 2), *[(count,)] * 4]
    return Rows(
        *(torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes), torch.ones(count).double()
    )


def test_packing():
    given = rows()
    assert given.pack().shape == (7, 10)
    for part, again in zip(given, Rows.unpack(given.pack(), 2), strict=True):
        assert torch.equal(part, again)


def test_the_clipped_surrogate():
    ratio = torch.tensor([0.5, 0.9, 1.1, 1.5] * 2).double()
    advantages = torch.tensor([1.0] * 4 + [-1.0] * 4).double()
    expected = torch.tensor([0.5, 0.9, 1.1, 1.2, -0.8, -0.9, -1.1, -1.5]).double()
    torch.testing.assert_close(-clipped_surrogate(ratio.log(), advantages, CLIP.double()), expected, rtol=1e-6, atol=0)


def test_the_gradient_of_the_surrogate_ends_where_it_is_clipped():
    log_ratio = torch.tensor([0.5, 1.5, 0.5, 1.5]).log().requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    clipped_surrogate(log_ratio, advantages, CLIP).sum().backward()
    assert log_ratio.grad.tolist() == pytest.approx([-0.5, 0.0, 0.0, 1.5])


def test_value_losses():
    values, targets, old = torch.tensor([0.0, 2.0, 5.0]), torch.tensor([1.0, 1.0, 5.0]), torch.tensor([0.0, 1.9, 1.0])
    assert value_loss(values, targets).tolist() == [0.5, 0.5, 0.0]
    # the third value moved by 4, of which 1 counts: the clipped one is 2, 3 from its target
    assert value_loss(values, targets, old, 1.0).tolist() == [0.5, 0.5, 4.5]


def test_the_kl_estimate_is_right_in_the_mean():
    p, q = torch.tensor([0.2, 0.5, 0.3]).double(), torch.tensor([0.4, 0.4, 0.2]).double()
    estimate = approximate_kl((q / p).log())
    assert (estimate >= 0).all()
    torch.testing.assert_close((p * estimate).sum(), (p * (p / q).log()).sum())


def test_weights_leave_rows_out():
    x, w = torch.tensor([1.0, 5.0, 9.0, 1000.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert weighted_mean(x, w) == 5
    torch.testing.assert_close(standardized(x, w)[:3], (x[:3] - 5) / x[:3].std())
    assert explained_variance(x, x, w) == 1
    assert explained_variance(torch.full((4,), 5.0), x, w) == 0


def test_a_row_that_is_no_transition_changes_nothing():
    policy, given = made(), rows(8)
    given.weights[3] = 0
    options = WEIGHTS | {"normalize_advantages": True}
    parameters = dict(policy.named_parameters())
    losses = []
    for junk in (0.0, 50.0):
        changed = given._replace(**{name: getattr(given, name).clone() for name in given._fields})
        for part in changed[:6]:
            part[3] += junk
        losses.append(ppo_loss(parameters, changed.pack(), CLIP, policy=policy, **options)[0])
    short = Rows(*(torch.cat([part[:3], part[4:]]) for part in given))
    losses.append(ppo_loss(parameters, short.pack(), CLIP, policy=policy, **options)[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-12, atol=0)


def test_the_first_gradient_is_that_of_the_policy_gradient():
    # at the old policy r = 1, nothing is clipped: -A grad log pi, plus the other two losses
    policy, given = made(), rows()
    with torch.no_grad():
        given = given._replace(log_probs=policy(given.observations, given.actions).log_prob)
    loss, stats = ppo_loss(dict(policy.named_parameters()), given.pack(), CLIP, policy=policy, **WEIGHTS)
    got = torch.autograd.grad(loss, list(policy.parameters()))
    now = policy(given.observations, given.actions)
    plain = -(given.advantages * now.log_prob).mean() - 0.01 * now.entropy.mean()
    plain = plain + 0.5 * 0.5 * (now.values - given.targets).square().mean()
    for one, other in zip(got, torch.autograd.grad(plain, list(policy.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert abs(stats["kl"]) < 1e-12
    assert stats["clip_fraction"] == 0


def test_the_flat_gradient_and_step_are_those_of_pytorch():
    ours, theirs, given = made(), made(), rows()
    flat = FlatParameters(ours)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    adam = FlatAdam(flat.vector, 0.01)
    reference = torch.optim.Adam(theirs.parameters(), 0.01, eps=1e-5)
    for _ in range(4):
        gradient, _ = flat.gradient(lambda p: ppo_loss(p, given.pack(), CLIP, policy=ours, **WEIGHTS))
        adam.update(gradient, 0.5)
        reference.zero_grad()
        ppo_loss(dict(theirs.named_parameters()), given.pack(), CLIP, policy=theirs, **WEIGHTS)[0].backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    again = FlatAdam(flat.vector, 0.5)
    again.load_state_dict(adam.state_dict())
    assert again.state_dict()["state"][0]["step"] == 4


def test_rows_of_a_rollout():
    policy, (steps, count) = made().float(), (6, 4)
    torch.manual_seed(1)
    no = torch.zeros(steps, count, dtype=torch.bool)
    truncated = no.clone()
    truncated[2, 1] = True
    valid = ~no
    valid[3, 1] = False
    rollout = Rollout(
        torch.randn(steps + 1, count, 3), torch.randn(steps, count, 2), torch.randn(steps, count),
        no, truncated, valid, torch.tensor([]), torch.tensor([]),
    )  # fmt: skip
    with torch.no_grad():
        got = rows_of(policy, rollout, torch.tensor(1.0), 0.9, 0.8)
        values = policy.values(rollout.observations)
    # the row that was cut is led on by the value of the observation after it, which is the true last one
    row = 2 * count + 1
    expected = rollout.rewards[2, 1] + 0.9 * values[3, 1] - values[2, 1]
    torch.testing.assert_close(got.advantages[row], expected)
    torch.testing.assert_close(got.targets, got.advantages + got.values)
    assert got.weights.sum() == steps * count - 1
    assert got.weights[3 * count + 1] == 0
    assert torch.equal(got.observations, rollout.observations[:-1].flatten(0, 1))


def test_the_penalty_has_the_gradient_of_the_kl():
    """Over all actions weighted by the old policy, beta times the exact KL's; and none of it moves the values."""
    torch.manual_seed(0)
    policy = ActorCritic((3,), (4,), hidden=(5,)).double()
    observation, actions = torch.randn(1, 3).double().expand(4, 3), torch.arange(4.0).double()[:, None]
    with torch.no_grad():
        old = policy(observation, actions).log_prob
        policy.actor_head.bias += torch.randn(4).double()
    zeros = torch.zeros(4, dtype=torch.float64)
    given = Rows(observation, actions, old, zeros, zeros, zeros, old.exp())
    parameters = dict(policy.named_parameters())
    options = WEIGHTS | {"entropy_weight": 0.0, "value_weight": 0.0}
    infinite, beta = torch.tensor(torch.inf), torch.tensor(1.7).double()
    loss, _ = ppo_loss(parameters, given.pack(), infinite, beta, policy=policy, **options)
    said = policy.distribution.describe(*policy.outputs(observation))
    kl = policy.distribution.kl(old.expand(4, 4), said).mean()
    for one, other in zip(
        torch.autograd.grad(loss, parameters.values(), allow_unused=True, retain_graph=True),
        torch.autograd.grad(beta * kl, parameters.values(), allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(torch.zeros(()) if one is None else one, 0 * one if other is None else other)
    none, _ = ppo_loss(parameters, given.pack(), infinite, 0 * beta, policy=policy, **options)
    assert none == ppo_loss(parameters, given.pack(), infinite, policy=policy, **options)[0]


def test_the_weight_of_the_penalty():
    beta = torch.tensor(2.0)
    moved = [float(next_penalty(beta, torch.tensor(kl), "adaptive", 0.01, 1.0)) for kl in (0.02, 0.012, 0.008, 0.001)]
    assert moved == [4.0, 2.0, 2.0, 1.0]
    assert float(next_penalty(beta, torch.tensor(0.03), "dual", 0.01, 10.0)) == pytest.approx(2.2)
    assert float(next_penalty(torch.tensor(0.05), torch.tensor(0.0), "dual", 0.01, 10.0)) == 0, "never negative"


def test_dual_ascent_ends_at_the_constrained_optimum():
    """max E[r A] with KL(old || new) <= eps on a bandit: the multiplier settles where the KL is eps."""
    p = torch.tensor([0.2, 0.5, 0.3]).double()
    advantages, bound, beta = torch.tensor([1.0, -1.0, 0.5]).double(), 0.02, torch.tensor(1.0).double()
    for _ in range(300):
        # E[r A] - beta KL(p || q) is largest at q = beta p / (mu - A): mu by bisection, so that q sums to 1
        low, high = advantages.max() + 1e-9, advantages.max() + 1e3
        for _ in range(80):
            mu = (low + high) / 2
            low, high = (mu, high) if (beta * p / (mu - advantages)).sum() > 1 else (low, mu)
        q = beta * p / (mu - advantages)
        kl = (p * (p / q).log()).sum()
        beta = next_penalty(beta, kl, "dual", bound, 10.0)
    assert float(kl) == pytest.approx(bound, rel=1e-3)
    assert float(q.sum()) == pytest.approx(1, abs=1e-6)
