"""Where a MODEL lies: a shipped name, a repository of the Hugging Face Hub, or a folder."""

import difflib
import os
from pathlib import Path

from checkpoints.catalogue import CONFIG, PREFIX, WEIGHTS, shipped
from zoo.errors import UserError


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
