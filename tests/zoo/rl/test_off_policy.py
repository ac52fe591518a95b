import math

import pytest
import torch
from torch import nn

from zoo.rl.distributions import Deterministic, SquashedGaussian
from zoo.rl.flat import FlatParameters
from zoo.rl.off_policy.actors import Actor
from zoo.rl.off_policy.critics import Critics
from zoo.rl.off_policy.noise import clipped_gaussian, ornstein_uhlenbeck
from zoo.rl.off_policy.sac import sac_actor_loss, sac_critics_loss, sac_value_loss
from zoo.rl.off_policy.td3 import td3_actor_loss, td3_critics_loss
from zoo.rl.off_policy.values import (
    bootstrapped,
    critics_loss,
    expected_soft_values,
    policy_gradient_loss,
    soft_policy_loss,
    soft_update,
    soft_values,
    temperature_gradient,
)
from zoo.rl.types import Transitions

ROWS, SIZE, ACTIONS, HIDDEN = 5, 3, 2, (7, 6)
BOUNDS = {"action_low": (-2.0, 0.0), "action_high": (2.0, 1.0)}


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def actor(**options):
    torch.manual_seed(0)
    return Actor((SIZE,), hidden=HIDDEN, **(BOUNDS | options)).double()


def critics(outputs=1, inputs=SIZE + ACTIONS, count=2, seed=1):
    torch.manual_seed(seed)
    return Critics(inputs, outputs, HIDDEN, count).double()


def batch(action_size=ACTIONS):
    torch.manual_seed(2)
    matrix = torch.randn(ROWS, 2 * SIZE + action_size + 2, dtype=torch.float64)
    matrix[:, SIZE + action_size + 1] = tensor(0.9, 0.0, 0.9, 0.81, 0.9)
    if action_size == 1:
        matrix[:, SIZE] = tensor(0, 3, 1, 2, 3)
    return matrix


def test_a_table_by_hand():
    values = tensor([1.0, 4.0, -2.0], [3.0, 2.0, -5.0])  # two critics, three samples
    logs, alpha = tensor(-1.0, 0.5, 2.0), tensor(0.5)[0]
    following = soft_values(values, logs, alpha)
    assert following.tolist() == [1.5, 1.75, -6.0]
    goal = bootstrapped(tensor(1.0, -1.0, 0.0), tensor(0.5, 0.0, 1.0), following)
    assert goal.tolist() == [1.75, -1.0, -6.0]
    assert critics_loss(values, goal).tolist() == [0.5 * (0.75**2 + 1.25**2), 0.5 * (25 + 9), 0.5 * (16 + 1)]
    assert soft_policy_loss(values, logs, alpha).tolist() == [-1.5, -1.75, 6.0]
    assert policy_gradient_loss(values).tolist() == [-1.0, -4.0, 2.0]
    # the entropy, 1.5 on average, is above its target of -1: log alpha must fall
    assert temperature_gradient(tensor(1.0, -4.0), target_entropy=-1.0).mean() == 2.5


def test_expected_values_are_sums_over_actions():
    values, logits, alpha = torch.randn(2, ROWS, 4).double(), torch.randn(ROWS, 4).double(), tensor(0.3)[0]
    by_hand = [
        sum(p * (min(a, b) - 0.3 * math.log(p)) for p, a, b in zip(*row, strict=True))
        for row in zip(logits.softmax(1).tolist(), values[0].tolist(), values[1].tolist(), strict=True)
    ]
    torch.testing.assert_close(expected_soft_values(values, logits, alpha), tensor(*by_hand))
    # the best policy of a temperature is softmax(Q / alpha), whose value is alpha logsumexp(Q / alpha)
    smaller = values.amin(0)
    best = expected_soft_values(values, smaller / alpha, alpha)
    torch.testing.assert_close(best, alpha * (smaller / alpha).logsumexp(1))
    assert (best >= expected_soft_values(values, logits, alpha)).all()


def test_soft_updates():
    target, source = tensor(1.0, 2.0), tensor(3.0, -2.0)
    soft_update(target, source, 0.25)
    assert target.tolist() == [1.5, 1.0]
    soft_update(target, source, 1.0)
    assert torch.equal(target, source)


def test_batched_critics_are_separate_networks():
    both, x = critics(), torch.randn(ROWS, SIZE + ACTIONS, dtype=torch.float64)
    for k in range(2):
        layers = []
        for weight, bias in zip(both.weights, both.biases, strict=True):
            layer = nn.Linear(*weight.shape[1:]).double()
            layer.weight.data, layer.bias.data = weight[k].mT, bias[k, 0]
            layers += [layer, nn.ReLU()]
        torch.testing.assert_close(both(x)[k], nn.Sequential(*layers[:-1])(x)[:, 0])
    torch.testing.assert_close(both(x, count=1), both(x)[:1])
    several = critics(outputs=4)
    assert several(x).shape == (2, ROWS, 4)
    gradient = torch.autograd.grad(both(x)[0].sum(), both.weights[0])[0]
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0, "they share nothing"


@pytest.mark.parametrize("mean", [0.0, 1.5, -8.0])
def test_the_squashed_density_integrates_to_one(mean):
    made = SquashedGaussian(1)
    noise = torch.linspace(-9, 9, 40_001, dtype=torch.float64)[:, None]
    outputs = tensor(mean, -0.4).expand(len(noise), 2)
    u = mean + math.exp(-0.4) * noise[:, 0]
    actions, logs = made.sample_with_log_prob(outputs, noise)
    torch.testing.assert_close(actions[:, 0], torch.tanh(u))
    # the mass between two actions, which far out are alike to the last bit: in units of u instead
    density = (logs + 2 * (math.log(2) - u - nn.functional.softplus(-2 * u))).exp()
    mass = torch.trapezoid(density, u)
    torch.testing.assert_close(mass, torch.ones_like(mass))
    if abs(mean) < 2:  # where tanh has an inverse in floating point
        near = u.abs() < 8
        mass = torch.trapezoid(logs.exp()[near], actions[near, 0])
        torch.testing.assert_close(mass, torch.ones_like(mass), rtol=1e-4, atol=0)


def test_squashed_log_probabilities_are_those_of_pytorch():
    made, noise = SquashedGaussian(ACTIONS), torch.randn(ROWS, ACTIONS, dtype=torch.float64)
    outputs = torch.randn(ROWS, 2 * ACTIONS, dtype=torch.float64, requires_grad=True)
    actions, logs = made.sample_with_log_prob(outputs, noise)
    mean, log_std = outputs.chunk(2, 1)
    base = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(base, torch.distributions.TanhTransform(cache_size=1))
    torch.testing.assert_close(logs, squashed.log_prob(actions).sum(1))
    torch.testing.assert_close(made.sample(outputs, outputs, noise), actions)
    torch.testing.assert_close(made.mode(outputs), torch.tanh(mean))
    far = torch.cat([torch.full((1, ACTIONS), 50.0), torch.full((1, ACTIONS), 9.0)], 1).requires_grad_()
    _, logs = made.sample_with_log_prob(far, torch.ones(1, ACTIONS))
    logs.sum().backward()
    assert logs.isfinite().all()
    assert far.grad.isfinite().all()
    assert far.grad[0, ACTIONS:].tolist() == [0.0, 0.0], "a deviation beyond the bounds is held there"


def test_noise():
    normal = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0)).double()
    path = ornstein_uhlenbeck(normal, torch.zeros(4).double(), theta=0.5, sigma=0.3, dt=0.1)
    torch.testing.assert_close(path[0], 0.3 * math.sqrt(0.1) * normal[0])
    torch.testing.assert_close(path[7], path[6] - 0.5 * path[6] * 0.1 + 0.3 * math.sqrt(0.1) * normal[7])
    variance = 0.3**2 * 0.1 / (1 - (1 - 0.5 * 0.1) ** 2)
    # 80,000 numbers, of which about 1 in 40 is new: a relative error of 3 %
    assert path[100:].var().item() == pytest.approx(variance, rel=0.12)
    assert clipped_gaussian(tensor(-9.0, 1.0, 9.0), 0.2, 0.5).tolist() == [-0.5, 0.2, 0.5]


def test_a_drift_goes_on_until_it_begins_anew():
    made = Deterministic(ACTIONS, sigma=0.2, drift=True)
    # 16 numbers a step: PyTorch draws fewer in another way
    whole = made.noise(6, 8, torch.Generator().manual_seed(1))
    made.begin()
    generator = torch.Generator().manual_seed(1)
    parts = [made.noise(steps, 8, generator) for steps in (2, 1, 3)]
    torch.testing.assert_close(torch.cat(parts), whole)
    outputs = torch.full((8, ACTIONS), 9.0)
    assert made.sample(outputs, outputs, torch.ones(8, ACTIONS)).max() == 1
    torch.testing.assert_close(made.sample(outputs * 0, outputs, whole[0]), (0.2 * whole[0]).clamp(-1, 1))


@pytest.mark.parametrize("options", [{}, {"kind": "deterministic"}, {"num_actions": (4,)}])
def test_actors_act(options):
    made = actor(**({"action_low": (), "action_high": ()} if options.get("num_actions") else {}) | options).float()
    many = torch.randn(ROWS, SIZE, generator=torch.Generator().manual_seed(0))
    actions = made.act(many)
    # to rounding: a processor's kernels choose by shape
    torch.testing.assert_close(made.act(many[1]), actions[1])
    drawn = [made.act(many, explore=True, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    if made.num_actions:
        assert actions.dtype == torch.int64
        return
    for values in (actions, *drawn):
        assert ((values >= made.low) & (values <= made.high)).all()
    half = 0.5 * (made.high - made.low)
    torch.testing.assert_close(actions, made.low + (made.distribution.mode(made(many)) + 1) * half)


def test_wrong_actors():
    with pytest.raises(ValueError, match="kind"):
        actor(kind="lucky")
    for options in ({"num_actions": (2, 3)}, {"num_actions": (2,), "kind": "deterministic"}):
        with pytest.raises(ValueError, match="actor takes continuous actions"):
            actor(action_low=(), action_high=(), **options)
    with pytest.raises(ValueError, match="positive"):
        Critics(3, 1, ())


def numerical(function, vector, count=6):
    """Central differences at some entries of a vector."""
    slopes, places = [], torch.randperm(len(vector), generator=torch.Generator().manual_seed(0))[:count]
    for place in places:
        ends = []
        for sign in (1, -1):
            vector[place] += sign * 1e-6
            ends.append(float(function()))
            vector[place] -= sign * 1e-6
        slopes.append((ends[0] - ends[1]) / 2e-6)
    return places, tensor(*slopes)


@pytest.mark.parametrize("discrete", [False, True])
def test_soft_losses_and_their_gradients(discrete):
    policy = actor(num_actions=(4,), action_low=(), action_high=()) if discrete else actor()
    size = SIZE if discrete else SIZE + ACTIONS
    online, target = critics(4 if discrete else 1, size), critics(4 if discrete else 1, size, seed=3)
    matrix, noise = batch(1 if discrete else ACTIONS), torch.randn(ROWS, ACTIONS, dtype=torch.float64)
    alpha = tensor(0.3)[0]
    rows = Transitions.unpack(matrix, 1 if discrete else ACTIONS)
    assert torch.equal(torch.cat([c if c.ndim == 2 else c[:, None] for c in rows], 1), matrix)
    outputs = policy(rows.next_observations)
    if discrete:
        following = expected_soft_values(target(rows.next_observations), outputs, alpha)
        chosen = online(rows.observations).gather(2, rows.actions.long().expand(2, ROWS, 1))[..., 0]
        of_actor = -expected_soft_values(online(rows.observations), policy(rows.observations), alpha).mean()
    else:
        actions, logs = policy.distribution.sample_with_log_prob(outputs, noise)
        following = soft_values(target(torch.cat([rows.next_observations, actions], 1)), logs, alpha)
        chosen = online(torch.cat([rows.observations, rows.actions], 1))
        actions, logs = policy.distribution.sample_with_log_prob(policy(rows.observations), noise)
        of_actor = (alpha * logs - online(torch.cat([rows.observations, actions], 1)).amin(0)).mean()
    goal = rows.rewards + rows.discounts * following
    flat, flat_actor = FlatParameters(online), FlatParameters(policy)
    networks = {"actor": policy, "critics": online}
    gradient, stats = flat.gradient(lambda p: sac_critics_loss(p, matrix, noise, alpha, targets=target, **networks))
    torch.testing.assert_close(stats["critics_loss"], 0.5 * (chosen - goal).square().sum(0).mean().detach())
    goal = goal.detach()

    def loss():
        q = online(rows.observations if discrete else torch.cat([rows.observations, rows.actions], 1))
        if discrete:
            q = q.gather(2, rows.actions.long().expand(2, ROWS, 1))[..., 0]
        return 0.5 * (q - goal).square().sum(0).mean()

    with torch.no_grad():
        places, slopes = numerical(loss, flat.vector)
        torch.testing.assert_close(gradient[places], slopes, rtol=1e-5, atol=1e-8)
        gradient, stats = flat_actor.gradient(lambda p: sac_actor_loss(p, matrix, noise, alpha, **networks))
        torch.testing.assert_close(stats["actor_loss"], of_actor.detach())

        def actor_loss():
            return sac_actor_loss(dict(policy.named_parameters()), matrix, noise, alpha, **networks)[0]

        places, slopes = numerical(actor_loss, flat_actor.vector)
        torch.testing.assert_close(gradient[places], slopes, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("discrete", [False, True])
def test_a_value_network_is_taught_by_the_critics_and_teaches_them(discrete):
    policy = actor(num_actions=(4,), action_low=(), action_high=()) if discrete else actor()
    size = SIZE if discrete else SIZE + ACTIONS
    online, value = critics(4 if discrete else 1, size), critics(inputs=SIZE, count=1, seed=4)
    matrix, noise, alpha = (
        batch(1 if discrete else ACTIONS),
        torch.randn(ROWS, ACTIONS, dtype=torch.float64),
        tensor(0.3)[0],
    )
    rows = Transitions.unpack(matrix, 1 if discrete else ACTIONS)
    if discrete:
        goal = expected_soft_values(online(rows.observations), policy(rows.observations), alpha)
    else:
        actions, logs = policy.distribution.sample_with_log_prob(policy(rows.observations), noise)
        goal = soft_values(online(torch.cat([rows.observations, actions], 1)), logs, alpha)
    expected = 0.5 * (value(rows.observations)[0] - goal.detach()).square().mean()
    parameters = dict(value.named_parameters())
    loss, _ = sac_value_loss(parameters, matrix, noise, alpha, value=value, critics=online, actor=policy)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(one, [*value.parameters()]) for one in (loss, expected)]
    torch.testing.assert_close(*gradients)

    options = {"critics": online, "actor": policy, "value_network": True}
    loss, _ = sac_critics_loss(dict(online.named_parameters()), matrix, noise, alpha, targets=value, **options)
    goal = rows.rewards + rows.discounts * value(rows.next_observations)[0]
    chosen = online(torch.cat([rows.observations, rows.actions], 1)) if not discrete else None
    if discrete:
        chosen = online(rows.observations).gather(2, rows.actions.long().expand(2, ROWS, 1))[..., 0]
    torch.testing.assert_close(loss, 0.5 * (chosen - goal).square().sum(0).mean())


def test_with_exact_values_the_target_is_that_of_sac():
    """Where V is the expectation over the policy, r + d V(s') is the target of two critics, exactly."""
    policy, online = actor(num_actions=(4,), action_low=(), action_high=()), critics(4, SIZE)
    target, matrix, alpha = critics(4, SIZE, seed=3), batch(1), tensor(0.3)[0]

    def exact(observations):
        return expected_soft_values(target(observations), policy(observations), alpha)[None]

    given = {"critics": online, "actor": policy}
    parameters = dict(online.named_parameters())
    plain, _ = sac_critics_loss(parameters, matrix, None, alpha, targets=target, **given)
    by_value, _ = sac_critics_loss(parameters, matrix, None, alpha, targets=exact, value_network=True, **given)
    assert torch.equal(plain, by_value)


def test_td3_without_what_it_adds_is_ddpg():
    policy, one, target = actor(kind="deterministic"), critics(count=1), critics(count=1, seed=3)
    matrix, noise = batch(), torch.randn(ROWS, ACTIONS, dtype=torch.float64)
    rows = Transitions.unpack(matrix, ACTIONS)
    parameters = dict(one.named_parameters())
    networks = {"critics": one, "targets": target, "target_actor": policy}
    plain, _ = td3_critics_loss(parameters, matrix, **networks)
    actions = torch.tanh(policy(rows.next_observations))
    goal = rows.rewards + rows.discounts * target(torch.cat([rows.next_observations, actions], 1))[0]
    now = one(torch.cat([rows.observations, rows.actions], 1))[0]
    torch.testing.assert_close(plain, 0.5 * (now - goal).square().mean())
    silent, _ = td3_critics_loss(parameters, matrix, noise, **networks, sigma=0.0, clip=0.5)
    assert torch.equal(silent, plain)
    loud, _ = td3_critics_loss(parameters, matrix, noise, **networks, sigma=0.2, clip=0.5)
    assert loud != plain
    huge, _ = td3_critics_loss(parameters, matrix, 1e9 * noise.sign(), **networks, sigma=1.0, clip=9.0)
    edge = target(torch.cat([rows.next_observations, noise.sign()], 1))[0]
    goal = rows.rewards + rows.discounts * edge
    torch.testing.assert_close(huge, 0.5 * (now - goal).square().mean(), msg="actions of the target stay within bounds")


def test_the_deterministic_policy_gradient():
    policy, both, matrix = actor(kind="deterministic"), critics(), batch()
    observations = matrix[:, :SIZE]
    loss, _ = td3_actor_loss(dict(policy.named_parameters()), matrix, actor=policy, critics=both)
    gradient = torch.autograd.grad(loss, policy.head.weight)[0]
    actions = torch.tanh(policy(observations))
    leaf = actions.detach().requires_grad_()
    slope = torch.autograd.grad(both(torch.cat([observations, leaf], 1))[0].sum(), leaf)[0]  # dQ_1/da
    expected = torch.autograd.grad(-(actions * slope).sum() / ROWS, policy.head.weight)[0]
    torch.testing.assert_close(gradient, expected)


def test_a_bfloat16_product_is_near():
    torch.manual_seed(0)
    both, policy = Critics(5, 1, (64, 64)), Actor((3,), hidden=(64, 64), **BOUNDS)
    x = torch.randn(40, 5)
    for network, inputs in ((both, x), (policy, x[:, :3])):
        exact = network(inputs).detach()
        network.in_bfloat16 = True
        near = network(inputs).detach()
        assert near.dtype == torch.float32
        assert not torch.equal(near, exact)
        # factors are rounded by up to 2^-9; sums of 64 of them by less
        torch.testing.assert_close(near, exact, rtol=0, atol=0.01 * float(exact.abs().max()))
