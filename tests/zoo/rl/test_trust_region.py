"""Natural gradients and trust regions: the Fisher matrix in several ways, steps within delta, the lower bound."""

import pytest
import torch
from torch.func import functional_call, jacrev, jvp, vmap

from zoo.rl.distributions import Categorical, DiagonalGaussian, StateDependentGaussian
from zoo.rl.flat import FlatParameters
from zoo.rl.moments import RunningMoments
from zoo.rl.on_policy.losses import approximate_kl, standardized
from zoo.rl.on_policy.ppo import Rows
from zoo.rl.on_policy.trust_region import (
    TrustRegion,
    conjugate_gradient,
    critic_loss,
    critic_rows,
    hessian_products,
    improvement_bound,
    step_policy,
)
from zoo.rl.policies import ActorCritic
from zoo.rl.tabular.mdp import MDP

SPACES = {
    "discrete": {"num_actions": (3,)},
    "several": {"num_actions": (2, 3)},
    "box": {"action_low": (-1.0, -1.0), "action_high": (1.0, 1.0)},
    "held": {"action_low": (-1.0, -1.0), "action_high": (1.0, 1.0), "exploration": "state-dependent"},
}
EVERY = pytest.mark.parametrize("space", SPACES)


def made(space, hidden=(5, 4)):
    """A policy in float64 whose actions are far from equal, with the parameters of its actor."""
    torch.manual_seed(0)
    policy = ActorCritic((3,), hidden=hidden, **SPACES[space]).double()
    actor = FlatParameters(torch.nn.ModuleList([policy.actor_trunk, policy.actor_head, policy.distribution]))
    actor.vector.data += 0.3 * torch.randn(actor.vector.shape, dtype=torch.float64)
    return policy, actor


def rows_of(policy, count=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    noise = policy.distribution.noise(1, count, generator)[0].double()
    with torch.no_grad():
        actions = policy.draw(observations, noise).double()
        log_prob, _, values = policy(observations, actions)
    advantages = torch.randn(count, generator=generator, dtype=torch.float64)
    weights = (torch.rand(count, generator=generator) < 0.9).double()
    return Rows(observations, actions, log_prob, values, advantages, advantages + values, weights)


def described(policy, rows):
    return policy.distribution.describe(*policy.outputs(rows.observations))


def mean_kl(policy, rows, old):
    kl = policy.distribution.kl(old, described(policy, rows))
    return (kl * rows.weights).sum() / rows.weights.sum()


def test_conjugate_gradients_solve_a_system():
    torch.manual_seed(0)
    half = torch.randn(7, 7, dtype=torch.float64)
    matrix, b = half @ half.T + torch.eye(7), torch.randn(7, dtype=torch.float64)
    exact = torch.linalg.solve(matrix, b)
    torch.testing.assert_close(conjugate_gradient(lambda v: matrix @ v, b, 14), exact, rtol=1e-9, atol=1e-9)
    # in n steps without rounding; before that the error in the norm of the matrix falls at each step
    errors = [conjugate_gradient(lambda v: matrix @ v, b, k) - exact for k in range(7)]
    norms = [float(e @ matrix @ e) for e in errors]
    assert norms == sorted(norms, reverse=True)
    assert torch.equal(conjugate_gradient(lambda v: matrix @ v, 0 * b, 5), 0 * b)


def test_kl_of_choices_is_the_sum_over_all_of_them():
    torch.manual_seed(0)
    distribution, (one, other) = Categorical((2, 3)), torch.randn(2, 4, 5, dtype=torch.float64)
    p, q = (distribution.describe(logits, logits) for logits in (one, other))
    expected = 0.0
    for a in range(2):
        for b in range(3):
            action = torch.tensor([a, b]).expand(4, 2)
            log_p, log_q = (distribution.log_prob(logits, logits, action) for logits in (one, other))
            expected = expected + log_p.exp() * (log_p - log_q)
    torch.testing.assert_close(distribution.kl(p, q), expected)


@pytest.mark.parametrize("made_of", [lambda: DiagonalGaussian(2, -0.3), lambda: StateDependentGaussian(2, 4, -0.3)])
def test_kl_of_gaussians_is_pytorch_s(made_of):
    torch.manual_seed(0)
    distribution, features = made_of().double(), torch.rand(6, 4, dtype=torch.float64)
    means = torch.randn(2, 6, 2, dtype=torch.float64)
    old = distribution.describe(means[0], features).detach()
    distribution.log_std.data += 0.4
    new = distribution.describe(means[1], features).detach()
    p, q = (torch.distributions.Normal(x[:, :2], x[:, 2:].exp()) for x in (old, new))
    torch.testing.assert_close(distribution.kl(old, new), torch.distributions.kl_divergence(p, q).sum(-1))
    action = torch.randn(6, 2, dtype=torch.float64)
    torch.testing.assert_close(distribution.log_prob(means[1], features, action), q.log_prob(action).sum(-1))


@EVERY
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # by forward differentiation
def test_fisher_products_are_the_same_in_three_ways(space):
    """Double backward, jvp of the gradient, and the mean over states and actions of score times score."""
    policy, actor = made(space)
    rows = rows_of(policy)
    parameters = [*actor.module.parameters()]
    v = torch.randn(actor.vector.shape, dtype=torch.float64)
    old = described(policy, rows).detach()
    first = hessian_products(mean_kl(policy, rows, old), parameters)(v)

    called = {id(p): name for name, p in policy.named_parameters()}
    names = [called[id(p)] for p in parameters]
    sizes = [p.shape for p in parameters]

    def pieces(vector):
        parts = vector.split([size.numel() for size in sizes])
        return dict(zip(names, (part.view(size) for part, size in zip(parts, sizes, strict=True)), strict=True))

    class Said(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.policy = policy

        def forward(self):
            return described(policy, rows)

    said = Said()

    def divergence(vector):
        new = functional_call(said, {f"policy.{name}": part for name, part in pieces(vector).items()})
        return (policy.distribution.kl(old, new) * rows.weights).sum() / rows.weights.sum()

    theta = actor.vector.detach().clone()
    _, second = jvp(torch.func.grad(divergence), (theta,), (v,))
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)
    # J^T M J v, M the Hessian of the KL in what describes the distribution, at the old one
    new = old.clone()
    inner = vmap(torch.func.hessian(lambda n, o: policy.distribution.kl(o, n)))(new, old)
    if "num_actions" in SPACES[space]:  # its description is normalised: M is diag(pi)
        inner = torch.diag_embed(old.exp())
    jacobian = jacrev(lambda x: functional_call(said, {f"policy.{n}": p for n, p in pieces(x).items()}))(theta)
    weights = rows.weights / rows.weights.sum()
    third = torch.einsum("b,bki,bkl,blj,j->i", weights, jacobian, inner, jacobian, v)
    torch.testing.assert_close(first, third, rtol=1e-9, atol=1e-12)


@EVERY
def test_the_hessian_of_k3_is_the_empirical_fisher(space):
    policy, actor = made(space)
    rows, parameters = rows_of(policy, 20), [*actor.module.parameters()]
    v = torch.randn(actor.vector.shape, dtype=torch.float64)

    def log_prob():
        return policy.distribution.log_prob(*policy.outputs(rows.observations), rows.actions)

    now = log_prob()
    k3 = (approximate_kl(now - now.detach()) * rows.weights).sum() / rows.weights.sum()
    product = hessian_products(k3, parameters)(v)
    expected = torch.zeros_like(v)
    for each, weight in zip(log_prob(), rows.weights / rows.weights.sum(), strict=True):
        score = torch.cat([g.flatten() for g in torch.autograd.grad(each, parameters, retain_graph=True)])
        expected += weight * score * (score @ v)
    torch.testing.assert_close(product, expected, rtol=1e-9, atol=1e-12)


def bandit(probabilities=(0.2, 0.5, 0.3)):
    """A policy of three logits that no observation changes, and a row for each action, weighted by its probability."""
    policy = ActorCritic((1,), (3,), hidden=(2,)).double()
    for parameter in policy.actor_head.parameters():
        parameter.data.zero_()
    policy.actor_head.bias.data += torch.tensor(probabilities).double().log()
    p = torch.tensor(probabilities).double()
    actions, zeros = torch.arange(3)[:, None].double(), torch.zeros(3, dtype=torch.float64)
    return policy, Rows(zeros[:, None], actions, p.log(), zeros, torch.tensor([1.0, -2.0, 0.5]).double(), zeros, p)


@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_the_natural_gradient_of_a_bandit_is_its_advantages(fisher):
    """F^+ g = A - mean A, and so in least squares on the score: compatible features. With one step, theta moves so."""
    policy, rows = bandit()
    p, before = rows.weights, policy.actor_head.bias.detach().clone()
    how = TrustRegion(step=0.1, line_search=False, fisher=fisher, damping=0.0)
    step_policy(policy, [policy.actor_head.bias], policy.actor_head.bias.data, rows, how)
    advantages = standardized(rows.advantages, p)
    moved = (policy.actor_head.bias.detach() - before) / 0.1
    centred = moved - (p * moved).sum()
    # `standardized` adds 1e-8 to the deviation, and conjugate gradients stop at a residual of 1e-10
    torch.testing.assert_close(centred, advantages - (p * advantages).sum(), rtol=1e-9, atol=1e-7)
    scores = torch.eye(3).double() - p  # grad log pi(a)
    root = p.sqrt()[:, None]
    fit = torch.linalg.lstsq(root * scores, root * advantages[:, None], driver="gelsd").solution[:, 0]
    torch.testing.assert_close(fit - fit.mean(), moved - moved.mean(), rtol=1e-9, atol=1e-7)


@EVERY
@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_accepted_steps_are_within_delta_and_improve(space, fisher):
    policy, actor = made(space)
    for seed in range(6):
        rows = rows_of(policy, seed=seed)
        old = described(policy, rows).detach()
        how = TrustRegion(delta=0.01, fisher=fisher)
        said = step_policy(policy, [*actor.module.parameters()], actor.vector.data, rows, how)
        assert said["accepted"] == 1
        moved = mean_kl(policy, rows, old)
        torch.testing.assert_close(said["kl"], moved.detach())
        assert 0.001 < moved <= 0.01
        now = policy(rows.observations, rows.actions).log_prob
        gains = ((now - rows.log_probs).exp() - 1) * standardized(rows.advantages, rows.weights)
        assert (gains * rows.weights).sum() > 0


def test_the_full_step_has_the_divergence_delta():
    policy, actor = made("discrete")
    rows = rows_of(policy)
    how = TrustRegion(delta=1e-6, line_search=False)
    said = step_policy(policy, [*actor.module.parameters()], actor.vector.data, rows, how)
    # the quadratic model is exact for small steps: third order is left, sqrt(delta) of it
    assert float(said["kl"]) == pytest.approx(1e-6, rel=1e-2)


def test_a_rejected_step_is_undone_to_the_bit():
    policy, actor = made("discrete")
    rows = rows_of(policy)
    before = actor.vector.detach().clone()
    state = {name: value.clone() for name, value in policy.state_dict().items()}
    kl = policy.distribution.kl
    policy.distribution.kl = lambda old, new: kl(old, new) + 1.0  # no step can be within delta
    said = step_policy(policy, [*actor.module.parameters()], actor.vector.data, rows, TrustRegion())
    assert said["accepted"] == said["scale"] == said["kl"] == 0
    assert torch.equal(actor.vector, before)
    assert all(torch.equal(value, state[name]) for name, value in policy.state_dict().items())


def test_advantages_of_nothing_move_nothing():
    policy, actor = made("box")
    rows = rows_of(policy)._replace(advantages=torch.ones(40).double())
    before = actor.vector.detach().clone()
    step_policy(policy, [*actor.module.parameters()], actor.vector.data, rows, TrustRegion())
    torch.testing.assert_close(actor.vector.detach(), before, rtol=0, atol=1e-9)


def test_rows_that_are_no_transitions_count_for_nothing():
    steps = []
    for junk in (0.0, 1e3):
        policy, actor = made("discrete")
        rows = rows_of(policy)
        away = rows.weights == 0
        assert away.any()
        rows.advantages[away] += junk
        step_policy(policy, [*actor.module.parameters()], actor.vector.data, rows, TrustRegion())
        steps.append(actor.vector.detach().clone())
    torch.testing.assert_close(*steps, rtol=1e-12, atol=1e-12)


def test_the_critic_sees_what_the_policy_normalises():
    torch.manual_seed(0)
    policy = ActorCritic((3,), (2,), hidden=(4,), normalize=True)
    policy.normalizer.merge(RunningMoments.sums(5 + 3 * torch.randn(50, 3)))
    observations, zeros, targets = torch.randn(6, 3), torch.zeros(6), torch.arange(6.0)
    weights = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    rows = Rows(observations, zeros[:, None], zeros, zeros, zeros, targets, weights)
    critic = torch.nn.Sequential(policy.critic_trunk, policy.critic_head)
    loss, _ = critic_loss(dict(critic.named_parameters()), critic_rows(policy, rows), critic=critic)
    errors = 0.5 * (policy.values(observations) - targets).square()
    torch.testing.assert_close(loss, errors[weights > 0].mean())


def test_the_lower_bound_holds():
    generator = torch.Generator().manual_seed(0)
    gamma, slack, states, actions = 0.9, [], 4, 3
    for _ in range(200):
        shape = states, actions, states
        p = torch.rand(shape, generator=generator, dtype=torch.float64) ** 3
        mdp = MDP(
            p / p.sum(-1, keepdim=True),
            torch.arange(states).expand(shape),
            torch.randn(states, actions, 1, generator=generator, dtype=torch.float64).expand(shape),
            torch.zeros(shape, dtype=torch.bool),
            torch.full((states,), 1 / states, dtype=torch.float64),
        )
        logits = torch.randn(states, actions, generator=generator, dtype=torch.float64)
        step = 0.3 * torch.randn(states, actions, generator=generator, dtype=torch.float64)
        old, new = logits.softmax(1), (logits + step).softmax(1)
        visits = mdp.visitation(old, gamma)
        advantages = mdp.action_values(old, gamma) - mdp.values(old, gamma)[:, None]
        gain = float((visits[:, None] * new * advantages).sum())
        kl = float((old * (old / new).log()).sum(1).max())
        bound = improvement_bound(gain, float(advantages.abs().max()), kl, gamma)
        slack.append(mdp.expected_return(new, gamma) - mdp.expected_return(old, gamma) - bound)
    assert min(slack) > 0


def test_visits_change_more_than_the_notes_say():
    """|d' - d|_1 <= 2 gamma / (1 - gamma)^2 max TV; the notes have it with (1 - gamma), which a leak exceeds."""
    gamma, leak = 0.9, 0.05
    next_states = torch.tensor([[[0], [1]], [[1], [1]]])  # the second action leaves for good
    ones = torch.ones(2, 2, 1, dtype=torch.float64)
    mdp = MDP(ones, next_states, 0 * ones, ones < 0, torch.tensor([1.0, 0.0]).double())
    old, new = (torch.tensor([[1 - x, x], [1.0, 0.0]]).double() for x in (0.0, leak))
    moved = float((mdp.visitation(new, gamma) - mdp.visitation(old, gamma)).abs().sum())
    bound = 2 * gamma / (1 - gamma) ** 2 * leak
    assert (1 - gamma) * bound < moved <= bound
    assert moved / ((1 - gamma) * bound) == pytest.approx(1 / (1 - gamma + gamma * leak))  # 6.9 times
