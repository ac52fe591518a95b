"""Deep deterministic policy gradient."""

import lightning as L
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


class DDPG(L.LightningModule):
    """Fits Q(s, a) to r + gamma Q'(s', mu'(s')), and mu to the largest Q(s, mu(s)); Q', mu' follow Q and mu slowly.

    One training step is the `Rounds` of `Replay`: environment steps and updates in turn. An update is one Adam step of
    the critic, one of the actor, and a soft update of both targets.

    Args:
        spaces, total_env_steps: filled in from the data; actions must be continuous.
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
    critics_learner: Learner
    actor_learner: Learner
    critics_loss: Loss
    actor_loss: Loss
    noises = 0
    paper = "Lillicrap et al. 2015, arXiv:1509.02971"

    def __init__(
        self,
        spaces: Spaces,
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
        self.automatic_optimization = False
        check(self.hparams, ("learning_rate", *["critic_learning_rate"] * (critic_learning_rate is not None)))
        check_noise(self.hparams, "sigma")
        build_deterministic(self, spaces, sigma=sigma, drift=drift, num_critics=1)

    def configure_optimizers(self) -> list[Optimizer]:
        rate = self.hparams["learning_rate"]
        return deterministic_optimizers(self, self.hparams["critic_learning_rate"] or rate, rate)

    def update(self, minibatch: Tensor) -> Statistics:
        """One update by packed `Transitions` (B, width)."""
        critic = self.critics_learner.step(self.critics_loss, minibatch)
        actor = self.actor_learner.step(self.actor_loss, minibatch)
        update_targets(self)
        return critic | actor

    on_fit_start = set_precision_and_clock
    training_step = learn_from_rounds
    validation_step = log_validation
    test_step = log_test
    on_load_checkpoint = continue_finished_run
    configure_callbacks = record
