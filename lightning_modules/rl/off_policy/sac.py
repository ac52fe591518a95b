"""Soft actor-critic, for continuous and for discrete actions."""

import copy
import math
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_modules.rl.learner import Statistics
from lightning_modules.rl.off_policy.common import (
    check,
    critics_for,
    learn_from_rounds,
    learner,
    set_precision_and_clock,
)
from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.progress import continue_finished_run, log_test, log_validation
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.rl.flat import FlatParameters
from zoo.rl.off_policy.critics import Critics
from zoo.rl.off_policy.sac import sac_actor_loss, sac_critics_loss, sac_value_loss
from zoo.rl.off_policy.values import soft_update, temperature_gradient
from zoo.rl.types import Spaces


class SAC(L.LightningModule):
    """Maximises E[sum_t gamma^t (r_t + alpha H(pi(. | s_t)))] by two critics, a squashed Gaussian and a learned alpha.

    One training step is the `Rounds` of `Replay`: environment steps and updates in turn. An update is one Adam step of
    the critics, then of the actor, then of log alpha, and one soft update of the target critics.

    Args:
        spaces, total_env_steps: filled in from the data. One discrete action is taken too: then the policy is
            categorical, and expectations over it are exact.
        hidden: widths of the actor and of both critics.
        gamma: discount. tau: of the soft updates.
        learning_rate: of all three Adams.
        alpha: where the temperature begins. learn_alpha: whether it is learned, or stays there.
        max_alpha: that a learned temperature does not exceed: a target that no policy reaches would raise it forever.
        value_network: whether Q is regressed on r + gamma V'(s'), and V on min Q - alpha log pi, as in the older form;
            then there are no target critics, and V' follows V.
        target_period: updates between those of the target; with tau 1 it is copied then.
        target_entropy: that a learned temperature leads to; by default -A, or half of log n, the largest one, for n
            discrete actions. The 0.98 log n of the paper on discrete actions asks for a nearly uniform policy.
        anneal: whether the learning rates fall linearly to 0.
        compile: whether to compile the gradients; by default in long runs, if a compiler is found.

    References:
        Haarnoja et al. 2018, arXiv:1812.05905, algorithm 1; Christodoulou 2019, arXiv:1910.07207 (discrete actions);
        Xu et al. 2021, arXiv:2112.02852 (why a target near log n does not learn).
        The older form, with a value network and a fixed temperature: Haarnoja et al. 2018, arXiv:1801.01290,
        algorithm 1; 003_679b8cdb08266a71.txt.
    """

    env_steps: Tensor
    updates: Tensor
    noises = 2  # an update draws an action for s', or for V at s, and one for s
    paper = "Haarnoja et al. 2018, arXiv:1812.05905"

    def __init__(
        self,
        spaces: Spaces,
        total_env_steps: int = 100_000,
        hidden: tuple[int, ...] = (256, 256),
        gamma: float = 0.99,
        tau: float = 0.005,
        learning_rate: float = 3e-4,
        alpha: float = 1.0,
        learn_alpha: bool = True,
        target_entropy: float | None = None,
        anneal: bool = False,
        compile: bool | None = None,
        max_alpha: float = 100.0,
        value_network: bool = False,
        target_period: int = 1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        check(self.hparams, ("learning_rate", "alpha", "max_alpha", "target_period"))
        if alpha > max_alpha:
            raise UserError(f"model.alpha must be at most model.max_alpha {max_alpha}, got {alpha}")
        if len(spaces["num_actions"]) > 1:
            raise UserError("SAC takes one discrete action, but this environment has several: use PPO there")
        if spaces["num_actions"] == (1,):
            raise UserError("SAC needs a choice, but this environment has one action only")
        self.gamma = gamma
        self.model = construct(self, "actor", **spaces)
        self.critics = critics_for(self.model, hidden)
        inputs = math.prod(self.model.observation_shape)
        self.value = Critics(inputs, hidden=hidden, count=1) if value_network else None
        self.targets = copy.deepcopy(self.value or self.critics).requires_grad_(False)
        self.temperature = nn.ParameterDict({"log_alpha": nn.Parameter(torch.tensor([math.log(alpha)]))})
        discrete = spaces["num_actions"]
        default = 0.5 * math.log(discrete[0]) if discrete else -float(self.model.action_size)
        self.target_entropy = default if target_entropy is None else target_entropy
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))  # the phase of the target

    def configure_optimizers(self) -> list[Optimizer]:
        networks: dict[str, Any] = {"actor": self.model, "critics": self.critics}
        has_value = self.hparams["value_network"]
        self.critics_loss = partial(sac_critics_loss, **networks, targets=self.targets, value_network=has_value)
        self.actor_loss = partial(sac_actor_loss, **networks)
        rate = self.hparams["learning_rate"]
        self.critics_learner = learner(self, self.critics, rate)
        self.actor_learner = learner(self, self.model, rate)
        self.temperature_learner = learner(self, self.temperature, rate)
        learners = [self.critics_learner, self.actor_learner, self.temperature_learner]
        if self.value is not None:
            self.value_loss = partial(sac_value_loss, **networks, value=self.value)
            self.value_learner = learner(self, self.value, rate)
            learners.append(self.value_learner)
        self.flat_targets = FlatParameters(self.targets)  # not its vector: a registered one would enter state_dict
        return [part.optimizer for part in learners]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.count = int(self.updates)  # on the host: an update must not wait for the device
        learn_from_rounds(self, batch, batch_idx)
        self.updates.fill_(self.count)

    def update(self, minibatch: Tensor, other_noise: Tensor, noise: Tensor) -> Statistics:
        """One update by packed `Transitions` (B, width) and noise (B, A) for the target's actions and the actor's.

        The networks see each step at once: their parameters are views of the learners' vectors.
        """
        log_alpha = self.temperature_learner.vector.detach()
        alpha = log_alpha.exp()[0]
        followed, value = self.critics_learner, {}
        if self.value is not None:
            followed = self.value_learner
            value = followed.step(self.value_loss, minibatch, other_noise, alpha)
        critics = self.critics_learner.step(self.critics_loss, minibatch, other_noise, alpha)
        actor = self.actor_learner.step(self.actor_loss, minibatch, noise, alpha)
        if self.hparams["learn_alpha"]:
            gradient = temperature_gradient(actor["log_prob"], self.target_entropy)
            self.temperature_learner.apply(gradient.expand_as(log_alpha))
            self.temperature_learner.vector.clamp_(max=math.log(self.hparams["max_alpha"]))
        self.count += 1
        if self.count % self.hparams["target_period"] == 0:
            soft_update(self.flat_targets.vector, followed.vector, self.hparams["tau"])
        return value | critics | actor | {"alpha": alpha}

    on_fit_start = set_precision_and_clock
    validation_step = log_validation
    test_step = log_test
    on_load_checkpoint = continue_finished_run
    configure_callbacks = record
