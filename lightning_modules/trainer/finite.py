"""Stops a run whose loss or weights are no longer finite."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from zoo.errors import UserError


class StopUnlessFinite(Callback):
    """Stops when a loss or a weight is NaN or infinite, before such a checkpoint replaces a good one.

    It checks losses that a logger has just read, so that no step waits for a GPU, and weights as they are saved. With a
    loss scaler, a loss may be infinite for one step, whose update is then skipped: there only the weights count. The
    same holds for an infinite validation loss, for which one impossible row is enough.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        # a module that counts environment steps logs numbers on the host, once in each of its long steps
        counts = hasattr(pl_module, "env_steps")
        if not counts and trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        metrics = trainer.callback_metrics if counts else trainer.logged_metrics
        fresh = {name: value for name, value in metrics.items() if value is not self._seen.get(name)}
        if fresh:
            self._seen |= fresh
            self._look(trainer, pl_module, {name: value for name, value in fresh.items() if "loss" in name})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            metrics = trainer.callback_metrics
            self._look(trainer, pl_module, {name: value for name, value in metrics.items() if name.startswith("val/")})

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        weights = {name: state[name] for name, _ in pl_module.named_parameters() if name in state}
        if wrong := _not_finite(weights):
            raise UserError(_message(trainer, pl_module, f"weight {wrong} is not finite"))

    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule, metrics: Mapping[str, Any]) -> None:
        for name, metric in metrics.items():
            value = float(metric)
            if value - value == 0:  # neither NaN nor infinite
                continue
            forgiven = trainer.precision == "16-mixed" or (name.startswith("val/") and value == value)
            if not forgiven or _not_finite(dict(pl_module.named_parameters())):
                raise UserError(_message(trainer, pl_module, f"{name} is {value}"))


def _not_finite(weights: Mapping[str, torch.Tensor]) -> str:
    """The name of a weight that is NaN or infinite, "" if none is."""
    if not weights:
        return ""
    finite = torch.stack([weight.detach().isfinite().all() for weight in weights.values()]).tolist()
    return next((name for name, good in zip(weights, finite, strict=True) if not good), "")


def _message(trainer: L.Trainer, pl_module: L.LightningModule, what: str) -> str:
    step = int(getattr(pl_module, "env_steps", trainer.global_step))
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    rate = f" with learning rate {rates[0]:.3g}" if rates else ""
    return f"the run diverged: {what} at step {step}{rate}; try a smaller learning rate, or look for extreme data"
