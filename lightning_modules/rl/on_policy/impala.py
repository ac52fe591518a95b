"""IMPALA: actors that play ahead of the learner, corrected by V-trace."""

import lightning as L
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.rl.learner import Learner, Loss, Statistics
from lightning_modules.rl.on_policy.common import (
    anneal,
    begin_episodes,
    build,
    check,
    count,
    learn_from_rollouts,
    merge_observations,
    policy_gradient_optimizer,
    start,
)
from lightning_modules.trainer.progress import continue_finished_run, log_test, log_validation
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.rl.flat import OPTIMIZERS
from zoo.rl.moments import RunningMoments
from zoo.rl.on_policy.losses import explained_variance
from zoo.rl.on_policy.vtrace import vtrace_rows
from zoo.rl.policies import ActorCritic
from zoo.rl.types import Rollout, Spaces

LONG = 200_000  # environment steps from which compiling pays


class IMPALA(L.LightningModule):
    """Ascends E[rho (r + gamma v' - V) grad log pi] on rollouts that the policy of one update before has played.

    With `data.ahead: 1` a thread plays the next rollout while this one is learned from, so that every rollout but the
    first is exactly one update old; the run is as reproducible as any other. One gradient step a rollout; the loss is a
    mean over its rows.

    Args:
        spaces: filled in from the data.
        total_env_steps: filled in from the data; the run stops there, and what is annealed reaches 0.
        hidden, activation, shared, log_std, exploration, hold: of `zoo.rl.policies.ActorCritic`.
        normalize: whether observations are normalised by their running moments, and rewards divided by the running
            standard deviation of discounted returns; both are clipped to +-10.
        gamma: discount. gae_lambda: by which traces fade, lambda.
        rho_bar, c_bar: where the ratios of policies are cut off, in errors and in traces.
        optimizer: "adam", "rmsprop" (epsilon outside the root, as PyTorch) or "rmsprop-inside" (as TensorFlow).
        learning_rate, epsilon: of the optimizer. anneal: whether the rate falls linearly to 0.
        value_weight, entropy_weight: of these two losses.
        max_grad_norm: to which the gradient is shortened, None for never.
        compile: whether to compile the gradient; by default in long runs, if a compiler is found.

    References:
        Espeholt et al. 2018, arXiv:1802.01561.
    """

    model: ActorCritic
    learner: Learner
    loss: Loss
    return_moments: RunningMoments
    env_steps: Tensor
    paper = "Espeholt et al. 2018, arXiv:1802.01561"
    takes_old_rollouts = True

    def __init__(
        self,
        spaces: Spaces,
        total_env_steps: int = 100_000,
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
        shared: bool = False,
        log_std: float = 0.0,
        exploration: str = "independent",
        hold: int = 4,
        normalize: bool = False,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        rho_bar: float = 1.0,
        c_bar: float = 1.0,
        optimizer: str = "rmsprop",
        learning_rate: float = 7e-4,
        epsilon: float = 1e-5,
        anneal: bool = False,
        value_weight: float = 0.5,
        entropy_weight: float = 0.01,
        max_grad_norm: float | None = 0.5,
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check(
            self,
            positive=("epsilon", "rho_bar", "c_bar"),
            shares=("gae_lambda",),
            optional=("max_grad_norm",),
            weights=("value_weight", "entropy_weight"),
        )
        if optimizer not in OPTIMIZERS:
            raise UserError(f"model.optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
        if rho_bar < c_bar:
            raise UserError(f"model.rho_bar must be at least model.c_bar {c_bar}, got {rho_bar}")
        build(self, spaces)

    def configure_optimizers(self) -> Optimizer:
        return policy_gradient_optimizer(self, self.hparams["total_env_steps"] >= LONG)

    def learn(self, rollout: Rollout) -> list[Statistics]:
        """One gradient step: its statistics."""
        anneal(self)
        observed = count(self, rollout)
        scale = self.return_moments.scale()
        options = (self.hparams[name] for name in ("gamma", "gae_lambda", "rho_bar", "c_bar"))
        rows, ratios = vtrace_rows(self.model, rollout, scale, *options)
        statistics = self.learner.step(self.loss, rows.pack()) | ratios
        merge_observations(self, observed)
        return [statistics | {"explained_variance": explained_variance(rows.values, rows.targets, rows.weights)}]

    on_fit_start = start
    begin_episodes = begin_episodes
    training_step = learn_from_rollouts
    validation_step = log_validation
    test_step = log_test
    on_load_checkpoint = continue_finished_run
    configure_callbacks = record
