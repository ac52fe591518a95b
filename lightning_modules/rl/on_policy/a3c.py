"""A3C and asynchronous Q-learning: workers that step shared parameters, each when it is ready."""

from collections.abc import Callable
from functools import partial
from statistics import mean
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_modules.rl.learner import Learner
from lightning_modules.rl.on_policy.common import anneal, check
from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.progress import (
    continue_finished_run,
    count_env_steps,
    log_test,
    log_training,
    log_validation,
    start_clock,
)
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.rl.asynchronous import OBJECTIVES, Shared, Worker, action_value_loss, actor_critic_loss
from zoo.rl.flat import OPTIMIZERS
from zoo.rl.on_policy.policy_gradient import Estimator
from zoo.rl.types import Spaces


class A3C(L.LightningModule):
    """theta <- theta - RMSprop(sum_t d l_t(theta') / d theta'), by each worker when its segment is over.

    Its data is `AsynchronousExperience`. Workers are processes that share theta and the statistics of the optimizer in
    memory. They read and step them under a lock, which costs nothing measurable. The loss is a sum over the steps of a
    segment. A training step lasts for some segments, after which they wait.

    Args:
        spaces: filled in from the data.
        total_env_steps: filled in from the data; the run stops there, and what is annealed reaches 0.
        objective: "actor-critic"; or of action values, "one-step-q", "one-step-sarsa" or "n-step-q".
        hidden: widths. activation, shared, log_std: of `zoo.rl.policies.ActorCritic`.
        gamma: discount. gae_lambda: of generalised advantages; 1 for the rewards of the segment, and V after it.
        exploration_rates: of action values, how often an action is random: worker k ends with the k-th, from the first
            again when they run out. exploration_env_steps: over which it falls linearly from 1.
        target_period: of action values, environment steps between copies of theta to theta^-, at most one a training
            step; null bootstraps from theta'.
        optimizer: "rmsprop-inside" (epsilon inside the root, as in the paper), "rmsprop" (outside) or "adam".
        learning_rate, epsilon: of the optimizer. anneal: whether the rate falls linearly to 0.
        value_weight, entropy_weight: of these two losses of the actor-critic.
        max_grad_norm: to which the summed gradient is shortened, None for never. Where only the few large errors of
            terminal segments are shortened, and not the many small ones, values become too high.

    References:
        Mnih et al. 2016, arXiv:1602.01783; 000_507b39bbaa34acda.txt, section 4.2; 004_2b20c020fc470ac5.txt, 4.3.2.
    """

    env_steps: Tensor
    target: Tensor | None
    paper = "Mnih et al. 2016, arXiv:1602.01783"

    def __init__(
        self,
        spaces: Spaces,
        total_env_steps: int = 100_000,
        objective: str = "actor-critic",
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
        shared: bool = False,
        log_std: float = 0.0,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        exploration_rates: tuple[float, ...] = (0.1, 0.01, 0.5),
        exploration_env_steps: int = 50_000,
        target_period: int | None = 1000,
        optimizer: str = "rmsprop-inside",
        learning_rate: float = 7e-4,
        epsilon: float = 1e-2,
        anneal: bool = False,
        value_weight: float = 0.5,
        entropy_weight: float = 0.01,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        check(
            self,
            positive=("epsilon", "exploration_env_steps"),
            shares=("gae_lambda",),
            optional=("max_grad_norm", "target_period"),
            weights=("value_weight", "entropy_weight"),
        )
        _check_choices(self, spaces)
        self.learns_values = objective != "actor-critic"
        if self.learns_values:
            self.model = construct(self, "q-network", **spaces, epsilon=exploration_rates[0])
        else:
            self.model = construct(self, "actor-critic", **spaces)
        has_target = self.learns_values and target_period is not None
        vector = nn.utils.parameters_to_vector(self.model.parameters()).detach()
        self.register_buffer("target", vector if has_target else None)
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> Optimizer:
        hp = self.hparams
        self.learner = Learner(self.model, hp["learning_rate"], epsilon=hp["epsilon"], optimizer=hp["optimizer"])
        optimizer: Optimizer = self.learner.optimizer
        return optimizer

    def make_worker(self) -> Callable[[], Worker]:
        """What a worker process calls. Moves what workers have in common to shared memory."""
        hp = self.hparams
        vector, state = self.learner.vector.data, self.learner.optimizer.state[self.learner.vector]
        for tensor in (vector, *state.values(), *(() if self.target is None else (self.target,))):
            tensor.share_memory_()
        shared = Shared(vector, self.target, state, torch.multiprocessing.get_context("spawn").Lock())
        if self.learns_values:
            loss: Any = partial(action_value_loss, objective=hp["objective"], gamma=hp["gamma"])
        else:
            how = Estimator(gamma=hp["gamma"], gae_lambda=hp["gae_lambda"])
            weights = {name: hp[name] for name in ("value_weight", "entropy_weight")}
            loss = partial(actor_critic_loss, how=how, **weights)
        return partial(Worker, self.model, loss, shared, hp["optimizer"], hp["epsilon"], hp["max_grad_norm"])

    def on_fit_start(self) -> None:
        if self.trainer.world_size > 1:
            raise UserError(
                "A3C's workers share the memory of one process: set trainer.devices 1 and trainer.num_nodes 1, and "
                "data.workers to how many there are"
            )
        if self.device.type != "cpu":
            raise UserError(f"A3C's workers share main memory: set trainer.accelerator cpu, got {self.device.type}")
        if self.trainer.precision != "32-true":
            raise UserError(f"A3C learns in float32: set trainer.precision 32-true, got {self.trainer.precision}")
        start_clock(self)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        if not hasattr(batch, "workers"):
            raise UserError("A3C's workers play and learn: set data.class_path to AsynchronousExperience")
        anneal(self)
        rate: float = self.learner.optimizer.param_groups[0]["lr"]
        before = int(self.env_steps)
        reports = batch.run(
            [{"learning_rate": rate, "exploration": self._exploration(k)} for k in range(batch.workers)]
        )
        count_env_steps(self, torch.tensor(sum(report.env_steps for report in reports)))
        self._update_target(before)
        learned = [statistics for report in reports for statistics in report.statistics]
        means = {name: mean(statistics[name] for statistics in learned) for name in learned[0]}
        episodes = ([value for report in reports for value in report[part]] for part in (2, 3))
        log_training(self, means | {"learning_rate": rate}, *episodes)

    def _exploration(self, worker: int) -> float | None:
        """How often a worker's action is random at this count of environment steps."""
        if not self.learns_values:
            return None
        hp = self.hparams
        final: float = hp["exploration_rates"][worker % len(hp["exploration_rates"])]
        left = 1 - float(self.env_steps) / hp["exploration_env_steps"]
        return final + (1 - final) * max(0.0, left)

    def _update_target(self, before: int) -> None:
        """theta^- <- theta, if environment steps passed a multiple of `target_period` since `before`."""
        period = self.hparams["target_period"]
        if self.target is not None and int(self.env_steps) // period > before // period:
            self.target.copy_(self.learner.vector.data)

    validation_step = log_validation
    test_step = log_test
    on_load_checkpoint = continue_finished_run
    configure_callbacks = record


def _check_choices(module: A3C, spaces: Spaces) -> None:
    hp = module.hparams
    for name, choices in {"objective": OBJECTIVES, "optimizer": [*OPTIMIZERS]}.items():
        if hp[name] not in choices:
            raise UserError(f"model.{name} must be one of {', '.join(choices)}, got {hp[name]!r}")
    if hp["objective"] == "actor-critic":
        return
    if len(spaces["num_actions"]) != 1:
        kind = "several" if spaces["num_actions"] else "continuous ones"
        raise UserError(
            f"model.objective {hp['objective']} takes one discrete action, but this environment has {kind}: set "
            "model.objective actor-critic"
        )
    rates = hp["exploration_rates"]
    if not rates or not all(0 <= rate <= 1 for rate in rates):
        raise UserError(f"model.exploration_rates must be numbers between 0 and 1, got {[*rates]}")
