"""What this project adds to a Trainer: loggers, callbacks, precision, whole checkpoints."""

import importlib.util
import math
import os
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from checkpoints.whole import written_whole
from commands.training.runs import BEST, INTERRUPTED, LAST, keep_rows
from datamodules import Points
from lightning_modules.trainer.callbacks import EpochCheckpoint, LearningCurves, Predictions, SaveOnInterrupt
from lightning_modules.trainer.progress import EnvStepBar, EnvStepCheckpoint
from zoo.errors import UserError


def callbacks(
    verb: str, module: L.LightningModule, data: L.LightningDataModule, root: Path, options: Namespace
) -> list[Callback]:
    """The callbacks that every run has in addition to those of its config.

    Args:
        verb: fit, validate, test or predict. root: the run folder. options: those of the verb.
    """
    plays = hasattr(module, "env_steps")  # progress is counted in environment steps
    added: list[Callback] = []
    if options.trainer.enable_progress_bar is not False:
        added.append(EnvStepBar() if plays else EpochBar(refresh_rate=10))
    if verb == "predict":
        added.append(Predictions())
    if verb != "fit" or options.trainer.fast_dev_run:
        return added
    added += [LearningCurves(), SayCompiling()]
    if isinstance(data, Points) and options.early_stopping and options.trainer.limit_val_batches != 0:
        added += early_stopping(data, root, options.trainer.check_val_every_n_epoch or 1)
    if plays:
        added.append(EnvStepCheckpoint(root / LAST, options.save_every_n_env_steps))
    else:
        interval, whole_epochs = options.trainer.val_check_interval, options.trainer.check_val_every_n_epoch is not None
        added.append(
            EpochCheckpoint(root / LAST, options.save_every_n_epochs, whole_epochs and interval in (None, 1.0))
        )
    added.append(SaveOnInterrupt(root / INTERRUPTED))
    return added


def early_stopping(data: Points, root: Path, epochs_a_validation: int) -> list[Callback]:
    """Keeps the best checkpoint of a density of a user's own table, and stops when it no longer improves.

    A table is often small enough to be memorised, and the validation loss, a likelihood, shows when that begins.
    Patience is 10 validations and at least 1,000 steps.
    """
    epoch = data.batches_per_epoch or max(1, len(data.points("train")) // data.batch_size)
    patience = max(10, math.ceil(1000 / (epoch * epochs_a_validation)))
    stem = BEST.removesuffix(".ckpt")
    return [
        ModelCheckpoint(root, filename=stem, monitor="val/loss", enable_version_counter=False),
        EarlyStopping("val/loss", patience=patience, check_on_train_epoch_end=False),
    ]


def loggers(module: L.LightningModule, root: Path, wandb: bool, resumed: dict[str, Any] | None) -> list[Logger]:
    """CSV and TensorBoard logs in the run folder, and Weights & Biases if asked for.

    Args:
        resumed: the checkpoint that the run resumes from; the log keeps its rows up to there.
    """
    # a step here may be thousands of environment steps: Lightning would write at multiples of 100 only
    every = 1 if hasattr(module, "env_steps") else 100
    csv_logger = CSVLogger(root, name="", version="", flush_logs_every_n_steps=every)
    if resumed is not None and not is_worker():
        done = resumed.get("env_steps", resumed["global_step"] - 1) + 1
        keep_rows(csv_logger, root / "metrics.csv", done)
    made: list[Logger] = [csv_logger, TensorBoardLogger(root, name="", version="")]
    if wandb:
        if importlib.util.find_spec("wandb") is None:
            raise UserError("--wandb true needs Weights & Biases: pip install wandb")
        from lightning.pytorch.loggers import WandbLogger

        made.append(WandbLogger(save_dir=root, name=root.name, project="lightning-zoo"))
    return made


def check_precision(module: L.LightningModule, precision: str | int | None) -> None:
    """Refuses a precision in which a method does not learn.

    Weights in 16 bits lose the small changes of an optimizer. Denoisers and classifiers tolerate bfloat16, as their
    modules say with `trains_in_bfloat16`; likelihoods and policies do not. Gradients in float16 underflow in all.

    Raises:
        UserError: naming a precision that works.
    """
    tolerated = precision == "bf16-true" and getattr(module, "trains_in_bfloat16", False)
    if str(precision) in ("16-true", "bf16-true") and not tolerated:
        raise UserError(
            f"trainer.precision {precision} keeps the weights themselves in 16 bits, too few to train "
            f"{type(module).__name__}: use 32-true or bf16-mixed"
        )


def is_worker() -> bool:
    """Whether DDP started this process in addition to the first."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


class SayCompiling(Callback):
    """Prints that compiling takes long, and the option that avoids it."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if any(part._compiled_call_impl is not None for part in pl_module.modules()):
            rank_zero_info(
                "compiling the network: a minute or more, several for large images; --model.compile false avoids it"
            )


class EpochBar(RichProgressBar):
    """Lightning's progress bar; an endless run shows no last epoch."""

    def _get_train_description(self, current_epoch: int) -> str:
        endless = (self.trainer.max_epochs or -1) < 0
        return f"Epoch {current_epoch}" if endless else super()._get_train_description(current_epoch)


class ConfigOfRun(SaveConfigCallback):
    """Writes the whole resolved config of a `fit` into its run folder; other verbs leave no trace there."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.config.ckpt_path = None  # the checkpoint that a run resumed from is no part of its config
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes it again if a tuner has found another learning rate or batch size."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        tuned = (self.config.model, pl_module.hparams, "learning_rate"), (self.config.data, data.hparams, "batch_size")
        changed = False
        for written, now, name in tuned:
            if name in now and written.init_args.get(name, now[name]) != now[name]:
                written.init_args[name] = now[name]
                changed = True
        if changed and trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / self.config_filename) as beside:
            beside.write_text(self.parser.dump(self.config, skip_none=False), encoding="utf-8")
