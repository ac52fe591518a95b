"""fit, validate, test, predict: LightningCLI with this project's rules around it.

Only our packages, Lightning and torch.optim may be named in a config; a run never overwrites another; Ctrl-C saves.
"""

import importlib.util
import inspect
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.model_helpers import is_overridden

import lightning_modules
from checkpoints.whole import written_whole
from commands.options import has_bfloat16
from commands.policies import import_environments
from commands.training.complaints import complaint
from commands.training.configs import name_configs
from commands.training.runs import (
    INTERRUPTED,
    LAST,
    check_weights,
    keep_rows,
    latest_checkpoint,
    read_checkpoint,
    resume_command,
)
from lightning_modules.trainer.callbacks import LearningCurves, Predictions, SaveOnInterrupt
from lightning_modules.trainer.checkpoint_io import WholeFileIO
from lightning_modules.trainer.progress import EnvStepBar, EnvStepCheckpoint
from zoo.errors import UserError

ALLOWED_IMPORTS = ["lightning_modules", "datamodules", "lightning", "torch.optim"]
SIZES = (  # what a model takes from its data
    *("image_shape", "num_features", "levels", "num_classes"),
    *("spaces", "total_env_steps"),
)
NEEDED = {  # what a verb calls of the model and of its data
    "fit": ("training_step", "train_dataloader"),
    "validate": ("validation_step", "val_dataloader"),
    "test": ("test_step", "test_dataloader"),
    "predict": ("predict_step", "predict_dataloader"),
}
# options of the Trainer that it would meet with a division by zero, or by doing nothing
POSITIVE = (
    "max_epochs",
    "max_steps",
    "check_val_every_n_epoch",
    "val_check_interval",
    "log_every_n_steps",
    "accumulate_grad_batches",
)


def run(verb: str, arguments: list[str]) -> int:
    """Runs one Trainer verb; returns the exit status."""
    jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=ALLOWED_IMPORTS)
    _quieten()
    arguments = name_configs(arguments)
    sys.argv = [sys.argv[0], verb, *arguments]  # DDP starts its other processes from here
    strict: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
    try:
        cli = CommandLine(
            subclass_mode_model=True,
            subclass_mode_data=True,
            datamodule_class=L.LightningDataModule,
            save_config_callback=ConfigOfRun,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={"enable_model_summary": False},
            parser_kwargs=strict | dict.fromkeys(LightningCLI.subcommands(), strict),
        )
    except (jsonargparse.ArgumentError, MisconfigurationException) as error:
        raise UserError(complaint(str(error))) from None
    return 130 if cli.trainer.interrupted else 0


class CommandLine(LightningCLI):
    """LightningCLI with sizes taken from the data, one folder a run, and callbacks that every run has."""

    _wrong_size = ""  # what is to be said of a size that the model and its data do not share

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--wandb", type=bool, default=False, help="Also log to Weights & Biases.")
        parser.add_argument(
            "--save_every_n_epochs", type=int, default=1, help="Epochs between two writings of last.ckpt."
        )
        parser.add_argument(
            "--save_every_n_env_steps",
            type=int,
            default=100_000,
            help="The same for runs counted in environment steps.",
        )
        parser.add_argument(
            "--env_module",
            "--env-module",
            type=str | None,
            default=None,
            help="A module of yours to import, which registers environments.",
        )
        for name in SIZES:
            parser.link_arguments(
                "data",
                f"model.init_args.{name}",
                compute_fn=lambda data, name=name: self._size_of(data, name),
                apply_on="instantiate",
            )

    def _size_of(self, data: L.LightningDataModule, name: str) -> Any:
        """A size of the data; if it has no such size, what the command line or the model's default says."""
        config = self._get_option("model")
        said = config.init_args.get(name)
        size = getattr(data, name, said)
        model = config.class_path.rsplit(".", 1)[-1]
        parameter = inspect.signature(getattr(lightning_modules, model, object)).parameters.get(name)
        if parameter is None:
            return size
        # what is wrong is told after this: jsonargparse makes something else of an error in here
        if size is None and parameter.default is inspect.Parameter.empty:
            self._wrong_size = (
                f"{model} needs {name}, which {type(data).__name__} has not: name another model or other data"
            )
        elif said not in (None, size, parameter.default):
            self._wrong_size = (
                f"model.{name} {said} is not that of {type(data).__name__}, {size}: leave it out, "
                "and the model takes it from its data"
            )
        return size

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        seed = self._get_option("seed_everything")
        if not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise UserError(f"seed_everything must be a whole number between 0 and {2**32 - 1}, got {seed}")

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint's hyperparameters override the command line: here the config counts."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.config.subcommand]
        import_environments(config.env_module)
        if config.trainer.default_root_dir is None:
            config.trainer.default_root_dir = f"runs/{config.model.class_path.rsplit('.', 1)[-1].lower()}"
        for name in POSITIVE:
            value = config.trainer[name]
            endless = name in ("max_epochs", "max_steps") and value == -1
            if isinstance(value, int | float) and value <= 0 and not endless:
                raise UserError(f"trainer.{name} must be positive, got {value}")
        if config.save_every_n_epochs < 1:
            raise UserError(f"save_every_n_epochs must be at least 1, got {config.save_every_n_epochs}")
        root = Path(config.trainer.default_root_dir)
        if config.ckpt_path == "last":
            config.ckpt_path = str(root / LAST)
        self._resumed = read_checkpoint(Path(config.ckpt_path)) if config.ckpt_path else None
        saved = latest_checkpoint(root)
        if self.config.subcommand == "fit" and saved and not config.ckpt_path and not _is_worker():
            raise UserError(
                f"{root} already holds a run: resume it with --ckpt_path {saved}, "
                "or choose another folder with --trainer.default_root_dir"
            )

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except UserError:
            raise
        except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
            raise UserError(self._wrong_size or complaint(str(error))) from None
        if self._wrong_size:
            raise UserError(self._wrong_size)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self._get(self.config_init, "trainer")
        root = Path(config["default_root_dir"])
        fitting = self.subcommand == "fit"
        if config["logger"] in (None, True):
            kwargs["logger"] = self._loggers(root) if fitting else False
        fast = fitting and getattr(self.model, "trains_in_bfloat16", False) and has_bfloat16(config["accelerator"])
        if fast and config["precision"] is None:
            kwargs["precision"] = self.config[self.subcommand].trainer.precision = "bf16-mixed"
        plugins = config["plugins"] or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, WholeFileIO()]
        plays = hasattr(self.model, "env_steps")  # is counted in environment steps
        if plays and isinstance(config["val_check_interval"], int):
            # counted over the run, so that one shorter than the interval is no mistake: it is judged at its end
            kwargs["check_val_every_n_epoch"] = self.config[self.subcommand].trainer.check_val_every_n_epoch = None
        bar = EnvStepBar() if plays else RichProgressBar(refresh_rate=10)
        self.trainer_defaults["callbacks"] = [] if config["enable_progress_bar"] is False else [bar]
        if fitting and not config["fast_dev_run"]:
            every = self._get_option("save_every_n_epochs")
            self.trainer_defaults["callbacks"] += [
                LearningCurves(),
                EnvStepCheckpoint(root / LAST, self._get_option("save_every_n_env_steps"))
                if plays
                else ModelCheckpoint(
                    root, filename=LAST.removesuffix(".ckpt"), every_n_epochs=every, enable_version_counter=False
                ),
                SaveOnInterrupt(root / INTERRUPTED),
            ]
        if self.subcommand == "predict":
            self.trainer_defaults["callbacks"].append(Predictions())
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self) -> None:
        for name in SIZES:
            of_model, of_data = getattr(self.model, name, None), getattr(self.datamodule, name, None)
            if of_model is not None and of_data is not None and of_model != of_data:
                raise UserError(f"the model's {name} {of_model} is not that of the data, {of_data}")
        for part, needed in zip((self.model, self.datamodule), NEEDED[str(self.subcommand)], strict=True):
            if not is_overridden(needed, part):
                raise UserError(
                    f"{type(part).__name__} has no {needed}, which {self.subcommand!r} needs: name another class"
                )
        if self._resumed is not None:
            check_weights(self.model, self._resumed["state_dict"], Path(self._get_option("ckpt_path")))
            self._resumed = None

    def fit(self, model: L.LightningModule, **kwargs: Any) -> None:
        """Trains, and says at the end where the run is or how to go on with it."""
        if self.trainer.is_global_zero:
            size = sum(parameter.numel() for parameter in model.parameters())
            data = type(self.datamodule).__name__
            print(
                f"{type(model).__name__} with {size:,} parameters on {data}, precision {self.trainer.precision}, "
                f"in {self.trainer.default_root_dir}",
                file=sys.stderr,
            )
        root = Path(self.trainer.default_root_dir)
        try:
            self.trainer.fit(model, **kwargs)
        except SystemExit:  # Lightning's last word after Ctrl-C
            if not self.trainer.interrupted:
                raise
        except OSError as error:
            raise UserError(f"the run in {root} cannot go on: {error}") from None
        if not self.trainer.is_global_zero:
            return
        if self.trainer.interrupted:
            saved = latest_checkpoint(root)
            print(
                f"interrupted; to go on: {resume_command(saved)}" if saved else "interrupted; nothing saved yet",
                file=sys.stderr,
            )
        else:
            (root / INTERRUPTED).unlink(missing_ok=True)
            print(f"finished; the run is in {root}", file=sys.stderr)

    def _get_option(self, name: str) -> Any:
        return self.config[self.config.subcommand].get(name)

    def _loggers(self, root: Path) -> list[Any]:
        # a step here may be thousands of environment steps: Lightning would write at multiples of 100 only
        every = 1 if hasattr(self.model, "env_steps") else 100
        csv_logger = CSVLogger(root, name="", version="", flush_logs_every_n_steps=every)
        if self._resumed is not None and not _is_worker():
            done = self._resumed.get("env_steps", self._resumed["global_step"] - 1) + 1
            keep_rows(csv_logger, root / "metrics.csv", done)
        loggers: list[Any] = [csv_logger, TensorBoardLogger(root, name="", version="")]
        if self._get_option("wandb"):
            if importlib.util.find_spec("wandb") is None:
                raise UserError("--wandb true needs Weights & Biases: pip install wandb")
            from lightning.pytorch.loggers import WandbLogger

            loggers.append(WandbLogger(save_dir=root, name=root.name, project="lightning-zoo"))
        return loggers


class ConfigOfRun(SaveConfigCallback):
    """Writes the whole resolved config of a `fit` into its run folder; other verbs leave no trace there."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.config.ckpt_path = None  # how a run went on is no part of its config
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / self.config_filename) as beside:
            beside.write_text(self.parser.dump(self.config, skip_none=False), encoding="utf-8")


def _is_worker() -> bool:
    """Whether this is a process that DDP started beside the first one."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def _quieten() -> None:
    """Hides messages that say nothing to a user: advertisements of services, hints about data loader workers."""
    said = ("litlogger", "litmodels", "to estimate number of stepping batches", "TPU available")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not any(words in record.getMessage() for words in said)
    )
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # the run folder: config.yaml is there
    warnings.filterwarnings("ignore", message=".*dirpath has changed.*")  # a run folder may be moved
    warnings.filterwarnings("ignore", message=".*infer the batch indices.*")  # a loader of ours has no sampler
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")  # modules log by themselves
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # of a missing GPU, when compiling
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*all_gather is deprecated.*")
    warnings.filterwarnings("ignore", message=".*jsonargparse.*")
