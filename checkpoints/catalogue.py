"""Names of models and the folders behind them. Standard library only, so that `list` starts at once."""

import difflib
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from zoo.errors import UserError

POLICIES = ("actor", "actor-critic")  # the model classes that play in environments
PREFIX = "hf://"  # of a model on the Hugging Face Hub
CONFIG, WEIGHTS, RESULTS, REFERENCE = "config.json", "model.safetensors", "results.json", "reference.safetensors"
CARD, PICTURE, ANIMATION, CLIP, TRAINING = "README.md", "samples.png", "flow.gif", "clip.gif", "train.yaml"
# all that a model folder may hold
FILES = (CONFIG, WEIGHTS, RESULTS, REFERENCE, CARD, TRAINING, PICTURE, ANIMATION, CLIP)


def shipped() -> dict[str, Path]:
    """The models that ship with the project: name -> folder, sorted by name."""
    root = Path(str(files("checkpoints"))) / "shipped"
    return {folder.name: folder for folder in sorted(root.iterdir()) if (folder / CONFIG).is_file()}


def find(model: str) -> Path:
    """The folder of a MODEL: a shipped name, hf://owner/repo[@revision] (fetched if need be), or a model folder.

    Raises:
        UserError: naming the nearest shipped names, or the file that the folder lacks.
    """
    if model.startswith(PREFIX):
        from checkpoints.hub import fetch

        return fetch(model)
    models = shipped()
    if model in models:
        return models[model]
    folder = Path(model)
    if not os.path.isdir(folder):  # unlike Path.is_dir, False for a name that is too long
        near = difflib.get_close_matches(model, models, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"shipped models: {', '.join(models) or 'none'}"
        raise UserError(f"unknown model {model!r}: neither a shipped name nor a folder; {hint}")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{model!r} is not a model folder: {name} is missing")
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or a UserError that names the file and what is wrong."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error or type(error).__name__}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def in_bytes(count: int) -> str:
    """A size as people read it: 38 kB, 1.7 MB."""
    return f"{count / 1e3:.0f} kB" if count < 100_000 else f"{count / 1e6:.1f} MB"
