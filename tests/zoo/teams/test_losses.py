"""Targets and losses of teams: two steps by hand, ends of episodes, padding, one agent that is double DQN."""

import pytest
import torch
from torch import nn

from zoo.rl.off_policy.dqn import dqn_loss
from zoo.rl.off_policy.q_network import QNetwork
from zoo.teams.losses import METHODS, Learned, make_mixer, states_of, td_targets, team_loss, values_of
from zoo.teams.policy import Team, greedy
from zoo.teams.types import TeamEpisodes

T, N, A, D, S = 4, 6, 3, 5, 7
ACTIONS = (4, 3, 2)
SPACES = {"observation_sizes": (D,) * A, "num_actions": ACTIONS, "state_size": S}


def episodes(seed=0, steps=T, n=N):
    """Random episodes, of which the last terminates after two steps and the one before is cut after three."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(2**30, (steps, n, A), generator=generator)
    own = torch.arange(max(ACTIONS)) < torch.tensor(ACTIONS)[:, None]
    valid = torch.ones(steps, n, dtype=torch.bool)
    valid[2:, -1], valid[3:, -2] = False, False
    terminated = torch.zeros_like(valid)
    terminated[1, -1] = True
    return TeamEpisodes(
        torch.randn(steps + 1, n, A, D, generator=generator),
        torch.randn(steps + 1, n, S, generator=generator),
        own.expand(steps + 1, n, -1, -1),
        drawn % torch.tensor(ACTIONS),
        torch.randn(steps, n, generator=generator),
        terminated,
        valid,
    )


def learned(method, seed=0, **options):
    torch.manual_seed(seed)
    team = Team(**SPACES, hidden=(8, 8), quantiles=3 if method == "resz" else 1, **options)
    return Learned(team, make_mixer(method, team))


def loss_of(method, given, seed=0, **options):
    network, target = learned(method, 0, **options), learned(method, 1, **options)
    loss, statistics = team_loss(dict(network.named_parameters()), given, network=network, target=target, gamma=0.9)
    assert loss.isfinite()
    return loss, statistics, network


@pytest.mark.parametrize("method", METHODS)
def test_padding_changes_nothing(method):
    given = episodes()
    rubbish = torch.Generator().manual_seed(5)
    longer = TeamEpisodes(*(torch.cat([part, part[:2]]) for part in given))
    longer.valid[T:] = False
    longer.terminated[T:] = True
    changed = longer._replace(
        observations=longer.observations.clone(), states=longer.states.clone(), rewards=longer.rewards.clone()
    )
    for row, last in ((N - 1, 2), (N - 2, 3), (0, T)):  # everything after the last observation
        for part in (changed.observations, changed.states):
            part[last + 1 :, row] = torch.randn(part[last + 1 :, row].shape, generator=rubbish)
        changed.rewards[last:, row] = 99
    plain, padded = loss_of(method, given), loss_of(method, changed)
    torch.testing.assert_close(plain[0], padded[0], rtol=1e-5, atol=0)  # float32 sums in another order
    assert plain[2].team.shape == (A, D)


@pytest.mark.parametrize("method", METHODS)
def test_truncation_is_no_termination(method):
    given = episodes()
    ended = given._replace(
        terminated=given.terminated | (given.valid & ~torch.cat([given.valid[1:], ~given.valid[:1]]))
    )
    assert ended.terminated.sum() > given.terminated.sum()
    assert loss_of(method, given)[0] != loss_of(method, ended)[0]
    network, target = learned(method), learned(method, 1)
    options = {"network": network, "target": target, "gamma": 0.9, "bootstrap_truncated": False}
    torch.testing.assert_close(
        team_loss(dict(network.named_parameters()), given, **options)[0], loss_of(method, ended)[0]
    )


def test_targets_of_two_steps_by_hand():
    team = Team(observation_sizes=(1, 1), num_actions=(2, 2), state_size=1, hidden=(), last_action=False)
    network, target = (Learned(team, make_mixer("vdn", team)) for _ in range(2))

    class Table(nn.Module):
        """Utilities that are read from the observation: q_i(o, u) = scale o (1 if u else -1) + i."""

        num_actions, quantiles, horizon = 2, 1, 0

        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, observations, last, memory=None):
            signs = torch.tensor([-1.0, 1.0])
            return (self.scale * observations * signs + torch.arange(2.0)[:, None])[..., None], None

    class Mixer(nn.Module):
        """The state times the sum of utilities."""

        def forward(self, utilities):
            return utilities.states[..., 0] * utilities.chosen.sum(-1)

    network.team.agents, target = Table(1.0), Learned(team, Mixer())
    choice_values = Table(1.0)
    observations = torch.tensor([[1.0, -1.0], [2.0, -3.0], [5.0, 4.0]])[:, None, :, None]  # (3, 1, 2, 1)
    given = TeamEpisodes(
        observations,
        torch.tensor([10.0, 20.0, 30.0])[:, None, None],
        torch.ones(3, 1, 2, 2, dtype=torch.bool),
        torch.zeros(2, 1, 2, dtype=torch.int64),
        torch.tensor([[1.0], [2.0]]),
        torch.tensor([[False], [False]]),
        torch.ones(2, 1, dtype=torch.bool),
    )
    values = choice_values(observations, None)[0]
    choice = greedy(values.mean(-1), given.available)
    assert choice[:, 0].tolist() == [[1, 0], [1, 0], [1, 1]]
    target.team = Team(observation_sizes=(1, 1), num_actions=(2, 2), state_size=1, hidden=())
    target.team.agents = Table(-2.0)  # the copy disagrees: its value is that of the learners' choice, not of its own
    # q'(s_1) = -2 * 2 + 0 and -2 * -3 * -1 + 1 = -5: Q' = 20 (-4 - 5); q'(s_2) = -10 and -7: Q' = 30 (-17)
    torch.testing.assert_close(
        td_targets(target, choice, given, 0.5), torch.tensor([[1 + 0.5 * 20 * -9], [2 + 0.5 * 30 * -17]])
    )
    over = given._replace(terminated=torch.tensor([[False], [True]]))
    torch.testing.assert_close(td_targets(target, choice, over, 0.5)[1], torch.tensor([2.0]))
    # lambda 1: the reward of both steps, and the value at the end
    torch.testing.assert_close(
        td_targets(target, choice, given, 0.5, 1.0)[0], torch.tensor([1 + 0.5 * (2 + 0.5 * 30 * -17)])
    )
    half = td_targets(target, choice, given, 0.5, 0.5)
    torch.testing.assert_close(half[0], 1 + 0.5 * (0.5 * (20.0 * -9) + 0.5 * half[1]))


def test_lambda_ends_with_the_episode():
    given, target = episodes(), learned("qmix", 1)
    choice = greedy(values_of(learned("qmix").team, given).mean(-1), given.available)
    one, whole = (td_targets(target, choice, given, 0.9, value) for value in (0.0, 1.0))
    torch.testing.assert_close(whole[2, -2], one[2, -2])  # the last step of the one that is cut
    torch.testing.assert_close(whole[1, -1], given.rewards[1, -1])  # of the one that terminates
    torch.testing.assert_close(whole[1, -2], given.rewards[1, -2] + 0.9 * one[2, -2])


def test_one_agent_with_the_identity_mixer_is_double_dqn():
    sizes, actions = (8, 6), 4
    torch.manual_seed(0)
    nets = [QNetwork((D,), (actions,), hidden=sizes) for _ in range(2)]
    learners = []
    for net in nets:
        team = Team((D,), (actions,), S, hidden=sizes, last_action=False, agent_id=False)
        team.agents.networks[0].load_state_dict(net.state_dict())
        learners.append(Learned(team, make_mixer("vdn", team)))
    generator = torch.Generator().manual_seed(1)
    o = torch.randn(2, N, D, generator=generator)
    u = torch.randint(actions, (N, 1), generator=generator)
    r, ended = torch.randn(N, generator=generator), torch.arange(N) % 3 == 0
    given = TeamEpisodes(
        o[:, :, None],
        torch.zeros(2, N, S),
        torch.ones(2, N, 1, actions, dtype=torch.bool),
        u[None],
        r[None],
        ended[None],
        torch.ones(1, N, dtype=torch.bool),
    )
    matrix = torch.cat([o[0], u.float(), r[:, None], 0.9 * (~ended).float()[:, None], o[1]], 1)

    def ours(parameters):
        return team_loss(parameters, given, network=learners[0], target=learners[1], gamma=0.9)[0]

    def theirs(parameters):
        options = {"network": nets[0], "target": nets[1], "double": True, "huber": False}
        return 2 * dqn_loss(parameters, matrix, **options)[0]  # which halves the square

    mine = torch.func.grad_and_value(ours)(dict(learners[0].named_parameters()))
    dqn = torch.func.grad_and_value(theirs)(dict(nets[0].named_parameters()))
    # sums in another order: a few units of the last place
    torch.testing.assert_close(mine[1], dqn[1], rtol=1e-6, atol=0)
    for name, gradient in dqn[0].items():
        torch.testing.assert_close(mine[0][f"team.agents.networks.0.{name}"], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["independent", "vdn"])
def test_shared_agents_may_be_numbered_in_any_order(method):
    given, order = episodes(), torch.tensor([2, 0, 1])
    moved = given._replace(
        **{name: getattr(given, name)[:, :, order] for name in ("observations", "available", "actions")}
    )
    losses = [loss_of(method, part, agent_id=False)[0] for part in (given, moved)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("recurrent", "horizon"), [(True, 0), (False, 0), (False, 3)])
def test_a_whole_sequence_is_its_steps_one_by_one(shared, recurrent, horizon):
    torch.manual_seed(0)
    team = Team(**SPACES, hidden=(8, 8), shared=shared, recurrent=recurrent, horizon=horizon)
    for network in team.agents.networks if horizon else ():
        nn.init.normal_(network.trunk[0].weight[:, -1:], std=20.0)  # so that the time decides
    given = episodes()
    with torch.no_grad():
        whole = values_of(team, given)
    team.reset(N)
    for t in range(T):
        actions = team.act(given.observations[t])
        assert torch.equal(actions, greedy(whole[t].mean(-1), given.available[t]))
        team._last = given.actions[t]  # as if these had been taken
    assert (whole[..., 0].std() > 0).all()
    team.reset(N)  # forgets: the first step again
    assert torch.equal(team.act(given.observations[0]), greedy(whole[0].mean(-1), given.available[0]))


def test_agents_and_mixer_know_the_time_that_is_over():
    network, given = learned("qmix", horizon=3), episodes()
    assert network.team.agents.inputs(given.observations, given.actions[:1].expand(T + 1, -1, -1))[
        :, 0, 0, -1
    ].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert states_of(network.team, given)[..., -1].unique(dim=1)[:, 0].tolist() == pytest.approx(
        [0, 1 / 3, 2 / 3, 1, 1]
    )
    assert states_of(learned("qmix").team, given) is given.states
    assert loss_of("qmix", given, horizon=3)[0].isfinite()


def test_agents_take_only_actions_of_their_own():
    torch.manual_seed(0)
    team = Team(**SPACES, epsilon=1.0)
    given, generator = torch.randn(4000, A, D), torch.Generator().manual_seed(0)
    actions = team.act(given, True, generator)
    for i, count in enumerate(ACTIONS):
        shares = torch.bincount(actions[:, i], minlength=count) / len(actions)
        assert len(shares) == count
        torch.testing.assert_close(shares, torch.full((count,), 1 / count), rtol=0, atol=0.04)  # 5 standard errors
    allowed = torch.zeros(4000, A, 4, dtype=torch.bool)
    allowed[..., 1] = True
    assert (team.act(given, True, generator, allowed) == 1).all()
    assert (team.act(given, available=allowed) == 1).all()


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_every_weight_learns(method, recurrent):
    network, target = learned(method, recurrent=recurrent), learned(method, 1, recurrent=recurrent)

    def loss(parameters):
        return team_loss(parameters, episodes(), network=network, target=target, gamma=0.9, td_lambda=0.6)[0]

    gradient = torch.func.grad(loss)(dict(network.named_parameters()))
    assert [name for name, part in gradient.items() if not part.any()] == []


def test_packed_episodes_come_back():
    given = episodes()
    back = TeamEpisodes.unpack(given.pack(), T, SPACES)
    for name, part in given._asdict().items():
        assert torch.equal(getattr(back, name), part), name


def test_bad_options():
    with pytest.raises(ValueError, match="one positive number for each agent"):
        Team((D,) * 3, (4, 4), S)
    with pytest.raises(ValueError, match="method must be one of"):
        make_mixer("mix", Team(**SPACES))
    with pytest.raises(ValueError, match="must be of shape"):
        Team(**SPACES).act(torch.zeros(A + 1, D))
