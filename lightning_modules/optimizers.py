"""What the modules' `configure_optimizers` share."""

from typing import Any

import torch
from torch import nn


def adamw(module: nn.Module, learning_rate: float, weight_decay: float, warmup_steps: int) -> dict[str, Any]:
    """Fused AdamW whose learning rate rises linearly over the first `warmup_steps` steps and then stays."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    if warmup_steps < 1:
        return {"optimizer": optimizer}
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup_steps, total_iters=warmup_steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
