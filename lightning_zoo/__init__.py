"""The zoo for Python: load, list, download, evaluate and publish trained models.

    import lightning_zoo as lz

    model = lz.load("ddpm-digits")

A MODEL is a shipped name, hf://owner/repo[@revision], or a model folder. PyTorch is imported by the first call that
needs it. An invalid name, folder or option raises a `ValueError` with a message of one line.
"""

import fnmatch
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.catalogue import PREFIX, describe, shipped
from checkpoints.locate import find
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["download", "evaluate", "from_pretrained", "list_models", "load", "push_to_hub"]


def list_models(pattern: str = "*") -> list[str]:
    """The names of the shipped models that match a pattern such as "ppo-*"."""
    return fnmatch.filter(shipped(), pattern)


def load(model: str, device: str = "cpu") -> "nn.Module":
    """The trained model behind a MODEL, in evaluation mode on a device."""
    from checkpoints import store

    return store.load(model, device)


def download(model: str, to: str | Path | None = None) -> Path:
    """Verifies a MODEL; returns its folder: the new folder `to`, or by default where it is shipped or cached."""
    from commands.download import download

    return download(model, None if to is None else Path(to))


def evaluate(model: str, *, full: bool = False, device: str = "auto") -> dict[str, dict[str, Any]]:
    """Measures every metric of a model's card again: metric -> {"card", "now", "tolerance", "ok"}.

    Args:
        model: a MODEL.
        full: use as many draws as the card states; by default, few enough for ten minutes on two cores.
        device: cpu, cuda, mps, or auto.
    """
    from checkpoints.store import load
    from commands.evaluate import compare, read_metrics
    from commands.measures import measure
    from commands.options import choose_device

    described = describe(find(model))
    card = read_metrics(described.folder)
    metrics = measure(load(described, choose_device(device)), described, full=full, say=lambda text: None)
    return compare(described.folder.resolve().name, card, metrics)


def from_pretrained(
    model_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    device: str = "cpu",
) -> "nn.Module":
    """As `load`, with the arguments of huggingface_hub's `from_pretrained`.

    Args:
        model_id: owner/name on the Hub, a folder, or a shipped name.
        revision: a branch, tag or commit on the Hub; by default main.
        token: by default that of the logged-in user; False for none.
        local_files_only: use the cache without asking the Hub.
        device: where the model goes.
    """
    if model_id in shipped() or os.path.isdir(model_id):
        if revision is not None:
            raise UserError(f"revision is for models on the Hub, and {model_id!r} is on this machine: leave it out")
        return load(model_id, device)
    from checkpoints.hub import fetch

    name = PREFIX + model_id.removeprefix(PREFIX) + (f"@{revision}" if revision else "")
    return load(str(fetch(name, token=token, local_files_only=local_files_only)), device)


def push_to_hub(
    model: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | bool | None = None,
    commit_message: str | None = None,
) -> str:
    """Verifies a model folder or a shipped model and uploads it to the Hub in one commit; returns the repository's URL.

    Args:
        model: a folder with its card (`lightning-zoo evaluate FOLDER --update` writes it), or a shipped name.
        repo_id: owner/name. private: of a new repository.
        token: with write access; by default that of the logged-in user. commit_message: of the commit.
    """
    from checkpoints.hub import publish
    from commands.download import check

    folder = find(str(model))
    check(folder)
    return str(publish(folder, repo_id, private=private, token=token, commit_message=commit_message)["url"])
