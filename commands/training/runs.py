"""Run folders: their checkpoints, their logs, and how to resume them."""

import csv
import inspect
import os
import pickle
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger

from checkpoints.table import builder
from lightning_modules.trainer.construct import plain
from zoo.errors import UserError

INTERRUPTED, LAST, BEST = "interrupted.ckpt", "last.ckpt", "best.ckpt"
PLAIN = (str, int, float, list, tuple, type(None))  # values that can be compared and printed


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a training checkpoint of this project: tensors and plain values; nothing else is unpickled.

    Raises:
        UserError: if the file is missing, truncated, holds other objects, or was written by other software.
    """
    if os.path.isdir(path):
        raise UserError(f"{str(path)!r} is a folder: name a checkpoint, as {str(path / LAST)!r}")
    if not path.is_file():
        raise UserError(f"the checkpoint {str(path)!r} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is refused: it is damaged, or holds objects other than tensors and plain values"
        ) from None
    except Exception:  # torch.load raises a dozen different exceptions for damaged files
        raise UserError(f"{path} is not a training checkpoint, or only a part of one") from None
    needed = ("model", "arguments", "state_dict", "origin", "global_step")
    if not isinstance(content, dict) or any(key not in content for key in needed):
        raise UserError(f"{path} is not a checkpoint of this project: it lacks one of {', '.join(needed)}")
    return content


def latest_checkpoint(root: Path) -> Path | None:
    """The newer of last.ckpt and interrupted.ckpt in a run folder."""
    saved = [root / name for name in (LAST, INTERRUPTED) if (root / name).is_file()]
    return max(saved, key=lambda path: path.stat().st_mtime_ns, default=None)


def check_model(module: Any, content: dict[str, Any], path: Path) -> None:
    """Raises a UserError unless the model of a checkpoint has the architecture and the weights of a module's model."""
    wrong = _difference(module, content)
    if not wrong:
        given, own = content["state_dict"], module.state_dict()
        shapes = [{name: tuple(weight.shape) for name, weight in state.items()} for state in (given, own)]
        names = [name for name in given.keys() | own.keys() if shapes[0].get(name) != shapes[1].get(name)]
        wrong = f"weight {min(names)!r} is missing, extra or of another shape" if names else ""
    if wrong:
        raise UserError(
            f"the checkpoint {str(path)!r} is not of this model: {wrong}; use the config of its run, "
            f"{path.parent / 'config.yaml'}"
        )


def _difference(module: Any, content: dict[str, Any]) -> str:
    """The first difference of architecture between a checkpoint and a module, "" if there is none."""
    if not hasattr(module, "arguments"):
        return ""
    if content["model"] != module.model_name:
        return f"it holds a model of class {content['model']!r}, this run one of {module.model_name!r}"
    parameters = inspect.signature(builder(module.model_name)).parameters
    defaults = {name: plain(parameter.default) for name, parameter in parameters.items()}
    given, own = defaults | content["arguments"], defaults | module.arguments
    for name in content["arguments"].keys() | module.arguments.keys():
        if name in defaults and name != "dropout" and plain(given[name]) != own[name]:  # dropout holds no weights
            return f"its {name} is {plain(given[name])!r}, that of this run {own[name]!r}"
    return ""


def changed_options(content: dict[str, Any], model: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    """Options that differ between a config and a checkpoint, as "model.learning_rate 0.001 (it was 0.003)"."""
    changes = []
    for part, key, now in (("model", "hyper_parameters", model), ("data", "datamodule_hyper_parameters", data)):
        before = content.get(key) or {}
        for name in before.keys() & now.keys():
            pair = before[name], now[name]
            if all(isinstance(value, PLAIN) for value in pair) and plain(pair[0]) != plain(pair[1]):
                changes.append(f"{part}.{name} {pair[1]} (it was {pair[0]})")
    return sorted(changes)


def keep_rows(logger: Logger, log: Path, steps: int) -> None:
    """Copies the first `steps` steps of a log into the logger of a resumed run; Lightning would start an empty one."""
    if not log.is_file():
        return
    with log.open(newline="") as file:
        rows: list[dict[str, Any]] = [*csv.DictReader(file)]
    for row in rows:
        step = row.pop("step", None) or ""
        if step.isdecimal() and int(step) < steps:  # a killed run may have written a part of a row
            logger.log_metrics({name: value for name, value in row.items() if name and value}, int(step))


def resume_command(path: Path) -> str:
    """The command line that resumes this run from the checkpoint at `path`."""
    words, skip = [], False
    for word in sys.argv[1:]:
        if skip or word.startswith("--ckpt_path"):
            skip = word == "--ckpt_path"
            continue
        words.append(word)
    program = "python cli.py" if sys.argv[0].endswith("cli.py") else os.path.basename(sys.argv[0])
    return f"{program} {shlex.join([*words, '--ckpt_path', str(path)])}"
