"""The record in every checkpoint: how to rebuild the model, what trained it on which data, and random states."""

import json
import os
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from checkpoints.origin import commit, versions
from checkpoints.table import MODELS
from checkpoints.tasks import TASKS, task_of
from lightning_modules.trainer.construct import plain
from lightning_modules.trainer.finite import StopUnlessFinite
from lightning_modules.trainer.optimizers import apply_settings, settings


def steps_done(trainer: L.Trainer, pl_module: L.LightningModule) -> int:
    """Environment steps where a module counts these, else optimizer steps."""
    return int(getattr(pl_module, "env_steps", trainer.global_step))


class RunRecord(Callback):
    """Writes into each checkpoint what an exported model and a resumed run need.

    model, arguments: a key of `checkpoints.table.MODELS` and the arguments of its class, as `construct` set them.
    algorithm, paper, data, protocol, origin: see `checkpoints.catalogue.Description`.
    random_states: of each process. Each starts from its own (Lightning seeds all alike, so that every rank would draw
        the same noise), and a resumed run restores them.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Tensor] | None = None
        self._made_by: dict[str, Any] = {}
        self._resumed = False
        self._rate: float | None = None
        self._optimizers: list[list[dict[str, Any]]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        seed = os.environ.get("PL_GLOBAL_SEED")
        self._rate = pl_module.hparams.get("learning_rate")
        self._made_by = {"seed": None if seed is None else int(seed), "commit": commit(), "versions": versions()}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if pl_module.hparams.get("learning_rate") != self._rate:  # a tuner has found another
            trainer.strategy.setup_optimizers(trainer)
        self._optimizers = settings(trainer.optimizers)  # before Lightning restores a checkpoint

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        changed = apply_settings(trainer, self._optimizers) if self._resumed else None
        if changed and not hasattr(pl_module, "env_steps"):  # such a module sets its learning rate in each step
            rank_zero_info(
                f"the learning rate continues at {changed[1]:.4g}; the checkpoint had {changed[0]:.4g}: "
                "the config's learning rate, warm-up or length of run has changed"
            )
        self._resumed = False
        rank = trainer.global_rank
        if self._restored is not None and len(self._restored["cpu"]) == trainer.world_size:
            # PyTorch crashes on a state that is a row of a matrix: each is copied out
            torch.set_rng_state(self._restored["cpu"][rank].clone())
            if "cuda" in self._restored and pl_module.device.type == "cuda":
                torch.cuda.set_rng_state(self._restored["cuda"][rank].clone(), pl_module.device)
        elif rank:
            torch.manual_seed(torch.initial_seed() + rank)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        module: Any = pl_module
        data = getattr(trainer, "datamodule", None)
        checkpoint["model"], checkpoint["arguments"] = module.model_name, module.arguments
        checkpoint["algorithm"] = type(module).__name__
        checkpoint["paper"] = getattr(module, "paper", "")
        checkpoint["data"] = {} if data is None else describe_data(data)
        checkpoint["protocol"] = _protocol(module, data)
        checkpoint["origin"] = self._made_by | {"steps": steps_done(trainer, pl_module)}
        if hasattr(module, "env_steps"):
            checkpoint["env_steps"] = int(module.env_steps)
        states = {"cpu": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(pl_module.device)
        checkpoint["random_states"] = {
            name: trainer.strategy.all_gather(state.to(pl_module.device)).cpu().view(-1, len(state))
            for name, state in states.items()
        }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._restored = checkpoint.get("random_states")
        # a tuner also restores a checkpoint of its own, but after the optimizers are made
        self._resumed = trainer.state.fn == "fit" and not trainer.optimizers


def record(module: L.LightningModule) -> list[Callback]:
    """`configure_callbacks` of every module, so that a checkpoint of a plain `L.Trainer` can be exported too."""
    return [RunRecord(), StopUnlessFinite()]


def _protocol(module: Any, data: L.LightningDataModule | None) -> str:
    """How the model is measured: the protocol of the data, else of the algorithm, else of the task."""
    if module.model_name not in MODELS:  # a model that cannot be exported
        return ""
    allowed = TASKS[task_of(module.model_name, module.arguments)].protocols
    named = [getattr(owner, "protocol", "") for owner in (data, module)]
    return next((name for name in named if name in allowed), allowed[0])


def describe_data(data: L.LightningDataModule) -> dict[str, Any]:
    """{"class", "arguments"} of a DataModule, and where it has them the "levels" of grey, "label_names", "columns"."""
    # a name with an underscore is the command line's own
    arguments = {key: plain(value) for key, value in data.hparams.items() if key[0] != "_" and _is_plain(value)}
    described: dict[str, Any] = {"class": type(data).__name__, "arguments": arguments}
    for name in ("levels", "label_names", "columns"):
        if getattr(data, name, None):
            described[name] = plain(getattr(data, name))
    return described


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
