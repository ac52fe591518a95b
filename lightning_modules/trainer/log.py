"""Logging from a training step."""

import lightning as L
from torch import Tensor


def log_rarely(module: L.LightningModule, name: str, value: Tensor) -> None:
    """Logs at every n-th step only, n the Trainer's `log_every_n_steps`: a call costs as much as a small update."""
    if (module.trainer.global_step + 1) % module.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
        module.log(name, value, prog_bar=True)
