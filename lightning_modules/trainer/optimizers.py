"""AdamW with a schedule, and its settings when a run is resumed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from zoo.errors import UserError

SCHEDULES = ("constant", "cosine", "inverse_sqrt")


def check_options(options: Mapping[str, Any]) -> None:
    """Checks the options of `adamw` when a module is built, before the run writes anything.

    Raises:
        UserError: naming the invalid option.
    """
    if not options["learning_rate"] > 0:
        raise UserError(f"model.learning_rate must be positive, got {options['learning_rate']}")
    for name in ("weight_decay", "warmup_steps"):
        if not options[name] >= 0:
            raise UserError(f"model.{name} must be at least 0, got {options[name]}")
    schedule = options.get("learning_rate_schedule", "constant")
    if schedule not in SCHEDULES:
        raise UserError(f"model.learning_rate_schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")


def settings(optimizers: Sequence[torch.optim.Optimizer]) -> list[list[dict[str, Any]]]:
    """The settings of each parameter group of each optimizer: learning rate, weight decay, betas, ..."""
    return [
        [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        for optimizer in optimizers
    ]


def apply_settings(trainer: L.Trainer, made_with: list[list[dict[str, Any]]]) -> tuple[float, float] | None:
    """Sets optimizers and schedules that were restored from a checkpoint to the settings of this run's config.

    The state of an optimizer includes its settings, so that a resumed run would ignore a changed learning rate.

    Args:
        made_with: `settings` before the checkpoint was restored.

    Returns:
        The first learning rate (of the checkpoint, of this run) that differs, None if none does.
    """
    restored = settings(trainer.optimizers)
    for optimizer, groups in zip(trainer.optimizers, made_with, strict=True):
        for group, fresh in zip(optimizer.param_groups, groups, strict=True):
            group.update(fresh)
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        groups = scheduler.optimizer.param_groups
        if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            scheduler.base_lrs = [group["initial_lr"] for group in groups]
            for group, factor in zip(groups, scheduler.lr_lambdas, strict=True):
                group["lr"] = group["initial_lr"] * factor(scheduler.last_epoch)
            scheduler._last_lr = [group["lr"] for group in groups]
        else:  # only the schedule's own state says where it stands
            before = restored[trainer.optimizers.index(scheduler.optimizer)]
            for group, old in zip(groups, before, strict=True):
                group["lr"], group["initial_lr"] = old["lr"], old["initial_lr"]
    now = settings(trainer.optimizers)
    pairs = [
        (float(a["lr"]), float(b["lr"])) for x, y in zip(restored, now, strict=True) for a, b in zip(x, y, strict=True)
    ]
    return next((pair for pair in pairs if pair[0] != pair[1]), None)


def adamw(module: L.LightningModule) -> OptimizerLRSchedulerConfig:
    """Fused AdamW at learning_rate * min(1, i / warmup_steps) * decay(i) in step i = 1, 2, ... of N.

    decay is 1 for the schedule "constant", (1 + cos(pi (i - 1) / N)) / 2 for "cosine", and sqrt(w / max(i, w)) with
    w = warmup_steps for "inverse_sqrt" (Vaswani et al. 2017, arXiv:1706.03762, equation 3). The module's options are
    learning_rate, weight_decay, warmup_steps and, unless it is constant, learning_rate_schedule, all checked by
    `check_options`.
    """
    options = module.hparams
    schedule, warmup = options.get("learning_rate_schedule"), max(1, options["warmup_steps"])
    cosine = schedule == "cosine"
    fused = not module.trainer.gradient_clip_val  # Lightning clips no gradients of a fused optimizer in mixed precision
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=options["learning_rate"], weight_decay=options["weight_decay"], fused=fused
    )
    total = module.trainer.estimated_stepping_batches if cosine else 1
    if not math.isfinite(total):
        raise UserError(
            "model.learning_rate_schedule 'cosine' needs an end: set trainer.max_epochs or trainer.max_steps"
        )

    def factor(done: int) -> float:
        decay = (1 + math.cos(math.pi * min(1, done / total))) / 2 if cosine else 1.0
        if schedule == "inverse_sqrt":
            decay = math.sqrt(warmup / max(done + 1, warmup))
        return decay * min(1, (done + 1) / warmup)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
