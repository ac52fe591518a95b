"""What a worker learns: targets of action values against loops, its step against one by hand, and reductions."""

import copy
import threading
from functools import partial

import pytest
import torch

from tests.zoo.rl.test_policy_gradient import rollout_of
from tests.zoo.rl.test_returns import episodes
from zoo.rl.asynchronous import Shared, Worker, action_value_loss, action_value_targets, actor_critic_loss
from zoo.rl.flat import FlatParameters, FlatRMSprop
from zoo.rl.off_policy.q_network import QNetwork
from zoo.rl.on_policy.policy_gradient import Estimator, gradient_rows, policy_gradient_loss
from zoo.rl.policies import ActorCritic
from zoo.rl.types import Rollout

GAMMA, K = 0.9, 3


def by_definition(objective, rollout, values, actions):
    """y_t, one step at a time, from the last row backwards."""
    steps, count = rollout.rewards.shape
    targets = torch.zeros_like(rollout.rewards)
    for i in range(count):
        for t in reversed(range(steps)):
            ended = bool(rollout.terminated[t, i] | rollout.truncated[t, i]) or t == steps - 1
            if rollout.terminated[t, i]:
                following = 0.0
            elif objective == "one-step-sarsa":
                following = values[t, i, int(actions[t, i, 0])]
            elif objective == "n-step-q" and not ended:
                following = targets[t + 1, i]
            else:
                following = max(values[t, i].tolist())
            targets[t, i] = rollout.rewards[t, i] + GAMMA * following
    return targets


@pytest.mark.parametrize("objective", ["one-step-q", "one-step-sarsa", "n-step-q"])
def test_targets_are_their_definitions(objective):
    rewards, _, _, terminated, truncated = (part.flatten(1) for part in episodes())
    none, generator = torch.zeros(0), torch.Generator().manual_seed(2)
    rollout = Rollout(none, none, rewards, terminated, truncated, ~none.bool(), none, none)
    values = torch.randn(*rewards.shape, K, generator=generator, dtype=rewards.dtype)
    actions = torch.randint(K, (*rewards.shape, 1), generator=generator)
    found = action_value_targets(rollout, values, actions, objective, GAMMA)
    torch.testing.assert_close(found, by_definition(objective, rollout, values, actions))


def shared_with(policy, rate, target=None):
    """A worker, and what it shares, of a policy that it gets a copy of."""
    vector = FlatParameters(copy.deepcopy(policy)).vector.detach()
    state = {"square_avg": torch.ones_like(vector)}
    return Shared(vector, target, state, threading.Lock()), {"learning_rate": rate, "exploration": None}


@pytest.mark.parametrize("max_norm", [None, 0.5])  # a gradient that is shortened hides a factor
def test_a_worker_steps_the_shared_vector_along_the_sum_of_the_segment(max_norm):
    torch.manual_seed(0)
    policy = ActorCritic((2,), (K,), hidden=(5,))
    rollout, how = rollout_of(policy), Estimator(gamma=GAMMA, gae_lambda=0.8)
    weights = {"value_weight": 0.7, "entropy_weight": 0.03}
    shared, settings = shared_with(policy, 1e-2)
    loss = partial(actor_critic_loss, how=how, **weights)
    worker = Worker(copy.deepcopy(policy), loss, shared, "rmsprop-inside", 1e-3, max_norm)
    worker.begin(**settings)
    worker.refresh()
    worker.learn(rollout)

    flat = FlatParameters(policy)
    rows = gradient_rows(policy, rollout, torch.ones(()), how, False).pack()
    gradient, _ = flat.gradient(partial(policy_gradient_loss, policy=policy, **weights), rows)
    optimizer = FlatRMSprop(flat.vector, 1e-2, 1e-3, inside=True)
    optimizer.update(gradient * rollout.valid.sum(), max_norm)
    torch.testing.assert_close(shared.parameters, flat.vector.detach())
    torch.testing.assert_close(shared.state["square_avg"], optimizer.state[flat.vector]["square_avg"])
    before = shared.parameters.clone()
    assert not torch.equal(worker.own.vector, before), "theta' is older"
    worker.refresh()
    assert torch.equal(worker.own.vector, before)


def network(**options):
    torch.manual_seed(1)
    return QNetwork((2,), (K,), hidden=(6,), **options)


def gradient_of(objective, rollout, target=None):
    q = network(epsilon=0.0)
    given = {name: part.detach() for name, part in (target or q).named_parameters()}
    loss, _ = action_value_loss(q, rollout, given, objective=objective, gamma=GAMMA)
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, [*q.parameters()])])


def test_without_exploration_sarsa_is_q_learning():
    """The action that follows is then the best one, where no episode has ended and begun anew."""
    q = network()
    rollout = rollout_of(ActorCritic((2,), (K,), hidden=(5,)))
    greedy = q(rollout.observations[:-1]).argmax(-1, keepdim=True).float()
    rollout = rollout._replace(actions=greedy)
    torch.testing.assert_close(gradient_of("one-step-sarsa", rollout), gradient_of("one-step-q", rollout))
    other = rollout._replace(actions=(greedy + 1) % K)
    assert not torch.allclose(gradient_of("one-step-sarsa", other), gradient_of("one-step-q", other))


def test_one_step_is_on_line_q_learning():
    """n-step Q of one step, and the textbook's gradient (r + gamma max Q^-(s', .) - Q(s, a)) grad Q(s, a)."""
    policy = ActorCritic((2,), (K,), hidden=(5,))
    whole = rollout_of(policy)
    first = {name: getattr(whole, name)[:1, :1] for name in ("actions", "rewards", "terminated", "truncated", "valid")}
    rollout = whole._replace(observations=whole.observations[:2, :1], **first)
    torch.manual_seed(7)
    target = QNetwork((2,), (K,), hidden=(6,))
    q = network()
    chosen = q(rollout.observations[0])[0, int(rollout.actions[0, 0, 0])]
    bootstrap = target(rollout.observations[1]).max() * ~rollout.terminated[0, 0]
    delta = (rollout.rewards[0, 0] + GAMMA * bootstrap - chosen).detach()
    slope = torch.cat([part.flatten() for part in torch.autograd.grad(chosen, [*q.parameters()])])
    for objective in ("one-step-q", "n-step-q"):
        torch.testing.assert_close(gradient_of(objective, rollout, target), -delta * slope)
