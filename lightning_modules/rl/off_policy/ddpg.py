"""Deep deterministic policy gradient."""

import copy
import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_modules.rl.off_policy.common import (
    NAME,
    averaged,
    check,
    check_continuous,
    compiled,
    conclude,
    fall,
    prepare,
)
from lightning_modules.trainer.progress import log_episodes
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.rl.flat import FlatAdam, FlatParameters
from zoo.rl.off_policy.actors import Actor
from zoo.rl.off_policy.critics import Critics
from zoo.rl.off_policy.td3 import td3_actor_loss, td3_critics_loss
from zoo.rl.off_policy.values import soft_update
from zoo.rl.types import Episodes


class DDPG(L.LightningModule):
    """Fits Q(s, a) to r + gamma Q'(s', mu'(s')), and mu to the largest Q(s, mu(s)); Q', mu' follow Q and mu slowly.

    One training step is the `Rounds` of `Replay`: environment steps and updates by turns. An update is one Adam step of
    the critic, one of the actor, and a soft update of both targets.

    Args:
        observation_shape, num_actions, action_low, action_high, total_env_steps: filled in from the data.
        hidden: widths of the actor and of the critic.
        gamma: discount. tau: of the soft updates.
        learning_rate: of the actor. critic_learning_rate: of the critic; by default the same.
        sigma: of the noise in the environment, in units of half the range of actions.
        drift: whether that is an Ornstein-Uhlenbeck process, as in the paper, or independent at each step.
        anneal: whether the learning rates fall linearly to 0.
        compile: whether to compile the gradients; by default in long runs, if a compiler is found.

    References:
        Lillicrap et al. 2015, arXiv:1509.02971, algorithm 1; 000_507b39bbaa34acda.txt, equations 26 to 29.
    """

    env_steps: Tensor

    paper = "Lillicrap et al. 2015, arXiv:1509.02971"

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        num_actions: tuple[int, ...] = (),
        action_low: tuple[float, ...] = (),
        action_high: tuple[float, ...] = (),
        total_env_steps: int = 100_000,
        hidden: tuple[int, ...] = (256, 256),
        gamma: float = 0.99,
        tau: float = 0.005,
        learning_rate: float = 1e-3,
        critic_learning_rate: float | None = None,
        sigma: float = 0.1,
        drift: bool = False,
        anneal: bool = False,
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model_name = NAME
        self.automatic_optimization = False
        check_continuous("DDPG", num_actions)
        check(self.hparams, ("learning_rate", *["critic_learning_rate"] * (critic_learning_rate is not None)))
        if not 0 <= sigma < math.inf:
            raise UserError(f"model.sigma must be at least 0 and finite, got {sigma}")
        self.gamma = gamma
        self.arguments: dict[str, Any] = {
            "observation_shape": list(observation_shape),
            "action_low": list(action_low),
            "action_high": list(action_high),
            "hidden": list(hidden),
            "kind": "deterministic",
            "sigma": sigma,
            "drift": drift,
        }
        self.model = Actor(**self.arguments)
        self.critics = Critics(math.prod(observation_shape) + len(action_low), 1, hidden, count=1)
        self.target_actor = copy.deepcopy(self.model).requires_grad_(False)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> Any:
        # they are on their device by now
        self.flat = [FlatParameters(part) for part in (self.critics, self.model, self.targets, self.target_actor)]
        rate = self.hparams["learning_rate"]
        rates = (self.hparams["critic_learning_rate"] or rate, rate)
        return [FlatAdam(flat.vector, of, epsilon=1e-8) for flat, of in zip(self.flat[:2], rates, strict=True)]

    def on_fit_start(self) -> None:
        prepare(self, self.model, self.critics, self.targets, self.target_actor)
        of_critics, of_actor, *_ = self.flat
        actor, critics, targets, target_actor = self.model, self.critics, self.targets, self.target_actor

        def critic_gradient(matrix: Tensor) -> tuple[Tensor, Tensor]:
            return of_critics.gradient(lambda p: td3_critics_loss(p, critics, targets, target_actor, matrix, None))

        def actor_gradient(matrix: Tensor) -> tuple[Tensor, Tensor]:
            return of_actor.gradient(lambda p: td3_actor_loss(p, actor, critics, matrix))

        self._gradients = compiled(self, critic_gradient), compiled(self, actor_gradient)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        fall(self)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):  # the networks know their precision
            said = [self.update(matrix) for minibatches in batch for matrix in minibatches]
        names = ("critics_loss", "value", "actor_loss")
        conclude(self, batch, dict(zip(names, torch.stack(said).mean(0).tolist(), strict=True)))

    def update(self, matrix: Tensor) -> Tensor:
        """One update by packed `Transitions` (B, width); (3,), what is logged."""
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        said = []
        for part in range(2):  # the critic, then the actor
            gradient, numbers = self._gradients[part](matrix)
            optimizers[part].update(averaged(self, gradient))
            said.append(numbers)
        for target, source in zip(self.flat[2:], self.flat[:2], strict=True):
            soft_update(target.vector, source.vector, self.hparams["tau"])
        return torch.cat(said)

    def validation_step(self, batch: Episodes, batch_idx: int) -> None:
        log_episodes(self, batch, "val")

    def test_step(self, batch: Episodes, batch_idx: int) -> None:
        log_episodes(self, batch, "test")

    configure_callbacks = record
