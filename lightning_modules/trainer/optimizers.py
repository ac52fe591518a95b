"""What the modules' `configure_optimizers` share."""

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from zoo.errors import UserError

SCHEDULES = ("constant", "cosine")


def check_options(options: Mapping[str, Any]) -> None:
    """Looks at a module's options of `adamw` when it is built, before a run has written anything.

    Raises:
        UserError: naming the option that cannot be meant.
    """
    if not options["learning_rate"] > 0:
        raise UserError(f"model.learning_rate must be positive, got {options['learning_rate']}")
    for name in ("weight_decay", "warmup_steps"):
        if not options[name] >= 0:
            raise UserError(f"model.{name} must be at least 0, got {options[name]}")
    schedule = options.get("learning_rate_schedule", "constant")
    if schedule not in SCHEDULES:
        raise UserError(f"model.learning_rate_schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")


def adamw(module: L.LightningModule) -> OptimizerLRSchedulerConfig:
    """Fused AdamW at learning_rate * min(1, i / warmup_steps) * decay(i) in step i = 1, 2, ... of N.

    decay is 1 for the schedule "constant" and (1 + cos(pi (i - 1) / N)) / 2 for "cosine". The module's own options say
    learning_rate, weight_decay, warmup_steps and, unless it is constant, learning_rate_schedule; `check_options` has
    looked at them.
    """
    options = module.hparams
    cosine = options.get("learning_rate_schedule") == "cosine"
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
        return decay * min(1, (done + 1) / max(1, options["warmup_steps"]))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
