"""Deep Q-learning, with double and dueling networks and prioritised replay."""

import copy
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.rl.learner import Statistics, mean_statistics, sum_over_processes
from lightning_modules.rl.off_policy.common import (
    anneal_learning_rates,
    check,
    check_replay,
    learner,
    set_precision_and_clock,
)
from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.progress import (
    continue_finished_run,
    count_env_steps,
    log_test,
    log_training,
    log_validation,
)
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.rl.flat import FlatParameters
from zoo.rl.off_policy.dqn import dqn_loss
from zoo.rl.off_policy.q_network import DUELING
from zoo.rl.off_policy.values import soft_update
from zoo.rl.types import Spaces


class DQN(L.LightningModule):
    """Fits Q(s, a) to r + gamma max_a' Q'(s', a'), where Q' is a copy of Q from some environment steps ago.

    One training step is the `Rounds` of `Replay`: environment steps and updates in turn. An update is one Adam step.
    Prioritised replay and returns of n steps are options of `Replay`.

    Args:
        spaces, total_env_steps: filled in from the data; the action must be one discrete one.
        hidden: widths. channels: of convolutions before them, for pictures; see `zoo.rl.convolutions`.
        dueling: "none", or how V(s) and A(s, a) give Q(s, a): "mean" or "max".
        double: whether Q chooses the action that Q' values.
        target_period: environment steps between copies of Q to Q'; null or 0 learns from Q itself, without a target
            network. Q' changes between rounds of updates only, at most once a round.
        tau: Q' <- tau Q + (1 - tau) Q' takes the place of the copy, for tau below 1.
        huber: whether the loss is linear for errors above 1.
        gamma: discount.
        learning_rate: of Adam. max_norm: to which a longer gradient is shortened.
        epsilon: probability of a random action, after it has fallen linearly from 1 over `epsilon_env_steps`. In the
            warm-up, `data.warmup_env_steps`, all actions are random.
        anneal: whether the learning rate falls linearly to 0.
        compile: whether to compile the gradient; by default in long runs, if a compiler is found.

    References:
        Mnih et al. 2015, Human-level control through deep reinforcement learning; van Hasselt et al. 2016,
        arXiv:1509.06461 (double); Wang et al. 2016, arXiv:1511.06581 (dueling); Schaul et al. 2016, arXiv:1511.05952
        (prioritised replay). 001_7af9247201bdf7d9.txt, section 7.5; 004_2b20c020fc470ac5.txt, sections 4.1.1, 4.2.1 and
        4.3.1.
    """

    env_steps: Tensor
    takes_weights = True  # of prioritised rows
    paper = "Mnih et al. 2013, arXiv:1312.5602"

    def __init__(
        self,
        spaces: Spaces,
        total_env_steps: int = 100_000,
        hidden: tuple[int, ...] = (128, 128),
        dueling: str = "none",
        double: bool = False,
        target_period: int | None = 500,
        tau: float = 1.0,
        huber: bool = True,
        gamma: float = 0.99,
        learning_rate: float = 5e-4,
        max_norm: float = 10.0,
        epsilon: float = 0.05,
        epsilon_env_steps: int = 10_000,
        anneal: bool = False,
        compile: bool | None = None,
        channels: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        check(self.hparams, ("learning_rate", "max_norm", "epsilon_env_steps"))
        _check_actions(spaces)
        if target_period is not None and target_period < 0:
            raise UserError(f"model.target_period must be at least 0, or null, got {target_period}")
        if not 0 <= epsilon <= 1:
            raise UserError(f"model.epsilon must be between 0 and 1, got {epsilon}")
        if dueling not in DUELING:
            raise UserError(f"model.dueling must be one of {', '.join(DUELING)}, got {dueling!r}")
        self.gamma = gamma
        self.model = construct(self, "q-network", **spaces)
        self.target = copy.deepcopy(self.model).requires_grad_(False) if target_period else None
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> list[Optimizer]:
        options = {name: self.hparams[name] for name in ("double", "huber")}
        self.loss = partial(dqn_loss, network=self.model, target=self.target, **options)
        self.learner = learner(self, self.model, self.hparams["learning_rate"], self.hparams["max_norm"])
        if self.target is not None:
            self.flat_target = FlatParameters(self.target)  # not its vector: a registered one would enter state_dict
        return [self.learner.optimizer]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        check_replay(self, batch)
        anneal_learning_rates(self)
        updates: list[Statistics] = []
        before = done = int(self.env_steps)
        self.explore(done)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):  # the network sets its own precision
            for minibatches in batch:
                learned = [self.update(minibatch) for minibatch in minibatches]
                batch.prioritize(torch.stack([statistics.pop("errors") for statistics in learned]))
                updates += learned
                last, done = done, before + int(sum_over_processes(torch.tensor(batch.env_steps, device=self.device)))
                self.update_target(last, done)
                self.explore(done)
        count_env_steps(self, torch.tensor(done - before, device=self.device))
        log_training(self, mean_statistics(updates), *zip(*batch.episodes, strict=True))

    def update(self, minibatch: Tensor) -> Statistics:
        """One update by packed `Transitions` (B, width), or (B, width + 1) with their weights."""
        return self.learner.step(self.loss, minibatch)

    def update_target(self, last: int, now: int) -> None:
        """Q' <- Q, if environment steps passed a multiple of `target_period` between two counts."""
        period = self.hparams["target_period"]
        if period and now // period > last // period:
            soft_update(self.flat_target.vector, self.learner.vector, self.hparams["tau"])

    def explore(self, env_steps: int) -> None:
        """Sets epsilon to that of a count of environment steps."""
        left = max(0.0, 1 - env_steps / self.hparams["epsilon_env_steps"])
        self.model.distribution.epsilon = self.hparams["epsilon"] + (1 - self.hparams["epsilon"]) * left

    on_fit_start = set_precision_and_clock
    validation_step = log_validation
    test_step = log_test
    on_load_checkpoint = continue_finished_run
    configure_callbacks = record


def _check_actions(spaces: Spaces) -> None:
    if not spaces["num_actions"]:
        raise UserError("DQN takes one discrete action, but this environment has continuous ones: use SAC or TD3 there")
    if len(spaces["num_actions"]) > 1:
        raise UserError("DQN takes one discrete action, but this environment has several: use PPO there")
    if spaces["num_actions"] == (1,):
        raise UserError("DQN needs a choice, but this environment has one action only")
