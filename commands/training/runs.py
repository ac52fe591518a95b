"""Run folders: their checkpoints, their logs, where they came from, how to go on with them. Needs no Lightning."""

import csv
import os
import pickle
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.errors import UserError, one_line

INTERRUPTED, LAST = "interrupted.ckpt", "last.ckpt"


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
        raise UserError(f"{path} is not a whole training checkpoint: {one_line(str(error))}") from None
    needed = ("model", "arguments", "state_dict", "origin", "global_step")
    if not isinstance(content, dict) or any(key not in content for key in needed):
        raise UserError(f"{path} is not a checkpoint of this project: it lacks one of {', '.join(needed)}")
    return content


def latest_checkpoint(root: Path) -> Path | None:
    """The newer of last.ckpt and interrupted.ckpt in a run folder."""
    saved = [root / name for name in (LAST, INTERRUPTED) if (root / name).is_file()]
    return max(saved, key=lambda path: path.stat().st_mtime_ns, default=None)


def check_weights(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Raises a UserError unless the weights of a checkpoint are those that a model has."""
    given, own = ({name: tuple(weight.shape) for name, weight in part.items()} for part in (state, model.state_dict()))
    if wrong := [name for name in given.keys() | own.keys() if given.get(name) != own.get(name)]:
        raise UserError(
            f"the checkpoint {str(path)!r} is not of this model: weight {min(wrong)!r} is missing, extra or of another "
            f"shape; use the config of its run, {path.parent / 'config.yaml'}"
        )


def keep_rows(logger: Any, log: Path, steps: int) -> None:
    """Hands the first `steps` steps of a log to the logger that goes on with it; Lightning would start an empty one."""
    if not log.is_file():
        return
    with log.open(newline="") as file:
        rows: list[dict[str, Any]] = [*csv.DictReader(file)]
    for row in rows:
        step = row.pop("step", None) or ""
        if step.isdecimal() and int(step) < steps:  # a killed run may have written a part of a row
            logger.log_metrics({name: value for name, value in row.items() if name and value}, int(step))


def resume_command(path: Path) -> str:
    """The command line of this run, to go on from the checkpoint at `path`."""
    words, skip = [], False
    for word in sys.argv[1:]:
        if skip or word.startswith("--ckpt_path"):
            skip = word == "--ckpt_path"
            continue
        words.append(word)
    program = "python cli.py" if sys.argv[0].endswith("cli.py") else os.path.basename(sys.argv[0])
    return f"{program} {shlex.join([*words, '--ckpt_path', str(path)])}"
