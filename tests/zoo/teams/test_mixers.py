"""The mixers: the principle IGM by enumeration, signs of gradients, ResQ's mask, what each can represent."""

import itertools

import pytest
import torch
from torch import nn

from zoo.teams.central import ResQ, WeightedQMIX, is_greedy, masked_residual, quantile_huber
from zoo.teams.losses import METHODS
from zoo.teams.mixers import QMIX, QPLEX, VDN, Qatten, Sizes, Utilities
from zoo.teams.payoffs import PAYOFFS, TWO_STEP, additive_fit, payoff

A, D, K, S = 3, 4, 5, 6
SIZES = Sizes(A, D, K, S)
MIXED = ["vdn", "qmix", "qatten", "qplex"]  # IGM by construction, for any weights


def random_mixer(method, sizes=SIZES, seed=0):
    torch.manual_seed(seed)
    mixer = METHODS[method](sizes).double()
    for parameter in mixer.parameters():
        nn.init.normal_(parameter, std=0.7)
    return mixer


def every_joint_action(seed=0, states=7, quantiles=None):
    """Utilities of all K^A joint actions (u, N, A) in some states, those that are greedy, and the (N, A, K) values."""
    generator = torch.Generator().manual_seed(seed)
    shape = (states, A, K) if quantiles is None else (states, A, K, quantiles)
    q = torch.randn(shape, generator=generator, dtype=torch.float64)
    joint = torch.tensor([*itertools.product(range(K), repeat=A)])  # (K^A, A)
    actions = joint[:, None].expand(-1, states, -1)
    best = (q if quantiles is None else q.mean(-1)).argmax(-1).expand_as(actions)
    agents, rows = torch.arange(A), torch.arange(states)[:, None]
    chosen, greatest = (q[rows, agents, index] for index in (actions, best))
    state = torch.randn((states, S), generator=generator, dtype=torch.float64).expand(len(joint), -1, -1)
    seen = torch.randn((states, A, D), generator=generator, dtype=torch.float64).expand(len(joint), -1, -1, -1)
    return Utilities(chosen, greatest, actions, best, state, seen)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", MIXED)
def test_each_agent_alone_finds_its_part_of_the_best_joint_action(method, seed):
    utilities = every_joint_action(seed)
    total = random_mixer(method, seed=seed).total(utilities)  # (K^A, N)
    found = utilities.actions[total.argmax(0), torch.arange(total.shape[1])]
    assert torch.equal(found, utilities.greedy[0])


@pytest.mark.parametrize("method", [*MIXED, "cw-qmix", "resq"])
def test_q_tot_rises_with_every_utility(method):
    utilities = every_joint_action()
    chosen = utilities.chosen.clone().requires_grad_()
    total = random_mixer(method).total(utilities._replace(chosen=chosen))
    (gradient,) = torch.autograd.grad(total.sum(), chosen)
    assert (gradient >= 0).all()
    assert (gradient > 0).any()


def test_qmix_begins_near_a_sum():
    utilities = every_joint_action()
    chosen = (0.1 * utilities.chosen).requires_grad_()
    total = QMIX(SIZES).double().total(utilities._replace(chosen=chosen))
    (gradient,) = torch.autograd.grad(total.sum(), chosen)
    assert 0.5 < gradient.mean() < 2


def test_qplex_adds_the_values_and_weighted_advantages_of_its_equation():
    mixer, utilities = random_mixer("qplex"), every_joint_action()
    s = utilities.states
    scale, shift = mixer.scale(s).abs() + 1e-10, mixer.shift(s)
    values = scale * utilities.best + shift
    advantages = scale * utilities.chosen + shift - values
    weights = mixer.importance(utilities)
    assert (weights > 0).all()
    torch.testing.assert_close(mixer(utilities), values.sum(-1) + (weights * advantages).sum(-1))
    assert len(weights[:, 0].unique(dim=0)) > K  # they depend on the actions


def test_attention_of_one_head_is_a_convex_mean_of_the_utilities():
    mixer, utilities = Qatten(SIZES, width=4, heads=1).double(), every_joint_action()
    s = utilities.states
    mean = (mixer(utilities) - mixer.offset(s)[..., 0]) / mixer.weights(s)[..., 0].abs()
    assert (mean <= utilities.chosen.amax(-1) + 1e-9).all()  # rounding
    assert (mean >= utilities.chosen.amin(-1) - 1e-9).all()


@pytest.mark.parametrize("method", ["vdn", "qatten"])
def test_agents_may_be_numbered_in_any_order(method):
    mixer, utilities, order = random_mixer(method), every_joint_action(), torch.tensor([2, 0, 1])
    by_agent = {"chosen": 2, "best": 2, "actions": 2, "greedy": 2, "observations": 2}
    moved = {name: getattr(utilities, name).index_select(axis, order) for name, axis in by_agent.items()}
    torch.testing.assert_close(mixer(utilities), mixer(utilities._replace(**moved)))


def test_the_residual_lowers_all_joint_actions_but_the_greedy_one():
    mixer, utilities = random_mixer("resq"), every_joint_action()
    residual = masked_residual(mixer.residual, utilities)[..., 0]
    greedy = is_greedy(utilities)
    assert greedy.sum(0).eq(1).all()
    assert (residual[greedy] == 0).all()
    assert (residual[~greedy] < 0).all()
    torch.testing.assert_close(mixer.total(utilities), mixer.main(utilities) + residual)


@pytest.mark.parametrize("seed", range(3))
def test_with_a_residual_the_principle_still_holds(seed):
    utilities = every_joint_action(seed)
    total = random_mixer("resq", seed=seed).total(utilities)
    found = utilities.actions[total.argmax(0), torch.arange(total.shape[1])]
    assert torch.equal(found, utilities.greedy[0])
    utilities = every_joint_action(seed, quantiles=8)
    total = random_mixer("resz", SIZES._replace(quantiles=8), seed).total(utilities).mean(-1)
    found = utilities.actions[total.argmax(0), torch.arange(total.shape[1])]
    assert torch.equal(found, utilities.greedy[0])


def test_weights_favour_what_is_greedy_or_better_than_greedy():
    utilities = every_joint_action()
    central, optimistic = (random_mixer(method) for method in ("cw-qmix", "ow-qmix"))
    targets = torch.randn(utilities.states.shape[:2], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for mixer in (central, optimistic):
        total = mixer.main(utilities)
        weights = mixer.losses(utilities, targets)["main"] / (total - targets).square()
        better = targets > mixer(utilities.at_greedy())
        full = is_greedy(utilities) | better if mixer is central else total < targets
        torch.testing.assert_close(weights, torch.where(full, 1.0, 0.1).double())


def test_qtran_is_exact_at_the_greedy_action_and_may_be_above_elsewhere():
    mixer, utilities = random_mixer("qtran"), every_joint_action()
    losses, values = mixer.losses(utilities, torch.zeros(utilities.states.shape[:2]).double()), mixer(utilities)
    above = mixer.total(utilities) >= values
    assert above.any()
    assert (losses["below"][above] == 0).all()
    torch.testing.assert_close(losses["below"][~above], (mixer.total(utilities) - values)[~above].square())
    chosen = utilities.chosen.clone().requires_grad_()
    fitted = mixer.losses(utilities._replace(chosen=chosen), values.detach())
    (gradient,) = torch.autograd.grad(fitted["below"].sum(), chosen)
    assert (gradient <= 0).all()  # a lower bound is raised, and nothing is lowered
    grad = torch.autograd.grad(fitted["optimum"].sum(), [*mixer.joint.parameters()], allow_unused=True)
    assert all(part is None for part in grad)  # Q_jt is fixed


def test_quantile_huber_prefers_the_quantiles():
    targets = torch.arange(100.0).expand(3, -1).double()
    quantiles = (torch.tensor([24.5, 74.5]).double()).expand(3, -1)  # of levels 1/4 and 3/4
    least = quantile_huber(quantiles, targets)
    for shift in (-5, 5):
        assert (quantile_huber(quantiles + shift, targets) > least).all()


def test_the_additive_fit_is_the_least_squares_solution():
    table = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    index = torch.cartesian_prod(*(torch.arange(k) for k in table.shape))
    columns = [nn.functional.one_hot(index[:, i], k).double() for i, k in enumerate(table.shape)]
    design = torch.cat(columns, 1)
    # pseudo-inverse: the columns of the agents are linearly dependent
    solution = design @ torch.linalg.pinv(design) @ table.flatten()
    torch.testing.assert_close(additive_fit(table).flatten(), solution)


def test_the_games_are_those_of_the_papers():
    fit = {name: (payoff(name) - additive_fit(payoff(name))).square().mean() for name in PAYOFFS}
    assert [name for name, error in fit.items() if error < 1e-10] == ["monotonic"]  # rounding
    # what an additive Q leaves is 32/9 (2, -1, -1) x (2, -1, -1)
    torch.testing.assert_close(fit["qtran"], torch.tensor((32 / 9) ** 2 * 4.0))
    assert max(max(row) for row in TWO_STEP[1]) == 8 > max(max(row) for row in TWO_STEP[0]) == 7
    with pytest.raises(ValueError, match="must be one of qtran"):
        payoff("chess")


def test_one_agent_and_the_identity():
    utilities = every_joint_action()
    alone = Utilities(*(part[..., :1] for part in utilities[:4]), utilities.states, utilities.observations[..., :1, :])
    assert torch.equal(VDN(SIZES._replace(agents=1))(alone), alone.chosen[..., 0])


def test_bad_options():
    with pytest.raises(ValueError, match="multiple of the 4 heads"):
        Qatten(SIZES, width=6)
    assert isinstance(METHODS["ow-qmix"](SIZES), WeightedQMIX)
    assert not METHODS["ow-qmix"](SIZES).central
    assert isinstance(METHODS["qplex"](SIZES), QPLEX)
    assert isinstance(METHODS["resq"](SIZES), ResQ)
