"""Twin delayed deep deterministic policy gradient."""

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


class TD3(L.LightningModule):
    """Deterministic policy gradient with the smaller of two critics, noise in their target, and a delayed actor.

    One training step is the `Rounds` of `Replay`: environment steps and updates by turns. Each update is one Adam step
    of the critics; each `delay`-th also one of the actor, and a soft update of all targets. Noise is in units of half
    the range of actions.

    Args:
        observation_shape, num_actions, action_low, action_high, total_env_steps: filled in from the data.
        hidden: widths of the actor and of the critics.
        gamma: discount. tau: of the soft updates.
        learning_rate: of both Adams.
        exploration_sigma: of the Gaussian noise in the environment.
        target_sigma, target_clip: of the noise in the target.
        delay: updates of the critics for one of the actor.
        num_critics: 2; with 1, delay 1 and target_sigma 0 this is DDPG.
        anneal: whether the learning rates fall linearly to 0.
        compile: whether to compile the gradients; by default in long runs, if a compiler is found.

    References:
        Fujimoto et al. 2018, arXiv:1802.09477, algorithm 1; 000_507b39bbaa34acda.txt, section 6.
    """

    env_steps: Tensor
    updates: Tensor

    paper = "Fujimoto et al. 2018, arXiv:1802.09477"

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
        exploration_sigma: float = 0.1,
        target_sigma: float = 0.2,
        target_clip: float = 0.5,
        delay: int = 2,
        num_critics: int = 2,
        anneal: bool = False,
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model_name = NAME
        self.automatic_optimization = False
        check_continuous("TD3", num_actions)
        check(self.hparams, ("learning_rate", "target_clip", "delay", "num_critics"))
        for name in ("exploration_sigma", "target_sigma"):
            if not 0 <= self.hparams[name] < math.inf:
                raise UserError(f"model.{name} must be at least 0 and finite, got {self.hparams[name]}")
        self.gamma = gamma
        self.arguments: dict[str, Any] = {
            "observation_shape": list(observation_shape),
            "action_low": list(action_low),
            "action_high": list(action_high),
            "hidden": list(hidden),
            "kind": "deterministic",
            "sigma": exploration_sigma,
        }
        self.model = Actor(**self.arguments)
        self.critics = Critics(math.prod(observation_shape) + len(action_low), 1, hidden, num_critics)
        self.target_actor = copy.deepcopy(self.model).requires_grad_(False)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))  # the phase of the delay

    def configure_optimizers(self) -> Any:
        # they are on their device by now
        self.flat = [FlatParameters(part) for part in (self.critics, self.model, self.targets, self.target_actor)]
        rate = self.hparams["learning_rate"]
        return [FlatAdam(flat.vector, rate, epsilon=1e-8) for flat in self.flat[:2]]

    def on_fit_start(self) -> None:
        prepare(self, self.model, self.critics, self.targets, self.target_actor)
        of_critics, of_actor, *_ = self.flat
        actor, critics, targets, target_actor = self.model, self.critics, self.targets, self.target_actor
        options: dict[str, Any] = {"sigma": self.hparams["target_sigma"], "clip": self.hparams["target_clip"]}

        def critics_gradient(matrix: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            return of_critics.gradient(
                lambda p: td3_critics_loss(p, critics, targets, target_actor, matrix, noise, **options)
            )

        def actor_gradient(matrix: Tensor) -> tuple[Tensor, Tensor]:
            return of_actor.gradient(lambda p: td3_actor_loss(p, actor, critics, matrix))

        self._gradients = compiled(self, critics_gradient), compiled(self, actor_gradient)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        fall(self)
        of_critics, of_actor, count, before = [], [], int(self.updates), int(self.updates)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):  # the networks know their precision
            for minibatches in batch:
                noise = torch.randn(*minibatches.shape[:2], len(self.model.low), device=self.device)
                for matrix, following in zip(minibatches, noise, strict=True):
                    count += 1
                    of_critics.append(self.update_critics(matrix, following))
                    if count % self.hparams["delay"] == 0:
                        of_actor.append(self.update_actor(matrix))
        self.updates += count - before
        loss, value = torch.stack(of_critics).mean(0).tolist()
        means = {"critics_loss": loss, "value": value}
        if of_actor:
            means["actor_loss"] = float(torch.stack(of_actor).mean())
        conclude(self, batch, means)

    def update_critics(self, matrix: Tensor, noise: Tensor) -> Tensor:
        """One Adam step by packed `Transitions` (B, width) and noise (B, A); (2,), what is logged."""
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        gradient, said = self._gradients[0](matrix, noise)
        optimizers[0].update(averaged(self, gradient))
        return said

    def update_actor(self, matrix: Tensor) -> Tensor:
        """One Adam step of the actor, and the soft updates; (1,), its loss."""
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        gradient, said = self._gradients[1](matrix)
        optimizers[1].update(averaged(self, gradient))
        for target, source in zip(self.flat[2:], self.flat[:2], strict=True):
            soft_update(target.vector, source.vector, self.hparams["tau"])
        return said

    def validation_step(self, batch: Episodes, batch_idx: int) -> None:
        log_episodes(self, batch, "val")

    def test_step(self, batch: Episodes, batch_idx: int) -> None:
        log_episodes(self, batch, "test")

    configure_callbacks = record
