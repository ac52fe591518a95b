"""Proximal policy optimisation."""

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_modules.trainer.compilation import compiled
from lightning_modules.trainer.progress import log_episodes, log_metrics
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.rl.flat import FlatAdam, FlatParameters
from zoo.rl.moments import RunningMoments
from zoo.rl.on_policy.losses import explained_variance
from zoo.rl.on_policy.ppo import ppo_loss, rows_of
from zoo.rl.on_policy.returns import linear_recurrence
from zoo.rl.policies import ActorCritic
from zoo.rl.types import Episodes, Rollout

NAME = "actor-critic"  # in the table of models
PARTS = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")
LONG = 500_000  # gradient steps times 32 rows from which compiling pays: about 15 s of compiling against the gain


class PPO(L.LightningModule):
    """Maximises E[min(r A, clip(r, 1 - c, 1 + c) A)], r = pi(a | s) / pi_old(a | s), with A by GAE.

    One training step is one rollout with all its epochs of minibatches; environment steps are the x axis of every log.

    Args:
        observation_shape, num_actions, action_low, action_high: filled in from the data.
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
        observation_shape: tuple[int, ...],
        num_actions: tuple[int, ...] = (),
        action_low: tuple[float, ...] = (),
        action_high: tuple[float, ...] = (),
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
        self.model_name = NAME
        self.automatic_optimization = False
        _check(self.hparams)
        self.arguments: dict[str, Any] = {
            "observation_shape": list(observation_shape),
            "num_actions": list(num_actions),
            "action_low": list(action_low),
            "action_high": list(action_high),
            "hidden": list(hidden),
            "activation": activation,
            "shared": shared,
            "log_std": log_std,
            "exploration": exploration,
            "hold": hold,
            "normalize": normalize,
        }
        self.model = ActorCritic(**self.arguments)
        self.return_moments = RunningMoments()  # of discounted returns; no part of the policy
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))
        self._gradient: Any = None
        self._running_returns: Tensor | None = None  # discounted, of the episodes that go on

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.flat = FlatParameters(self.model)  # the model is on its device by now
        return FlatAdam(self.flat.vector, self.hparams["learning_rate"])

    def on_fit_start(self) -> None:
        hp = self.hparams
        if self.trainer.precision == "16-mixed":
            raise UserError("trainer.precision 16-mixed rounds log-probabilities too far: use 32-true or bf16-mixed")
        names = ("value_weight", "entropy_weight", "value_clip", "normalize_advantages")
        options: dict[str, Any] = {name: hp[name] for name in names}
        flat, policy = self.flat, self.model

        def gradient(matrix: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
            return flat.gradient(lambda parameters: ppo_loss(parameters, policy, matrix, clip, **options))

        self._gradient = compiled(self, gradient, pays=hp["total_env_steps"] * hp["epochs"] >= LONG)
        self._began = (time.perf_counter(), int(self.env_steps))
        self.begin_episodes()

    def begin_episodes(self) -> None:
        """Forgets the discounted returns of episodes that go on: the environments were reset."""
        self._running_returns = None

    @torch.no_grad()
    def training_step(self, batch: Rollout, batch_idx: int) -> None:
        hp, done = self.hparams, float(self.env_steps) / self.hparams["total_env_steps"]
        left = max(0.0, 1.0 - done)
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        for group in optimizer.param_groups:
            group["lr"] = hp["learning_rate"] * (left if hp["anneal"] else 1.0)
        clip = torch.tensor(hp["clip"] * (left if hp["anneal_clip"] else 1.0), device=self.device)
        counts = self._count(batch)
        if (count := batch.rewards.numel()) % hp["minibatch_size"]:
            raise UserError(
                f"the {count} rows (data.num_envs x data.rollout_steps) of a rollout must be a multiple of "
                f"model.minibatch_size {hp['minibatch_size']}"
            )
        rows = rows_of(self.model, batch, self.return_moments.scale(), hp["gamma"], hp["gae_lambda"])
        fit = explained_variance(rows.values, rows.targets, rows.weights)
        metrics, stopped = self._epochs(batch, rows.pack(), clip, optimizer)
        if self.model.normalizer is not None:  # after the updates, which saw what the actions were chosen by
            self.model.normalizer.merge(counts[1:].view(3, -1))
        self._log(batch, torch.stack(metrics).mean(0), fit, stopped, optimizer)
        if self.env_steps >= hp["total_env_steps"]:
            self.trainer.should_stop = True

    def _epochs(self, batch: Rollout, matrix: Tensor, clip: Tensor, optimizer: FlatAdam) -> tuple[list[Tensor], bool]:
        """All gradient steps on a rollout: the means of each, and whether the KL stopped them."""
        hp, metrics = self.hparams, []
        limit = None if hp["target_kl"] is None else 1.5 * hp["target_kl"]
        for epoch in range(hp["epochs"]):
            if epoch and hp["recompute_advantages"]:
                fresh = rows_of(self.model, batch, self.return_moments.scale(), hp["gamma"], hp["gae_lambda"])
                matrix[:, -3:-1] = torch.stack([fresh.advantages, fresh.targets], 1)
            shuffled = matrix[torch.randperm(len(matrix), device=matrix.device)]
            for minibatch in shuffled.split(hp["minibatch_size"]):
                gradient, means = self._gradient(minibatch, clip)
                metrics.append(means)
                if self.trainer.world_size > 1:  # one message for the gradient and what decides whether to stop
                    averaged = self._sum(torch.cat([gradient, means])) / self.trainer.world_size
                    gradient, means = averaged[: len(gradient)], averaged[len(gradient) :]
                if limit is not None and means[3] > limit:
                    return metrics, True
                optimizer.update(gradient, hp["max_grad_norm"])
        return metrics, False

    def _count(self, batch: Rollout) -> Tensor:
        """Adds up, over processes, the transitions and moments of a rollout: (1 + 3 D,), the count first."""
        valid = batch.valid
        parts = [valid.sum()[None].double()]
        if self.model.normalizer is not None:
            parts.append(RunningMoments.sums(batch.observations[:-1].flatten(2)[valid]).flatten())
            returns = self._discounted(batch)[valid]
            parts.append(RunningMoments.sums(returns).flatten())
        counts = self._sum(torch.cat(parts))
        self.env_steps += counts[0].long()
        if self.model.normalizer is not None:
            self.return_moments.merge(counts[-3:].view(3))
            counts = counts[:-3]
        return counts

    def _discounted(self, batch: Rollout) -> Tensor:
        """(T, N), R_t = r_t + gamma R_{t-1} within an episode: what the running moments of returns are of."""
        if self._running_returns is None:  # environments begin anew, in a resumed run too
            self._running_returns = torch.zeros_like(batch.rewards[0])
        goes_on = ~(batch.terminated | batch.truncated)
        decay = self.hparams["gamma"] * torch.cat([torch.ones_like(goes_on[:1]), goes_on[:-1]]).float()
        first = torch.cat([(batch.rewards[0] + decay[0] * self._running_returns)[None], batch.rewards[1:]])
        returns = linear_recurrence(first.flip(0), decay.flip(0)).flip(0)
        self._running_returns = returns[-1] * goes_on[-1]
        return returns

    def _sum(self, x: Tensor) -> Tensor:
        """The sum over processes."""
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(x)
        return x

    def _log(self, batch: Rollout, means: Tensor, fit: Tensor, stopped: bool, optimizer: Any) -> None:
        metrics = {f"train/{name}": value for name, value in zip(PARTS, means.tolist(), strict=True)}
        began, before = self._began
        env_steps = int(self.env_steps)
        metrics |= {
            "train/explained_variance": float(fit),
            "train/learning_rate": optimizer.param_groups[0]["lr"],
            "train/kl_stop": float(stopped),
            "time/env_steps_per_s": (env_steps - before) / (time.perf_counter() - began),
        }
        if len(batch.episode_returns):
            metrics["rollout/return"] = float(batch.episode_returns.mean())
            metrics["rollout/length"] = float(batch.episode_lengths.float().mean())
        log_metrics(self, metrics)

    def validation_step(self, batch: Episodes, batch_idx: int) -> None:
        log_episodes(self, batch, "val")

    def test_step(self, batch: Episodes, batch_idx: int) -> None:
        log_episodes(self, batch, "test")

    configure_callbacks = record


def _check(hp: Any) -> None:
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
