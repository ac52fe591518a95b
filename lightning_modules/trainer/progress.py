"""Runs whose progress is counted in environment steps: logging, checkpoints, and a progress bar."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from zoo.errors import UserError
from zoo.rl.types import Episodes


def start_clock(module: Any) -> None:
    """At the start of a fit: the first training step, which may compile, does not count for the speed."""
    module.clock = None


def count_env_steps(module: Any, steps: Tensor) -> None:
    """Counts the transitions of all processes, and stops the run at `total_env_steps`."""
    module.env_steps += steps.long()
    if module.env_steps >= module.hparams["total_env_steps"]:
        module.trainer.should_stop = True


def log_training(
    module: Any, statistics: dict[str, float], returns: Sequence[float] = (), lengths: Sequence[float] = ()
) -> None:
    """Logs a training step against environment steps: statistics, finished episodes, speed since the last step."""
    metrics = {f"train/{name}": value for name, value in statistics.items()}
    now, env_steps = time.perf_counter(), int(module.env_steps)
    if module.clock is not None:
        began, before = module.clock
        metrics["time/env_steps_per_s"] = (env_steps - before) / (now - began)
    module.clock = now, env_steps
    if len(returns):
        metrics |= {"rollout/return": sum(returns) / len(returns), "rollout/length": sum(lengths) / len(lengths)}
    for logger in module.trainer.loggers:
        logger.log_metrics(metrics, step=int(module.env_steps))
    module.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})


def log_validation(module: Any, batch: Episodes, batch_idx: int) -> None:
    """`validation_step`: logs the episodes that the policy played without exploration."""
    _log_episodes(module, batch, "val")


def log_test(module: Any, batch: Episodes, batch_idx: int) -> None:
    """`test_step`: logs the episodes of a test."""
    _log_episodes(module, batch, "test")


def _log_episodes(module: Any, batch: Episodes, split: str) -> None:
    numbers = {
        f"{split}/return": float(batch.returns.mean()),
        f"{split}/return_std": float(batch.returns.std(correction=0)),
        f"{split}/length": float(batch.lengths.double().mean()),
    }
    fitting = module.trainer.state.fn == "fit"
    # `validate` prints what the loggers get
    module.log_dict(numbers, logger=False if fitting else None, batch_size=1, sync_dist=True)
    for logger in module.trainer.loggers if fitting and not module.trainer.sanity_checking else ():
        logger.log_metrics(numbers, step=int(module.env_steps))


def continue_finished_run(module: Any, checkpoint: dict[str, Any]) -> None:
    """`on_load_checkpoint`: lets a finished run continue to a larger `total_env_steps`, with its replay buffer.

    For Lightning its only epoch is complete; here the epoch ends at `total_env_steps`.
    """
    done = int(checkpoint["state_dict"]["env_steps"])
    if "loops" not in checkpoint or done >= module.hparams["total_env_steps"]:
        return
    loop = checkpoint["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]
    if epochs["current"]["completed"]:
        for counted in epochs.values():
            counted["processed"] = counted["completed"] = counted["completed"] - 1
        loop["epoch_loop.batch_progress"]["is_last_batch"] = False


def save_run(trainer: L.Trainer, path: Path) -> None:
    """Saves a checkpoint, and next to it what the data keep in files of their own: a replay buffer."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    beside = hasattr(data, "save_beside")
    if beside:
        data.save_beside(path.parent)
    trainer.save_checkpoint(path, weights_only=False)
    if beside:
        data.saved_beside(path.parent)


class EnvStepCheckpoint(Callback):
    """Saves the run whenever the count of environment steps passes a multiple of `every`, and at the end.

    Lightning's own callback counts optimizer steps, which stay at zero with a raw optimizer: it would never save.

    Args:
        path: of the checkpoint, overwritten each time.
        every: environment steps.
    """

    def __init__(self, path: Path, every: int) -> None:
        if every < 1:
            raise UserError(f"save_every_n_env_steps must be at least 1, got {every}")
        self.path, self.every = path, every
        self._saved = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = int(pl_module.env_steps)  # type: ignore[arg-type]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        env_steps = int(pl_module.env_steps)  # type: ignore[arg-type]
        if env_steps // self.every > self._saved // self.every and not trainer.should_stop:
            self._save(trainer, env_steps)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer, int(pl_module.env_steps))  # type: ignore[arg-type]

    def _save(self, trainer: L.Trainer, env_steps: int) -> None:
        self._saved = env_steps
        save_run(trainer, self.path)


class EnvStepBar(ProgressBar):
    """One line: environment steps done and in total, steps a second, the mean return of the last finished episodes."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Progress | None = None
        self._return = float("nan")

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    _enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._enabled or not trainer.is_global_zero:
            return
        columns = (
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} env steps"),
            BarColumn(),
            TextColumn("{task.fields[speed]:,.0f}/s  return {task.fields[mean]:.1f}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        total = pl_module.hparams["total_env_steps"]
        self._task = self._bar.add_task("", total=total, speed=0.0, mean=self._return)
        self._bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self._bar is None:
            return
        metrics = trainer.callback_metrics
        self._return = float(metrics.get("rollout/return", self._return))
        self._bar.update(
            self._task,
            completed=int(pl_module.env_steps),  # type: ignore[arg-type]
            speed=float(metrics.get("time/env_steps_per_s", 0.0)),
            mean=self._return,
        )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
