"""What made an artifact: the versions of the packages, and the commit of the checkout."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch


def versions() -> dict[str, str]:
    """This project, PyTorch, Python."""
    # as plain str: a checkpoint may hold nothing else
    packages = {"lightning-zoo": version("lightning-zoo"), "torch": str(torch.__version__)}
    return packages | {"python": platform.python_version()}


def commit() -> str:
    """The commit of the checkout that this runs from, "+" when files differ from it, "" outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
