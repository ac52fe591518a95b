"""Twin delayed deep deterministic policy gradient."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.rl.learner import Learner, Loss, Statistics
from lightning_modules.rl.off_policy.common import (
    build_deterministic,
    check,
    check_noise,
    deterministic_optimizers,
    learn_from_rounds,
    set_precision_and_clock,
    update_targets,
)
from lightning_modules.trainer.progress import continue_finished_run, log_test, log_validation
from lightning_modules.trainer.record import record
from zoo.rl.types import Spaces


class TD3(L.LightningModule):
    """Deterministic policy gradient with the smaller of two critics, noise in their target, and a delayed actor.

    One training step is the `Rounds` of `Replay`: environment steps and updates in turn. Each update is one Adam step
    of the critics; each `delay`-th also one of the actor, and a soft update of all targets. Noise is in units of half
    the range of actions.

    Args:
        spaces, total_env_steps: filled in from the data; actions must be continuous.
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
    critics_learner: Learner
    actor_learner: Learner
    critics_loss: Loss
    actor_loss: Loss
    noises = 1  # of the target
    paper = "Fujimoto et al. 2018, arXiv:1802.09477"

    def __init__(
        self,
        spaces: Spaces,
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
        self.automatic_optimization = False
        check(self.hparams, ("learning_rate", "target_clip", "delay", "num_critics"))
        check_noise(self.hparams, "exploration_sigma", "target_sigma")
        build_deterministic(self, spaces, sigma=exploration_sigma, drift=False, num_critics=num_critics)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))  # the phase of the delay

    def configure_optimizers(self) -> list[Optimizer]:
        rate, sigma, clip = (self.hparams[name] for name in ("learning_rate", "target_sigma", "target_clip"))
        return deterministic_optimizers(self, rate, rate, sigma=sigma, clip=clip)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.count = int(self.updates)  # on the host: an update must not wait for the device
        learn_from_rounds(self, batch, batch_idx)
        self.updates.fill_(self.count)

    def update(self, minibatch: Tensor, noise: Tensor) -> Statistics:
        """One update by packed `Transitions` (B, width) and noise (B, A) for the actions of the target."""
        self.count += 1
        critics = self.critics_learner.step(self.critics_loss, minibatch, noise)
        if self.count % self.hparams["delay"]:
            return critics
        actor = self.actor_learner.step(self.actor_loss, minibatch)
        update_targets(self)
        return critics | actor

    on_fit_start = set_precision_and_clock
    validation_step = log_validation
    test_step = log_test
    on_load_checkpoint = continue_finished_run
    configure_callbacks = record
