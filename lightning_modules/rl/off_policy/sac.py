"""Soft actor-critic, for continuous and for discrete actions."""

import copy
import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_modules.rl.off_policy.common import NAME, averaged, check, compiled, conclude, fall, prepare
from lightning_modules.trainer.progress import log_episodes
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.rl.flat import FlatAdam, FlatParameters
from zoo.rl.off_policy.actors import Actor
from zoo.rl.off_policy.critics import Critics
from zoo.rl.off_policy.sac import sac_actor_loss, sac_critics_loss
from zoo.rl.off_policy.values import soft_update, temperature_loss
from zoo.rl.types import Episodes


class SAC(L.LightningModule):
    """Maximises E[sum_t gamma^t (r_t + alpha H(pi(. | s_t)))] by two critics, a squashed Gaussian and a learned alpha.

    One training step is the `Rounds` of `Replay`: environment steps and updates by turns. An update is one Adam step of
    the critics, then of the actor, then of log alpha, and one soft update of the target critics.

    Args:
        observation_shape, num_actions, action_low, action_high, total_env_steps: filled in from the data. One discrete
            action is taken too: then the policy is categorical, and expectations over it are exact.
        hidden: widths of the actor and of both critics.
        gamma: discount. tau: of the soft updates.
        learning_rate: of all three Adams.
        alpha: where the temperature begins. learn_alpha: whether it is learned, or stays there.
        target_entropy: that a learned temperature leads to; by default -A, or 0.98 log n for n discrete actions.
        anneal: whether the learning rates fall linearly to 0.
        compile: whether to compile the gradients; by default in long runs, if a compiler is found.

    References:
        Haarnoja et al. 2018, arXiv:1812.05905, algorithm 1; Christodoulou 2019, arXiv:1910.07207 (discrete actions).
        003_679b8cdb08266a71.txt has a value network beside and no temperature: the older form, arXiv:1801.01290.
    """

    env_steps: Tensor

    paper = "Haarnoja et al. 2018, arXiv:1812.05905"

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
        learning_rate: float = 3e-4,
        alpha: float = 1.0,
        learn_alpha: bool = True,
        target_entropy: float | None = None,
        anneal: bool = False,
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model_name = NAME
        self.automatic_optimization = False
        check(self.hparams, ("learning_rate", "alpha"))
        if len(num_actions) > 1:
            raise UserError("SAC takes one discrete action, but this environment has several: use PPO there")
        self.gamma = gamma
        self.arguments: dict[str, Any] = {
            "observation_shape": list(observation_shape),
            "num_actions": list(num_actions),
            "action_low": list(action_low),
            "action_high": list(action_high),
            "hidden": list(hidden),
        }
        self.model = Actor(**self.arguments)
        inputs, outputs = math.prod(observation_shape) + len(action_low), num_actions[0] if num_actions else 1
        self.critics = Critics(inputs, outputs, hidden)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.temperature = nn.ParameterDict({"log_alpha": nn.Parameter(torch.tensor([math.log(alpha)]))})
        default = 0.98 * math.log(num_actions[0]) if num_actions else -float(len(action_low))
        self.target_entropy = default if target_entropy is None else target_entropy
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> Any:
        parts = (self.critics, self.model, self.temperature, self.targets)
        self.flat = [FlatParameters(part) for part in parts]  # they are on their device by now
        rate = self.hparams["learning_rate"]
        return [FlatAdam(flat.vector, rate, epsilon=1e-8) for flat in self.flat[:3]]

    def on_fit_start(self) -> None:
        prepare(self, self.model, self.critics, self.targets)
        of_critics, of_actor, *_ = self.flat
        actor, critics, targets = self.model, self.critics, self.targets

        def critics_gradient(matrix: Tensor, noise: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
            return of_critics.gradient(lambda p: sac_critics_loss(p, critics, targets, actor, matrix, noise, alpha))

        def actor_gradient(matrix: Tensor, noise: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
            return of_actor.gradient(lambda p: sac_actor_loss(p, actor, critics, matrix, noise, alpha))

        self._gradients = compiled(self, critics_gradient), compiled(self, actor_gradient)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        fall(self)
        names, sums, count = ("critics_loss", "value", "actor_loss", "log_prob"), torch.zeros(4), 0
        sums = sums.to(self.device)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):  # the networks know their precision
            for minibatches in batch:
                noise = torch.randn(2, *minibatches.shape[:2], max(1, len(self.model.low)), device=self.device)
                for matrix, following, now in zip(minibatches, *noise, strict=True):
                    sums += self.update(matrix, following, now)
                    count += 1
        means = dict(zip(names, (sums / count).tolist(), strict=True))
        conclude(self, batch, means | {"alpha": float(self.temperature["log_alpha"].detach().exp())})

    def update(self, matrix: Tensor, noise_following: Tensor, noise_now: Tensor) -> Tensor:
        """One update by packed `Transitions` (B, width) and noise (B, A) for s' and s; (4,), what is logged."""
        critics, _, temperature, targets = self.flat
        optimizers: Any = self.optimizers(use_pl_optimizer=False)
        log_alpha = temperature.vector.detach()
        alpha = log_alpha.exp()[0]
        gradient, said = self._gradients[0](matrix, noise_following, alpha)
        optimizers[0].update(averaged(self, gradient))
        gradient, of_actor = self._gradients[1](matrix, noise_now, alpha)
        optimizers[1].update(averaged(self, gradient))
        if self.hparams["learn_alpha"]:
            slope = temperature_loss(torch.ones_like(log_alpha), of_actor[1], self.target_entropy)  # it is linear
            optimizers[2].update(averaged(self, slope))
        soft_update(targets.vector, critics.vector, self.hparams["tau"])
        return torch.cat([said, of_actor])

    def validation_step(self, batch: Episodes, batch_idx: int) -> None:
        log_episodes(self, batch, "val")

    def test_step(self, batch: Episodes, batch_idx: int) -> None:
        log_episodes(self, batch, "test")

    configure_callbacks = record
