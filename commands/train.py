"""fit, validate, test, predict: LightningCLI with this project's rules around it.

Only our packages, Lightning and torch.optim may be named in a config; a run never overwrites another; Ctrl-C saves.
"""

import difflib
import importlib.util
import inspect
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import datamodules
import lightning_modules
from checkpoints.store import versions
from lightning_modules.callbacks import LearningCurves, Predictions, RunRecord
from zoo.errors import UserError

ALLOWED_IMPORTS = ["lightning_modules", "datamodules", "lightning", "torch.optim"]
SIZES = ("image_shape", "num_classes")  # what a model takes from its data
INTERRUPTED, LAST = "interrupted.ckpt", "last.ckpt"


def run(verb: str, arguments: list[str]) -> int:
    """Runs one Trainer verb; returns the exit status."""
    jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=ALLOWED_IMPORTS)
    _quieten()
    arguments = [*_name_configs(arguments)]
    sys.argv = [sys.argv[0], verb, *arguments]  # DDP starts its other processes from here
    strict: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
    try:
        cli = CommandLine(
            subclass_mode_model=True,
            subclass_mode_data=True,
            datamodule_class=L.LightningDataModule,
            save_config_callback=ConfigOfRun,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={"enable_model_summary": False},
            parser_kwargs=strict | dict.fromkeys(LightningCLI.subcommands(), strict),
        )
    except jsonargparse.ArgumentError as error:
        raise UserError(_complaint(str(error))) from None
    return 130 if cli.trainer.interrupted else 0


class CommandLine(LightningCLI):
    """LightningCLI with sizes taken from the data, one folder a run, and callbacks that every run has."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--wandb", type=bool, default=False, help="Also log to Weights & Biases.")
        parser.add_argument(
            "--save_every_n_epochs", type=int, default=1, help="Epochs between two writings of last.ckpt."
        )
        for name in SIZES:
            parser.link_arguments(
                "data",
                f"model.init_args.{name}",
                compute_fn=lambda data, name=name: getattr(data, name, None),
                apply_on="instantiate",
            )

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint's hyperparameters override the command line: here the config counts.

        The file is looked at first, so that a truncated or foreign one is told in one line.
        """
        path = self._get_option("ckpt_path")
        if path and path not in ("last", "best"):
            read_checkpoint(Path(path))

    def before_instantiate_classes(self) -> None:
        config = self.config[self.config.subcommand]
        if config.trainer.default_root_dir is None:
            config.trainer.default_root_dir = f"runs/{config.model.class_path.rsplit('.', 1)[-1].lower()}"
        for name in ("max_epochs", "max_steps", "max_time"):
            if isinstance(config.trainer[name], int) and config.trainer[name] < -1:
                raise UserError(f"trainer.{name} must be at least 1, got {config.trainer[name]}")
        if config.save_every_n_epochs < 1:
            raise UserError(f"save_every_n_epochs must be at least 1, got {config.save_every_n_epochs}")
        root = Path(config.trainer.default_root_dir)
        resumed = config.get("ckpt_path")
        if self.config.subcommand == "fit" and not resumed and (root / LAST).exists() and not _is_worker():
            raise UserError(
                f"{root} already holds a run: resume it with --ckpt_path {root / LAST}, "
                "or choose another folder with --trainer.default_root_dir"
            )

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except UserError:
            raise
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise UserError(_complaint(str(error))) from None

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self._get(self.config_init, "trainer")
        root = Path(config["default_root_dir"])
        fitting = self.subcommand == "fit"
        if config["logger"] in (None, True):
            kwargs["logger"] = self._loggers(root) if fitting else False
        self.trainer_defaults["callbacks"] = [
            *([] if config["enable_progress_bar"] is False else [RichProgressBar(refresh_rate=10)]),
            RunRecord({"seed": self._get_option("seed_everything"), "commit": commit(), "versions": versions()}),
        ]
        if fitting and not config["fast_dev_run"]:
            every = self._get_option("save_every_n_epochs")
            self.trainer_defaults["callbacks"] += [
                LearningCurves(),
                ModelCheckpoint(
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

    def fit(self, model: L.LightningModule, **kwargs: Any) -> None:
        """Trains, and says at the end where the run is or how to go on with it."""
        if self.trainer.is_global_zero:
            size = sum(parameter.numel() for parameter in model.parameters())
            data = type(self.datamodule).__name__
            print(
                f"{type(model).__name__} with {size:,} parameters on {data}, in {self.trainer.default_root_dir}",
                file=sys.stderr,
            )
        with suppress(KeyboardInterrupt):
            self.trainer.fit(model, **kwargs)
        if not self.trainer.is_global_zero:
            return
        root = Path(self.trainer.default_root_dir)
        if self.trainer.interrupted:
            saved = next((root / name for name in (INTERRUPTED, LAST) if (root / name).exists()), None)
            print(
                f"interrupted; to go on: {_resume_command(saved)}" if saved else "interrupted; nothing saved yet",
                file=sys.stderr,
            )
        else:
            (root / INTERRUPTED).unlink(missing_ok=True)
            print(f"finished; the run is in {root}", file=sys.stderr)

    def _get_option(self, name: str) -> Any:
        return self.config[self.config.subcommand].get(name)

    def _loggers(self, root: Path) -> list[Any]:
        loggers: list[Any] = [CSVLogger(root, name="", version=""), TensorBoardLogger(root, name="", version="")]
        if self._get_option("wandb"):
            if importlib.util.find_spec("wandb") is None:
                raise UserError("--wandb true needs Weights & Biases: pip install wandb")
            from lightning.pytorch.loggers import WandbLogger

            loggers.append(WandbLogger(save_dir=root, name=root.name, project="lightning-zoo"))
        return loggers


class SaveOnInterrupt(Callback):
    """The first Ctrl-C saves the whole state after the running step and then stops; a second one stops at once.

    With several processes Ctrl-C stops at once: `last.ckpt` is what the run goes on from.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._asked = False
        self._former: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGINT, self._ask)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self._asked:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)
            self._former = None

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


class ConfigOfRun(SaveConfigCallback):
    """Writes the whole resolved config of a `fit` into its run folder; other verbs leave no trace there."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint of this project: tensors and plain values only, nothing else is unpickled.

    Raises:
        UserError: if the file is absent, truncated, holds other objects, or comes from elsewhere.
    """
    if not path.is_file():
        raise UserError(f"the checkpoint {str(path)!r} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is refused: it is damaged, or holds objects other than tensors and plain values"
        ) from None
    except Exception as error:  # torch.load meets a damaged file with any of a dozen exceptions
        raise UserError(f"{path} is not a whole training checkpoint: {_one_line(str(error))}") from None
    needed = ("model", "arguments", "state_dict", "origin")
    if not isinstance(content, dict) or any(key not in content for key in needed):
        raise UserError(f"{path} is not a checkpoint of this project: it lacks one of {', '.join(needed)}")
    return content


def commit() -> str:
    """The commit of the checkout that this runs from, "+" when files differ from it, "" outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def _name_configs(arguments: list[str]) -> list[str]:
    """Replaces `--config NAME` by the file of that name among the configs, unless there is such a file."""
    named = [*arguments]
    for i, argument in enumerate(arguments):
        value = arguments[i + 1] if argument in ("--config", "-c") and i + 1 < len(arguments) else None
        value = argument.removeprefix("--config=") if argument.startswith("--config=") else value
        if value is None or Path(value).is_file():
            continue
        folder = Path(str(files("configs")))
        config = folder / f"{value}.yaml"
        if not config.is_file():
            names = sorted(path.stem for path in folder.glob("*.yaml"))
            near = difflib.get_close_matches(Path(value).stem, names, n=3, cutoff=0.4) or names
            raise UserError(
                f"--config {value!r} is neither a file nor a known config; did you mean {' or '.join(near)}?"
            )
        if argument.startswith("--config="):
            named[i] = f"--config={config}"
        else:
            named[i + 1] = str(config)
    return named


def _resume_command(path: Path) -> str:
    words, skip = [], False
    for word in sys.argv[1:]:
        if skip or word.startswith("--ckpt_path"):
            skip = word == "--ckpt_path"
            continue
        words.append(word)
    program = "python cli.py" if sys.argv[0].endswith("cli.py") else os.path.basename(sys.argv[0])
    return " ".join([program, *words, "--ckpt_path", str(path)])


def _is_worker() -> bool:
    """Whether this is a process that DDP started beside the first one."""
    return int(os.environ.get("LOCAL_RANK", "0")) > 0


def _complaint(text: str) -> str:
    """What jsonargparse has to say, without its account of every type that it tried."""
    text = _one_line(text)
    of = re.search(r"class_path '?([\w.]+)'?", text)
    where = f" of {of[1]}" if of else ""
    if unknown := re.search(r"(?:Option|Key) '(.+?)' is not (?:accepted|expected)", text):
        names = _parameters(of[1]) if of else []
        near = difflib.get_close_matches(unknown[1], names, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}" if names else "see --help"
        return f"unknown option {unknown[1]!r}{where}; {hint}"
    if missing := re.search(r"Expected a dot import path string: (\S+)", text):
        known = [*lightning_modules.__all__, *datamodules.__all__]
        near = difflib.get_close_matches(missing[1].rsplit(".", 1)[-1], known, n=2, cutoff=0.5) or known
        return f"unknown class {missing[1]!r}; did you mean {' or '.join(near)}?"
    if denied := re.search(r"Importing '(.+?)' is not allowed", text):
        return (
            f"{denied[1]!r} may not be named in a config: only classes of this project, Lightning and torch.optim may"
        )
    if wrong := re.search(r'Parser key "(?!model"|data")([\w.]+)": (.+?)(?: Expected a <class \'NoneType\'>|$)', text):
        return f"option {wrong[1]!r}{where}: {_core(wrong[2])}"
    return _core(text)


def _core(text: str) -> str:
    """The reason inside jsonargparse's report on a type that may also be None."""
    inside = re.search(r"Errors: (.+?)(?: Expected a <class 'NoneType'>|$)", text)
    return inside[1] if inside else text


def _parameters(class_path: str) -> list[str]:
    """The options of a class of ours, [] for another's."""
    name = class_path.rsplit(".", 1)[-1]
    found = getattr(lightning_modules, name, None) or getattr(datamodules, name, None)
    return [*inspect.signature(found).parameters] if found else []


def _one_line(text: str) -> str:
    """The first sentence that says something, of a message that may run over many lines."""
    lines = [line.strip(" -") for line in text.splitlines() if line.strip(" -")]
    return " ".join(lines)[:500] if lines else "no reason given"


def _quieten() -> None:
    """Hides messages that say nothing to a user: advertisements of services, hints about data loader workers."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "litlogger" not in record.getMessage() and "litmodels" not in record.getMessage()
    )
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # the run folder: config.yaml is there
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*jsonargparse.*")
