"""Deep Q-learning: targets, dueling values, epsilon, and its loss."""

import pytest
import torch
from torch.nn.functional import huber_loss

from zoo.rl.distributions import EpsilonGreedy
from zoo.rl.flat import FlatParameters
from zoo.rl.off_policy.dqn import chosen_values, dqn_loss, greedy_values
from zoo.rl.off_policy.q_network import QNetwork, dueling_values
from zoo.rl.types import Transitions

ROWS, SIZE, ACTIONS = 7, 3, 4


def network(seed=0, **options):
    torch.manual_seed(seed)
    return QNetwork((SIZE,), (ACTIONS,), hidden=(6, 5), **options).double()


def batch(weighted=False):
    torch.manual_seed(1)
    rows = torch.randn(ROWS, 2 * SIZE + 3 + weighted, dtype=torch.float64)
    rows[:, SIZE] = torch.arange(ROWS) % ACTIONS
    rows[:, SIZE + 2] = 0.9 * (torch.arange(ROWS) % 3 > 0)  # some terminated
    return rows


def loss_of(online, matrix, **options):
    return dqn_loss(dict(online.named_parameters()), matrix, network=online, **options)


@pytest.mark.parametrize("dueling", ["none", "mean", "max"])
@pytest.mark.parametrize("huber", [False, True])
@pytest.mark.parametrize("double", [False, True])
def test_the_loss_is_that_of_the_paper(double, huber, dueling):
    online, target, matrix = network(dueling=dueling), network(3, dueling=dueling), batch(weighted=True)
    rows, weights = Transitions.unpack(matrix[:, :-1], 1), matrix[:, -1]
    by_hand, errors = [], []
    with torch.no_grad():
        q, following, own = online(rows.observations), target(rows.next_observations), online(rows.next_observations)
        for i in range(ROWS):
            best = int(own[i].argmax()) if double else int(following[i].argmax())
            errors.append(rows.rewards[i] + rows.discounts[i] * following[i, best] - q[i, int(rows.actions[i])])
            size = errors[-1].abs()
            by_hand.append(weights[i] * (0.5 * size**2 if not huber or size <= 1 else size - 0.5))
    loss, said = loss_of(online, matrix, target=target, double=double, huber=huber)
    torch.testing.assert_close(loss.detach(), torch.stack(by_hand).mean())
    torch.testing.assert_close(said["errors"], torch.stack(errors).abs(), msg="neither weighted nor clipped")
    torch.testing.assert_close(said["value"], q.gather(1, rows.actions.long()).mean())
    # the gradient is that of a fixed target, by central differences
    flat, goal = FlatParameters(online), (q.gather(1, rows.actions.long())[:, 0] + torch.stack(errors))
    options = {"network": online, "target": target, "double": double, "huber": huber}
    gradient, _ = flat.gradient(lambda parameters: dqn_loss(parameters, matrix, **options))

    def fixed():
        now = chosen_values(online(rows.observations), rows.actions)
        each = huber_loss(now, goal, reduction="none") if huber else 0.5 * (now - goal).square()
        return float((weights * each).mean())

    with torch.no_grad():
        for place in torch.randperm(len(flat.vector), generator=torch.Generator().manual_seed(0))[:6]:
            ends = []
            for sign in (1, -1):
                flat.vector[place] += sign * 1e-6
                ends.append(fixed())
                flat.vector[place] -= sign * 1e-6
            assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_double_with_the_online_network_as_target_is_dqn_to_the_bit():
    online, matrix = network().float(), batch().float()
    same = network().float()
    for target in (same, None):
        plain, said = loss_of(online, matrix, target=target, double=False)
        double, said_double = loss_of(online, matrix, target=target, double=True)
        assert torch.equal(plain, double)
        assert torch.equal(said["errors"], said_double["errors"])
    assert torch.equal(plain, loss_of(online, matrix, target=same)[0]), "no target network: Q itself, held fixed"
    other, _ = loss_of(online, matrix, target=network(3).float(), double=True)
    assert other != plain


def test_a_weight_of_one_is_no_weight():
    online, target, matrix = network(), network(3), batch()
    plain, _ = loss_of(online, matrix, target=target)
    weighted, _ = loss_of(online, torch.cat([matrix, torch.ones(ROWS, 1)], 1), target=target)
    assert torch.equal(plain, weighted)


@pytest.mark.parametrize("actions", [2, 10])
def test_the_largest_of_noisy_values_overestimates_and_two_networks_do_not(actions):
    generator = torch.Generator().manual_seed(0)
    one, other = (2 * torch.rand(200_000, actions, generator=generator, dtype=torch.float64) - 1 for _ in range(2))
    # the deviation of one largest value is at most 0.6, of the mean of 200,000 below 0.0013: 4 of them
    bias = (actions - 1) / (actions + 1)
    assert greedy_values(one, one).mean().item() == pytest.approx(bias, abs=0.006)
    assert greedy_values(other, one).mean().item() == pytest.approx(0, abs=0.006)


@pytest.mark.parametrize("form", ["mean", "max"])
def test_dueling_values_are_identified(form):
    torch.manual_seed(0)
    value, advantages = torch.randn(ROWS, 1).double(), torch.randn(ROWS, ACTIONS).double()
    q = dueling_values(value, advantages, form)
    # sums of numbers of about 1 are rounded by 1e-16 each
    torch.testing.assert_close(dueling_values(value, advantages + 3.0, form), q, rtol=0, atol=1e-14)
    identified = q.mean(1) if form == "mean" else q.amax(1)
    torch.testing.assert_close(identified, value[:, 0], rtol=0, atol=1e-14)
    assert torch.equal(q.argmax(1), advantages.argmax(1))
    torch.testing.assert_close(q - q[:, :1], advantages - advantages[:, :1], rtol=0, atol=1e-14)


def test_dueling_streams_share_all_but_the_last_layer():
    plain, dueling = network(), network(dueling="mean")
    assert [layer.out_features for layer in plain.trunk] == [6, 5]
    assert [layer.out_features for layer in dueling.trunk] == [6, 10]
    x = torch.randn(ROWS, SIZE).double()
    before = dueling(x)
    with torch.no_grad():
        dueling.trunk[-1].weight[5:] += 1.0  # the stream of the advantages
    torch.testing.assert_close(dueling(x).mean(1), before.mean(1))
    assert not torch.allclose(dueling(x), before)


def test_every_environment_tosses_a_coin_of_its_own():
    made = EpsilonGreedy(3, epsilon=0.3)
    values = torch.tensor([0.0, 2.0, 1.0]).expand(4, 3)
    noise = made.noise(20_000, 4, torch.Generator().manual_seed(0))
    actions = made.sample(values.expand(20_000, 4, 3), values, noise)[..., 0]
    others = (actions != 1).double()
    # the greedy action is drawn too: others come up 2/3 of 0.3, with a deviation of 0.4 / sqrt(80,000) = 0.0014
    assert others.mean().item() == pytest.approx(0.2, abs=0.006)
    assert (actions == 0).double().mean().item() == pytest.approx(0.1, abs=0.005)
    together = (others[:, 0] * others[:, 1]).mean().item()
    assert together == pytest.approx(0.04, abs=0.006), "independent: one coin for all would give 0.2 * 2/3"
    made.epsilon = 0.0
    assert (made.sample(values.expand(20_000, 4, 3), values, noise) == 1).all()
    made.epsilon = 1.0
    shares = torch.bincount(made.sample(values.expand(20_000, 4, 3), values, noise).long().flatten()) / 80_000
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), rtol=0, atol=0.007)


def test_a_q_network_plays():
    made = network(epsilon=0.5).float()
    many = torch.randn(ROWS, SIZE)
    assert torch.equal(made.act(many), made(many).argmax(1))
    drawn = [made.act(many, explore=True, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0)]
    assert torch.equal(*drawn)
    assert made.predict(many[0].numpy()).shape == ()


def test_wrong_q_networks():
    for options, words in (
        ({"num_actions": (2, 3)}, "one discrete action"),
        ({"num_actions": (), "action_low": (-1.0,), "action_high": (1.0,)}, "one discrete action"),
        ({"dueling": "median"}, "dueling must be one of none, mean, max"),
        ({"epsilon": 1.5}, "epsilon must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=words):
            QNetwork((SIZE,), **({"num_actions": (3,)} | options))
