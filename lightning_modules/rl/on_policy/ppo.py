"""Proximal policy optimisation."""

from functools import partial

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.rl.learner import Learner, Statistics, mean_over_processes
from lightning_modules.rl.on_policy.common import (
    anneal,
    begin_episodes,
    build,
    check,
    check_minibatches,
    count,
    learn_from_rollouts,
    merge_observations,
    start,
)
from lightning_modules.trainer.compilation import should_compile
from lightning_modules.trainer.progress import continue_finished_run, log_test, log_validation
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.rl.moments import RunningMoments
from zoo.rl.on_policy.losses import explained_variance, weighted_mean
from zoo.rl.on_policy.ppo import PENALTIES, Rows, next_penalty, ppo_loss, rows_of
from zoo.rl.policies import ActorCritic
from zoo.rl.types import Rollout, Spaces

LONG = 500_000  # gradient steps times 32 rows from which compiling pays: about 15 s of compiling against the gain


class PPO(L.LightningModule):
    """Maximises E[min(r A, clip(r, 1 - c, 1 + c) A)], r = pi(a | s) / pi_old(a | s), with A by GAE.

    One training step is a rollout with all its epochs of minibatches, or several short rollouts one after another;
    environment steps are the x axis of every log.

    Args:
        spaces: filled in from the data.
        total_env_steps: filled in from the data; the run stops there, and what is annealed reaches 0.
        hidden, activation, shared, log_std, exploration, hold, channels: of `zoo.rl.policies.ActorCritic`.
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
        kl_penalty: "none", the clipped objective; or E[r A] - beta KL(old || new) instead of it, with a beta that is
            "adaptive", or follows "dual" ascent on KL <= kl_bound.
        kl_weight: beta to begin with. kl_bound: on the KL of an update. dual_rate: of dual ascent.
        compile: whether to compile the gradient; by default in long runs, if a compiler is found.

    References:
        Schulman et al. 2017, arXiv:1707.06347; docs/rl.md lists the details of the implementation.
    """

    model: ActorCritic
    return_moments: RunningMoments
    penalty: Tensor
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
        kl_penalty: str = "none",
        kl_weight: float = 1.0,
        kl_bound: float = 0.01,
        dual_rate: float = 10.0,
        compile: bool | None = None,
        channels: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check(
            self,
            positive=("epochs", "minibatch_size", "clip", "max_grad_norm", "kl_bound", "dual_rate"),
            shares=("gae_lambda",),
            optional=("value_clip", "target_kl"),
            weights=("value_weight", "entropy_weight", "kl_weight"),
        )
        if kl_penalty not in PENALTIES:
            raise UserError(f"model.kl_penalty must be one of {', '.join(PENALTIES)}, got {kl_penalty!r}")
        build(self, spaces)
        if kl_penalty != "none":
            self.register_buffer("penalty", torch.tensor(kl_weight))

    def configure_optimizers(self) -> Optimizer:
        hp = self.hparams
        names = ("value_weight", "entropy_weight", "value_clip", "normalize_advantages")
        self.loss = partial(ppo_loss, policy=self.model, **{name: hp[name] for name in names})
        compile = should_compile(self, pays=hp["total_env_steps"] * hp["epochs"] >= LONG)
        self.learner = Learner(
            self.model, hp["learning_rate"], epsilon=1e-5, max_norm=hp["max_grad_norm"], compile=compile
        )
        return self.learner.optimizer

    def learn(self, rollout: Rollout) -> list[Statistics]:
        """All epochs on a rollout: the statistics of each gradient step, and then of the rollout."""
        hp = self.hparams
        check_minibatches(self, rollout)
        left = anneal(self)
        clip = torch.tensor(hp["clip"] * (left if hp["anneal_clip"] else 1.0), device=self.device)
        observed = count(self, rollout)
        old = rows_of(self.model, rollout, self.return_moments.scale(), hp["gamma"], hp["gae_lambda"])
        fit = explained_variance(old.values, old.targets, old.weights)
        said = self._describe(old)
        statistics, stopped = self._epochs(rollout, old.pack(), self._bounds(clip))
        if said is not None:
            statistics += self._update_penalty(old, said)
        merge_observations(self, observed)
        return [*statistics, {"explained_variance": fit, "kl_stop": torch.tensor(float(stopped), device=self.device)}]

    def _bounds(self, clip: Tensor) -> tuple[Tensor, ...]:
        """What keeps the new policy near the old one in the loss: the clipping, or a penalty in its place."""
        return (clip,) if self.hparams["kl_penalty"] == "none" else (torch.full_like(clip, torch.inf), self.penalty)

    def _describe(self, rows: Rows) -> Tensor | None:
        """What identifies pi(. | s) in each row, with a penalty."""
        if self.hparams["kl_penalty"] == "none":
            return None
        observations = rows.observations.unflatten(1, self.model.observation_shape)
        said: Tensor = self.model.distribution.describe(*self.model.outputs(observations))
        return said

    def _update_penalty(self, rows: Rows, old: Tensor) -> list[Statistics]:
        """beta by the KL in closed form, which an update has moved the policy by."""
        hp, new = self.hparams, self._describe(rows)
        kl = mean_over_processes(weighted_mean(self.model.distribution.kl(old, new), rows.weights))
        self.penalty.copy_(next_penalty(self.penalty, kl, hp["kl_penalty"], hp["kl_bound"], hp["dual_rate"]))
        return [{"update_kl": kl, "kl_weight": self.penalty.clone()}]

    def _epochs(self, rollout: Rollout, matrix: Tensor, bounds: tuple[Tensor, ...]) -> tuple[list[Statistics], bool]:
        """All gradient steps on a rollout: the statistics of each, and whether the KL stopped them."""
        hp, done = self.hparams, []
        limit = None if hp["target_kl"] is None else 1.5 * hp["target_kl"]
        for epoch in range(hp["epochs"]):
            if epoch and hp["recompute_advantages"]:
                fresh = rows_of(self.model, rollout, self.return_moments.scale(), hp["gamma"], hp["gae_lambda"])
                matrix[:, -3:-1] = torch.stack([fresh.advantages, fresh.targets], 1)
            shuffled = matrix[torch.randperm(len(matrix), device=matrix.device)]
            for minibatch in shuffled.split(hp["minibatch_size"]):
                gradient, statistics = self.learner.gradient(self.loss, minibatch, *bounds)
                done.append(statistics)
                if limit is not None and statistics["kl"] > limit:
                    return done, True
                self.learner.apply(gradient)
        return done, False

    on_fit_start = start
    begin_episodes = begin_episodes
    training_step = learn_from_rollouts
    validation_step = log_validation
    test_step = log_test
    on_load_checkpoint = continue_finished_run
    configure_callbacks = record
