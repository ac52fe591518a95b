import math

import pytest
import torch

from zoo.rl.distributions import Categorical, DiagonalGaussian, StateDependentGaussian
from zoo.rl.moments import RunningMoments
from zoo.rl.policies import ActorCritic, Tanh

SHAPE, ROWS = (3, 2), 5
KINDS = {
    "discrete": {"num_actions": (4,)},
    "multi-discrete": {"num_actions": (3, 2, 4)},
    "gaussian": {"action_low": (-2.0, 0.0), "action_high": (2.0, 1.0), "log_std": -0.7},
    "state-dependent": {
        "action_low": (-2.0, 0.0), "action_high": (2.0, 1.0), "exploration": "state-dependent", "log_std": -1.0,
    },
}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)


def policy(kind, **changes):
    torch.manual_seed(0)
    made = ActorCritic(SHAPE, **(KINDS[kind] | {"hidden": (7, 6)} | changes)).double()
    with torch.no_grad():  # the actor's head begins near 0, where everything would be alike
        made.actor_head.weight.mul_(100)
    return made


def observations(rows=ROWS, seed=1):
    return torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every_kind
def test_actions_are_drawn_by_their_log_probability(kind):
    made, count = policy(kind), 200_000
    one = observations(1)
    with torch.no_grad():
        noise = made.distribution.noise(1, 1 if made.num_actions else count, torch.Generator().manual_seed(2))[0]
        if made.num_actions:  # the frequency of each joint action
            many = one.expand(count, *SHAPE)
            noise = made.distribution.noise(1, count, torch.Generator().manual_seed(2))[0]
            actions = made.draw(many, noise.double())
            joint, counts = actions.unique(dim=0, return_counts=True)
            expected = made(one.expand(len(joint), *SHAPE), joint).log_prob.exp()
            assert len(joint) == math.prod(made.num_actions)
            torch.testing.assert_close(expected.sum(), torch.ones_like(expected[0]))
            # 5 standard deviations of a frequency
            assert ((counts / count - expected).abs() < 5 * (expected / count).sqrt()).all()
        else:  # mean and variance, against those that the log-probability says by its curvature
            actions = made.draw(one.expand(count, *SHAPE), noise.double())
            mean = actions.mean(0)
            at = torch.autograd.functional.hessian(lambda a: made(one[0], a).log_prob, mean)
            torch.testing.assert_close(-1 / at.diagonal(), actions.var(0), rtol=0.03, atol=0)
            top = torch.func.grad(lambda a: made(one[0], a).log_prob)(mean)
            assert (top.abs() * actions.std(0) < 5 / math.sqrt(count) + 1e-3).all()


@every_kind
def test_the_entropy_is_the_mean_of_minus_the_log_probability(kind):
    made, count = policy(kind), 100_000
    many = observations(1).expand(count, *SHAPE)
    with torch.no_grad():
        drawn = made.draw(many, made.distribution.noise(1, count, torch.Generator().manual_seed(3))[0].double())
        said = made(many, drawn)
    error = said.log_prob.std() / math.sqrt(count)
    assert abs(-said.log_prob.mean() - said.entropy[0]) < 5 * error


@every_kind
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_shapes_gradients_and_times(kind, shared, normalize):
    made = policy(kind, shared=shared, normalize=normalize)
    over_time = observations(4 * ROWS).view(4, ROWS, *SHAPE)
    noise = made.distribution.noise(4, ROWS)
    assert noise.shape[:2] == (4, ROWS)
    actions = torch.stack([made.draw(row, noise[t].double()) for t, row in enumerate(over_time)])
    said = made(over_time, actions)
    assert all(part.shape == (4, ROWS) for part in said)
    torch.testing.assert_close(said.values, made.values(over_time))
    torch.testing.assert_close(said.log_prob[2], made(over_time[2], actions[2]).log_prob)
    sum(part.sum() for part in said).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in made.parameters())


@every_kind
def test_acting(kind):
    made = policy(kind).float()
    batch = observations().float()
    actions = made.act(batch)
    assert actions.shape == ((ROWS,) if kind == "discrete" else (ROWS, len(made.num_actions) or 2))
    assert actions.is_floating_point() == (not made.num_actions)
    torch.testing.assert_close(made.act(batch[0]), actions[0])  # kernels choose by shape
    assert torch.equal(made.act(batch), actions), "without exploring, always the same"
    drawn = [made.act(batch, explore=True, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    if not made.num_actions:
        far = made.to_environment(torch.tensor([[-9.0, 9.0], [0.0, -1.0], [0.5, 0.5]]))
        assert far.tolist() == [[-2.0, 1.0], [0.0, 0.0], [1.0, 0.75]]
    with pytest.raises(ValueError, match=r"must be of shape \(3, 2\)"):
        made.act(torch.zeros(ROWS, 6))


def test_noise_is_held():
    noise = StateDependentGaussian(2, 3, hold=4).noise(10, 5)
    assert noise.shape == (10, 5, 3, 2)
    assert torch.equal(noise[0], noise[3])
    assert torch.equal(noise[8], noise[9])
    assert not torch.equal(noise[3], noise[4])


def test_the_variance_of_state_dependent_noise_has_its_closed_form():
    made = StateDependentGaussian(2, 3)
    with torch.no_grad():
        made.log_std.copy_(torch.tensor([[0.1, 0.2], [-0.4, 0.3], [0.0, -0.9]]))
    features = torch.tensor([1.5, -2.0, 0.3])
    variance = (features[:, None] ** 2 * (2 * made.log_std).exp()).sum(0)
    expected = torch.distributions.Normal(torch.zeros(2), variance.sqrt()).log_prob(torch.tensor([0.7, -1.0])).sum()
    got = made.log_prob(torch.zeros(2), features, torch.tensor([0.7, -1.0]))
    # 1e-6 is added to the variance, so that it is never 0
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_distributions_are_those_of_pytorch():
    logits, mean = torch.randn(ROWS, 9), torch.randn(ROWS, 3)
    parts = [torch.distributions.Categorical(logits=part) for part in logits.split((3, 2, 4), 1)]
    actions = torch.stack([part.sample() for part in parts], 1)
    ours = Categorical((3, 2, 4))
    chosen = actions.float()
    expected = sum(part.log_prob(actions[:, k]) for k, part in enumerate(parts))
    torch.testing.assert_close(ours.log_prob(logits, logits, chosen), expected)
    torch.testing.assert_close(ours.entropy(logits, logits), sum(part.entropy() for part in parts))
    gaussian = DiagonalGaussian(3, -0.4)
    theirs = torch.distributions.Normal(mean, math.exp(-0.4))
    torch.testing.assert_close(gaussian.log_prob(mean, mean, mean + 0.3), theirs.log_prob(mean + 0.3).sum(1))
    torch.testing.assert_close(gaussian.entropy(mean, mean), theirs.entropy().sum(1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "not both"),
        ({"num_actions": (2,), "action_low": (0.0,), "action_high": (1.0,)}, "not both"),
        ({"action_low": (0.0, 0.0), "action_high": (1.0,)}, "one length"),
        ({"action_low": (0.0,), "action_high": (math.inf,)}, "finite"),
        ({"action_low": (1.0,), "action_high": (0.0,)}, "below"),
        ({"num_actions": (2,), "activation": "gelu"}, "activation"),
        ({"num_actions": (2,), "exploration": "bold"}, "exploration"),
        ({"num_actions": (2,), "exploration": "state-dependent"}, "continuous"),
        ({"num_actions": (0,)}, "positive"),
        ({"num_actions": (2,), "hidden": ()}, "empty"),
    ],
)
def test_wrong_arguments(changes, words):
    with pytest.raises(ValueError, match=words):
        ActorCritic(SHAPE, **changes)


def test_moments_in_parts_are_those_of_the_whole():
    data = torch.randn(1001, 3, 2, dtype=torch.float64) * 5 + 3
    moments = RunningMoments((3, 2))
    for part in (data[:1], data[1:8], data[8:8], data[8:]):
        moments.merge(RunningMoments.sums(part))
    torch.testing.assert_close(moments.mean, data.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moments.variance, data.var(0, correction=0), rtol=1e-10, atol=0)
    assert moments.count == 1001
    normal = moments.normalize(data)
    assert normal.abs().max() <= 10
    torch.testing.assert_close(normal.mean(0), torch.zeros(3, 2, dtype=normal.dtype), rtol=0, atol=1e-5)
    two = RunningMoments((3, 2))  # of two processes, added
    two.merge(RunningMoments.sums(data[:400]) + RunningMoments.sums(data[400:]))
    torch.testing.assert_close(two.variance, moments.variance, rtol=1e-10, atol=0)


def test_fresh_moments_change_nothing():
    x = torch.tensor([[0.5, -3.0]])
    torch.testing.assert_close(RunningMoments((2,)).normalize(x), x)


def test_tanh():
    x = torch.linspace(-20, 20, 1001)
    # 2 sigmoid - 1 loses what lies below float32's spacing at 1
    torch.testing.assert_close(Tanh()(x), x.tanh(), rtol=0, atol=2e-7)
    torch.testing.assert_close(Tanh()(x.double()), x.double().tanh(), rtol=0, atol=4e-16)
