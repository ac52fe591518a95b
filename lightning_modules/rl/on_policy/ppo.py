"""Proximal policy optimisation."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.rl.learner import Learner, Statistics, mean_statistics, sum_over_processes
from lightning_modules.trainer.compilation import should_compile
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
from zoo.rl.moments import RunningMoments
from zoo.rl.on_policy.losses import explained_variance
from zoo.rl.on_policy.ppo import ppo_loss, rows_of
from zoo.rl.on_policy.returns import linear_recurrence
from zoo.rl.types import Rollout, Spaces

LONG = 500_000  # gradient steps times 32 rows from which compiling pays: about 15 s of compiling against the gain


class PPO(L.LightningModule):
    """Maximises E[min(r A, clip(r, 1 - c, 1 + c) A)], r = pi(a | s) / pi_old(a | s), with A by GAE.

    One training step is a rollout with all its epochs of minibatches, or several short rollouts one after another;
    environment steps are the x axis of every log.

    Args:
        spaces: filled in from the data.
        total_env_steps: filled in from the data; the run stops there, and what is annealed reaches 0.
        hidden, activation, shared, log_std, exploration, hold: of `zoo.rl.policies.ActorCritic`.
        normalize: whether observations are normalised by their running moments, and rewards divided by the running
            standard deviation of discounted returns; both are clipped to +-10.
        gamma: discount. gae_lambda: lambda of GAE.
        epochs: passes over a rollout. minibatch_size: rows a gradient step, in each process.
        learning_rate: of Adam. anneal: whether it falls linearly to 0.
        clip: c. anneal_clip: whether it falls linearly to 0.
        value_clip: how far a value may move from its old one, None for any distance.
        value_weight, entropy_weight: of these two losses.
        max_grad_norm: to which the gradient is shortened.
        target_kl: no more gradient steps on a rollout when the KL of a minibatch exceeds 1.5 times this, averaged over
            processes; None for never.
        normalize_advantages: whether to standardise them in each minibatch.
        recompute_advantages: whether to compute them again, with the new values, before each epoch.
        compile: whether to compile the gradient; by default in long runs, if a compiler is found.

    References:
        Schulman et al. 2017, arXiv:1707.06347; docs/rl.md lists the details of the implementation.
    """

    env_steps: Tensor
    paper = "Schulman et al. 2017, arXiv:1707.06347"

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
        gae_lambda: float = 0.95,
        epochs: int = 10,
        minibatch_size: int = 64,
        learning_rate: float = 3e-4,
        anneal: bool = False,
        clip: float = 0.2,
        anneal_clip: bool = False,
        value_clip: float | None = None,
        value_weight: float = 0.5,
        entropy_weight: float = 0.0,
        max_grad_norm: float = 0.5,
        target_kl: float | None = None,
        normalize_advantages: bool = True,
        recompute_advantages: bool = False,
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        _check(self.hparams)
        self.model = construct(self, "actor-critic", **spaces)
        self.return_moments = RunningMoments()  # of discounted returns; no part of the policy
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))
        self._running_returns: Tensor | None = None  # discounted, of the episodes that go on

    def configure_optimizers(self) -> Optimizer:
        hp = self.hparams
        names = ("value_weight", "entropy_weight", "value_clip", "normalize_advantages")
        self.loss = partial(ppo_loss, policy=self.model, **{name: hp[name] for name in names})
        compile = should_compile(self, pays=hp["total_env_steps"] * hp["epochs"] >= LONG)
        self.learner = Learner(
            self.model, hp["learning_rate"], epsilon=1e-5, max_norm=hp["max_grad_norm"], compile=compile
        )
        return self.learner.optimizer

    def on_fit_start(self) -> None:
        if self.trainer.precision == "16-mixed":
            raise UserError("trainer.precision 16-mixed rounds log-probabilities too far: use 32-true or bf16-mixed")
        start_clock(self)
        self.begin_episodes()

    def begin_episodes(self) -> None:
        """Forgets the discounted returns of episodes that go on: the environments were reset."""
        self._running_returns = None

    @torch.no_grad()
    def training_step(self, batch: Iterable[Rollout], batch_idx: int) -> None:
        statistics: list[Statistics] = []
        returns: list[float] = []
        lengths: list[int] = []
        for rollout in batch:  # each is collected when it is asked for
            if not isinstance(rollout, Rollout):
                raise UserError("PPO learns from rollouts: set data.class_path to Experience")
            statistics += self.learn(rollout)
            returns += rollout.episode_returns.tolist()
            lengths += rollout.episode_lengths.tolist()
        rate: float = self.learner.optimizer.param_groups[0]["lr"]
        log_training(self, mean_statistics(statistics) | {"learning_rate": rate}, returns, lengths)

    def learn(self, rollout: Rollout) -> list[Statistics]:
        """All epochs on a rollout: the statistics of each gradient step, and then of the rollout."""
        hp = self.hparams
        if (count := rollout.rewards.numel()) % hp["minibatch_size"]:
            raise UserError(
                f"the {count} rows (data.num_envs x data.rollout_steps) of a rollout must be a multiple of "
                f"model.minibatch_size {hp['minibatch_size']}"
            )
        left = max(0.0, 1.0 - float(self.env_steps) / hp["total_env_steps"])
        for group in self.learner.optimizer.param_groups:
            group["lr"] = hp["learning_rate"] * (left if hp["anneal"] else 1.0)
        clip = torch.tensor(hp["clip"] * (left if hp["anneal_clip"] else 1.0), device=self.device)
        observed = self._count(rollout)
        rows = rows_of(self.model, rollout, self.return_moments.scale(), hp["gamma"], hp["gae_lambda"])
        fit = explained_variance(rows.values, rows.targets, rows.weights)
        statistics, stopped = self._epochs(rollout, rows.pack(), clip)
        if self.model.normalizer is not None:  # after the updates, which saw what the actions were chosen by
            self.model.normalizer.merge(observed.view(3, -1))
        return [*statistics, {"explained_variance": fit, "kl_stop": torch.tensor(float(stopped), device=self.device)}]

    def _epochs(self, rollout: Rollout, matrix: Tensor, clip: Tensor) -> tuple[list[Statistics], bool]:
        """All gradient steps on a rollout: the statistics of each, and whether the KL stopped them."""
        hp, done = self.hparams, []
        limit = None if hp["target_kl"] is None else 1.5 * hp["target_kl"]
        for epoch in range(hp["epochs"]):
            if epoch and hp["recompute_advantages"]:
                fresh = rows_of(self.model, rollout, self.return_moments.scale(), hp["gamma"], hp["gae_lambda"])
                matrix[:, -3:-1] = torch.stack([fresh.advantages, fresh.targets], 1)
            shuffled = matrix[torch.randperm(len(matrix), device=matrix.device)]
            for minibatch in shuffled.split(hp["minibatch_size"]):
                gradient, statistics = self.learner.gradient(self.loss, minibatch, clip)
                done.append(statistics)
                if limit is not None and statistics["kl"] > limit:
                    return done, True
                self.learner.apply(gradient)
        return done, False

    def _count(self, rollout: Rollout) -> Tensor:
        """Adds up, over processes, transitions and moments of returns; the `sums` of observations, flat."""
        valid = rollout.valid
        parts = [valid.sum()[None].double()]
        if self.model.normalizer is not None:
            parts.append(RunningMoments.sums(self._discounted(rollout)[valid]).flatten())
            parts.append(RunningMoments.sums(rollout.observations[:-1].flatten(2)[valid]).flatten())
        message = sum_over_processes(torch.cat(parts))
        count_env_steps(self, message[0])
        if self.model.normalizer is not None:
            self.return_moments.merge(message[1:4].view(3))
        return message[4:]

    def _discounted(self, rollout: Rollout) -> Tensor:
        """(T, N), R_t = r_t + gamma R_{t-1} within an episode: what the running moments of returns are of."""
        if self._running_returns is None:  # environments begin anew, in a resumed run too
            self._running_returns = torch.zeros_like(rollout.rewards[0])
        goes_on = ~(rollout.terminated | rollout.truncated)
        decay = self.hparams["gamma"] * torch.cat([torch.ones_like(goes_on[:1]), goes_on[:-1]]).float()
        first = torch.cat([(rollout.rewards[0] + decay[0] * self._running_returns)[None], rollout.rewards[1:]])
        returns = linear_recurrence(first.flip(0), decay.flip(0)).flip(0)
        self._running_returns = returns[-1] * goes_on[-1]
        return returns

    validation_step = log_validation
    test_step = log_test
    on_load_checkpoint = continue_finished_run
    configure_callbacks = record


def _check(hp: Mapping[str, Any]) -> None:
    """Raises a UserError for values with which nothing could be learned."""
    for name in ("total_env_steps", "epochs", "minibatch_size", "learning_rate", "clip", "max_grad_norm"):
        if not hp[name] > 0:
            raise UserError(f"model.{name} must be positive, got {hp[name]}")
    for name in ("gamma", "gae_lambda"):
        if not 0 <= hp[name] <= 1:
            raise UserError(f"model.{name} must be between 0 and 1, got {hp[name]}")
    for name in ("value_clip", "target_kl"):
        if hp[name] is not None and not hp[name] > 0:
            raise UserError(f"model.{name} must be positive or null, got {hp[name]}")
    for name in ("value_weight", "entropy_weight"):
        if not 0 <= hp[name] < float("inf"):
            raise UserError(f"model.{name} must be at least 0 and finite, got {hp[name]}")
