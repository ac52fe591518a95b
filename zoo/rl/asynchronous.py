"""Asynchronous methods: what a worker learns from a segment of its own play, and how it shares that with others."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.rl.flat import OPTIMIZERS, FlatParameters
from zoo.rl.off_policy.dqn import chosen_values
from zoo.rl.off_policy.q_network import QNetwork
from zoo.rl.on_policy.losses import weighted_mean
from zoo.rl.on_policy.policy_gradient import Estimator, gradient_rows, policy_gradient_loss
from zoo.rl.on_policy.returns import lambda_returns
from zoo.rl.policies import ActorCritic
from zoo.rl.types import Rollout

OBJECTIVES = ("actor-critic", "one-step-q", "one-step-sarsa", "n-step-q")

Statistics = dict[str, Tensor]
Named = dict[str, Tensor]  # parameters by name


class Shared(NamedTuple):
    """What the workers have in common, in shared memory.

    Attributes:
        parameters: (D,), theta. target: (D,), theta^-, or None to bootstrap from the worker's own theta'.
        state: of the optimizer, tensors by name.
        lock: held by who reads or steps theta. Two that add to one vector without it lose some of each other's steps.
    """

    parameters: Tensor
    target: Tensor | None
    state: dict[str, Tensor]
    lock: AbstractContextManager[Any]


class Worker:
    """theta' <- theta; a segment by theta'; theta <- theta - a step of the optimizer along sum_t d l_t / d theta'.

    The sum is over the steps of the segment, so that a longer one moves theta farther. The mean square of RMSprop is
    shared too.

    Args:
        policy: theta', which this process has for itself.
        loss: (policy, rollout, parameters of the target network by name) -> a mean over valid steps, and statistics.
        shared: with all workers.
        optimizer: a key of `zoo.rl.flat.OPTIMIZERS`. epsilon: of it. max_norm: to which a longer sum is shortened.

    References:
        Mnih et al. 2016, arXiv:1602.01783, algorithms 1, S2 and S3; 004_2b20c020fc470ac5.txt, section 4.3.2.
    """

    def __init__(
        self,
        policy: Any,
        loss: Callable[[Any, Rollout, Named], tuple[Tensor, Statistics]],
        shared: Shared,
        optimizer: str,
        epsilon: float,
        max_norm: float | None,
    ) -> None:
        self.policy, self.loss, self.shared, self.max_norm = policy, loss, shared, max_norm
        self.own = FlatParameters(policy)
        self.optimizer: Any = OPTIMIZERS[optimizer](nn.Parameter(shared.parameters), 0.0, epsilon)
        self.optimizer.state[self.optimizer.vector] = shared.state

    def begin(self, learning_rate: float, exploration: float | None) -> None:
        """Sets what changes in a run: the learning rate, and for action values how often an action is random."""
        self.optimizer.param_groups[0]["lr"] = learning_rate
        if exploration is not None:
            self.policy.distribution.epsilon = exploration

    def refresh(self) -> None:
        """theta' <- theta."""
        with self.shared.lock:
            self.own.vector.data.copy_(self.shared.parameters)

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """One step of theta by a segment with a valid row: what the loss says of itself."""
        parameters = [*self.policy.parameters()]
        target = self.own.vector.detach() if self.shared.target is None else self.shared.target
        loss, statistics = self.loss(self.policy, rollout, dict(self.own.split(target)))
        parts = torch.autograd.grad(loss * rollout.valid.sum(), parameters)
        gradient = torch.cat([part.flatten() for part in parts])
        with self.shared.lock:
            self.optimizer.update(gradient, self.max_norm)
        return {name: float(value) for name, value in statistics.items()}


def actor_critic_loss(
    policy: ActorCritic, rollout: Rollout, target: Named, *, how: Estimator, value_weight: float, entropy_weight: float
) -> tuple[Tensor, Statistics]:
    """`policy_gradient_loss` of a segment: that of A2C. It has no use for a target network."""
    with torch.no_grad():
        rows = gradient_rows(policy, rollout, torch.ones(()), how, normalize_advantages=False)
    weights = {"value_weight": value_weight, "entropy_weight": entropy_weight}
    return policy_gradient_loss(dict(policy.named_parameters()), rows.pack(), policy=policy, **weights)


def action_value_loss(
    network: QNetwork, rollout: Rollout, target: Named, *, objective: str, gamma: float
) -> tuple[Tensor, Statistics]:
    """The mean over valid steps of 1/2 (y - Q(s, a))^2, with y of `action_value_targets`.

    SARSA's last next action is drawn, as the worker's next one will be after it has learned.
    """
    with torch.no_grad():
        following = rollout.observations[1:]
        values: Tensor = torch.func.functional_call(network, target, (following,))
        noise = network.distribution.noise(1, following.shape[1])[0]
        actions = torch.cat([rollout.actions[1:], network.draw(following[-1], noise)[None]])
        goal = action_value_targets(rollout, values, actions, objective, gamma)
    chosen = chosen_values(network(rollout.observations[:-1]), rollout.actions)
    valid = rollout.valid.float()
    loss = weighted_mean(0.5 * (goal - chosen).square(), valid)
    return loss, {"loss": loss.detach(), "value": weighted_mean(chosen, valid).detach()}


def action_value_targets(rollout: Rollout, values: Tensor, actions: Tensor, objective: str, gamma: float) -> Tensor:
    """(T, N), y_t.

    one-step-q: r_t + gamma max_a Q^-(s'_t, a). one-step-sarsa: r_t + gamma Q^-(s'_t, a'_t). n-step-q: r_t + gamma
    r_{t+1} + ... + gamma^k max_a Q^-(s'_{t+k-1}, a), to the end of the segment or of the episode. Nothing follows a
    terminated step.

    Args:
        values: (T, N, K), Q^-(s'_t, .). actions: (T, N, 1), a'_t.

    References:
        Mnih et al. 2016, arXiv:1602.01783, section 4, algorithms 1 and S2.
    """
    following = chosen_values(values, actions) if objective == "one-step-sarsa" else values.amax(-1)
    steps = 1.0 if objective == "n-step-q" else 0.0
    return lambda_returns(rollout.rewards, following, rollout.terminated, rollout.truncated, gamma, steps)
