"""Rewrites a command line before LightningCLI parses it: configs by name, callbacks that are added."""

import difflib
import os
import re
from importlib.resources import files
from pathlib import Path

import yaml

from zoo.errors import UserError, one_line


def arrange(arguments: list[str]) -> list[str]:
    """The command line with configs first, as files, and with callbacks that are added to those of the configs.

    LightningCLI reads from left to right: an option of a model would mean nothing before the config that names the
    model, and `--trainer.callbacks NAME` would replace the callbacks of the config, averaged weights among them.
    """
    configs, others = [], []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option in ("--config", "-c"):
            configs.append(f"--config={_config(value if equals else next(words, ''))}")
        elif option == "--trainer.callbacks":
            value = value if equals else next(words, "")
            adds = re.fullmatch(r"[\w.]+", value) and value != "null"
            others.append(f"{option}{'+' if adds else ''}={value}")
        else:
            others.append(word)
    return [*configs, *others]


def config_names() -> list[str]:
    """The names of all configs, sorted."""
    return sorted(config.stem for config in _folder().glob("*.yaml"))


def _folder() -> Path:
    return Path(str(files("configs")))


def _config(value: str) -> Path:
    """The file of a config, given by its path or by its name."""
    # unlike Path.is_file, os.path.isfile is False for a name that is too long
    path = Path(value) if os.path.isfile(value) else _folder() / f"{value}.yaml"
    if not os.path.isfile(path):
        names = config_names()
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
