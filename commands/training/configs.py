"""Configs by their names."""

import difflib
import os
from importlib.resources import files
from pathlib import Path

import yaml

from zoo.errors import UserError, one_line


def name_configs(arguments: list[str]) -> list[str]:
    """Replaces `--config NAME` by the file of that name among the configs, unless there is such a file."""
    named = [*arguments]
    for i, argument in enumerate(arguments):
        if argument in ("--config", "-c") and i + 1 < len(arguments):
            named[i + 1] = str(_config(arguments[i + 1]))
        elif argument.startswith("--config="):
            named[i] = f"--config={_config(argument.removeprefix('--config='))}"
    return named


def _config(value: str) -> Path:
    """The file of a config, given by its path or by its name."""
    folder = Path(str(files("configs")))
    # unlike Path.is_file, os.path.isfile is False for a name that is too long
    path = Path(value) if os.path.isfile(value) else folder / f"{value}.yaml"
    if not os.path.isfile(path):
        names = sorted(config.stem for config in folder.glob("*.yaml"))
        near = difflib.get_close_matches(Path(value).stem, names, n=3, cutoff=0.4) or names
        known = " or ".join(near)
        raise UserError(f"--config {value!r:.200} is neither a file nor a known config; did you mean {known}?")
    try:
        referring = any(isinstance(token, yaml.AliasToken) for token in yaml.scan(path.read_bytes()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--config {value!r} cannot be read: {one_line(str(error))}") from None
    if referring:  # a few lines of references can stand for a value without end
        raise UserError(f"--config {value!r} holds a reference (*name): write its value out")
    return path
