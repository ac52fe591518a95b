"""fit, validate, test, predict: LightningCLI with this project's rules around it.

Only our packages, Lightning and torch.optim may be named in a config; a run never overwrites another; Ctrl-C saves.
"""

import re
import sys
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.model_helpers import is_overridden

from commands.options import has_bfloat16
from commands.policies import import_environments
from commands.training import parts
from commands.training.complaints import complaint
from commands.training.configs import arrange, config_names
from commands.training.help import summary
from commands.training.provided import check_agreement, provided, provided_names
from commands.training.quiet import quieten
from commands.training.runs import (
    BEST,
    INTERRUPTED,
    LAST,
    changed_options,
    check_model,
    latest_checkpoint,
    read_checkpoint,
    resume_command,
)
from lightning_modules.trainer.checkpoint_io import WholeFileIO
from lightning_modules.trainer.record import steps_done
from zoo.errors import UserError, one_line

ALLOWED_IMPORTS = ["lightning_modules", "datamodules", "lightning", "torch.optim"]
NEEDED = {  # the methods that a verb calls: of the model, of its data
    "fit": ("training_step", "train_dataloader"),
    "validate": ("validation_step", "val_dataloader"),
    "test": ("test_step", "test_dataloader"),
    "predict": ("predict_step", "predict_dataloader"),
}
# options of the Trainer whose zero or negative value divides by zero, or trains nothing
POSITIVE = (
    "limit_train_batches",
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
    quieten()
    arguments = arrange(arguments)
    if "--help" in arguments or "-h" in arguments:
        print(summary(verb))
    sys.argv = [sys.argv[0], verb, *arguments]  # DDP starts its other processes from here
    strict: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
    try:
        cli = CommandLine(
            subclass_mode_model=True,
            subclass_mode_data=True,
            datamodule_class=L.LightningDataModule,
            save_config_callback=parts.ConfigOfRun,
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
    """LightningCLI that fills in model options from the data, and gives each run a folder and callbacks."""

    _wrong_size = ""  # the message about an option on which model and data disagree

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
        parser.add_argument(
            "--early_stopping",
            type=bool,
            default=True,
            help="Whether a density of your own table (Points) keeps its best checkpoint and stops when the validation "
            "loss no longer improves.",
        )
        for name in provided_names():
            parser.link_arguments(
                "data",
                f"model.init_args.{name}",
                compute_fn=lambda data, name=name: self._take(data, name),
                apply_on="instantiate",
            )

    def _take(self, data: L.LightningDataModule, name: str) -> Any:
        """The value of a model's option that the data may provide."""
        model = self._get_option("model")
        explicit = any(re.match(rf"--model\.(init_args\.)?{name}(=|$)", word) for word in self._words)
        value, wrong = provided(data, name, model.class_path, model.init_args.get(name), explicit)
        self._wrong_size = wrong or self._wrong_size  # raised later: jsonargparse rewrites an error raised in here
        return value

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        verb, *words = sys.argv[1:] if args is None else args
        self._words = words
        if not any(word.startswith(("--config", "--model", "-h")) or word.endswith("help") for word in words):
            raise UserError(f"{verb} needs a config: --config with a file or one of {', '.join(config_names())}")
        try:
            super().parse_arguments(parser, args)
        except jsonargparse.ArgumentError as error:
            options = [*self._subcommand_parsers[verb]._option_string_actions]
            raise UserError(complaint(str(error), options)) from None
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
        if any(word in str(config.trainer.strategy) for word in ("spawn", "fork", "notebook")):
            raise UserError(f"trainer.strategy {config.trainer.strategy!r} cannot start this command line: use ddp")
        if config.save_every_n_epochs < 1:
            raise UserError(f"save_every_n_epochs must be at least 1, got {config.save_every_n_epochs}")
        root = Path(config.trainer.default_root_dir)
        if file := next((path for path in (root, *root.parents) if path.exists() and not path.is_dir()), None):
            raise UserError(f"trainer.default_root_dir {str(root)!r}: {str(file)!r} is a file, a folder is needed")
        if config.ckpt_path == "last":
            config.ckpt_path = str(root / LAST)
        self._resumed = read_checkpoint(Path(config.ckpt_path)) if config.ckpt_path else None
        saved = latest_checkpoint(root)
        if self.config.subcommand == "fit" and saved and not config.ckpt_path and not parts.is_worker():
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
        config, options = self._get(self.config_init, "trainer"), self.config[self.subcommand]
        root, fitting = Path(config["default_root_dir"]), self.subcommand == "fit"
        if fitting:
            parts.check_precision(self.model, config["precision"])
        if config["logger"] in (None, True):
            kwargs["logger"] = parts.loggers(self.model, root, options.wandb, self._resumed) if fitting else False
        fast = fitting and getattr(self.model, "trains_in_bfloat16", False) and has_bfloat16(config["accelerator"])
        if fast and config["precision"] is None:
            kwargs["precision"] = options.trainer.precision = "bf16-mixed"
        plugins = config["plugins"] or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, WholeFileIO()]
        if hasattr(self.model, "env_steps") and isinstance(config["val_check_interval"], int):
            # counted over the whole run: a run shorter than the interval is validated at its end
            kwargs["check_val_every_n_epoch"] = options.trainer.check_val_every_n_epoch = None
        self.trainer_defaults["callbacks"] = parts.callbacks(
            str(self.subcommand), self.model, self.datamodule, root, options
        )
        try:
            return super().instantiate_trainer(**kwargs)
        except ModuleNotFoundError as error:  # of an accelerator, a strategy or a logger
            raise UserError(f"the Trainer lacks a package: {one_line(str(error))}") from None

    def after_instantiate_classes(self) -> None:
        check_agreement(self.model, self.datamodule)
        for part, needed in zip((self.model, self.datamodule), NEEDED[str(self.subcommand)], strict=True):
            if not is_overridden(needed, part):
                raise UserError(
                    f"{type(part).__name__} has no {needed}, which {self.subcommand!r} needs: name another class"
                )
        if self._resumed is not None:
            check_model(self.model, self._resumed, Path(self._get_option("ckpt_path")))
        elif self.subcommand != "fit" and _is_untrained(self.model):
            raise UserError(f"{self.subcommand} needs --ckpt_path: without a checkpoint the weights are untrained")

    def fit(self, model: L.LightningModule, **kwargs: Any) -> None:
        """Trains, and prints at the end where the run is or how to resume it."""
        root = Path(self.trainer.default_root_dir)
        writes = not self.config[self.subcommand].trainer.fast_dev_run
        resumed, self._resumed = self._resumed or {}, None
        before = int(resumed.get("env_steps", resumed.get("global_step", 0)))
        changed = changed_options(resumed, model.hparams, self.datamodule.hparams)
        del resumed  # its weights are no longer needed
        if self.trainer.is_global_zero:
            size = sum(parameter.numel() for parameter in model.parameters())
            begin = f"{type(model).__name__} with {size:,} parameters on {type(self.datamodule).__name__}"
            where = f"in {root}" if writes else "for a trial that writes nothing"
            print(f"{begin}, precision {self.trainer.precision}, {where}", file=sys.stderr)
        if changed and self.trainer.is_global_zero:
            print(f"resuming with {', '.join(changed)}", file=sys.stderr)
        try:
            self.trainer.fit(model, **kwargs)
        except SystemExit:  # Lightning's last word after Ctrl-C
            if not self.trainer.interrupted:
                raise
        except (UserError, MisconfigurationException, OSError, RuntimeError) as error:
            raise _as_user_error(error, root) from None
        if self.trainer.is_global_zero:
            self._conclude(model, root, before, writes)

    def _conclude(self, model: L.LightningModule, root: Path, before: int, writes: bool) -> None:
        """Prints how a run ended; a run that trained nothing is an error."""
        saved = latest_checkpoint(root)
        if self.trainer.interrupted:
            end = f"interrupted; to resume: {resume_command(saved)}" if saved else "interrupted; nothing saved yet"
        elif steps_done(self.trainer, model) == before:
            longer = (
                "data.total_env_steps" if hasattr(model, "env_steps") else "trainer.max_epochs or trainer.max_steps"
            )
            raise UserError(f"nothing was trained: the run has already reached its end, step {before}; raise {longer}")
        elif writes:
            (root / INTERRUPTED).unlink(missing_ok=True)
            best = f"; best validation loss: {root / BEST}, the one to export" if (root / BEST).is_file() else ""
            end = f"finished; the run is in {root}{best}"
        else:
            end = "finished a trial; nothing was written"
        print(end, file=sys.stderr)

    def _get_option(self, name: str) -> Any:
        return self.config[self.config.subcommand].get(name)


def _is_untrained(model: L.LightningModule) -> bool:
    """Whether a new module has random weights: it is trained, and does not start from a pretrained model."""
    return is_overridden("training_step", model) and model.hparams.get("pretrained") is None


def _as_user_error(error: Exception, root: Path) -> Exception:
    """The error that ended a fit, as a UserError if the user can fix it."""
    saved, text = latest_checkpoint(root), one_line(str(error))
    if isinstance(error, UserError):
        text = str(error)
        text = f"{text}; the last good checkpoint is {saved}" if saved and "diverged" in text else text
        return UserError(text)
    if isinstance(error, OSError):
        return UserError(f"the run in {root} cannot go on: {text}")
    if isinstance(error, MisconfigurationException) or "conditioned on metric" in text:  # a monitor that is not logged
        return UserError(complaint(text))
    return error
