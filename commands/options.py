"""Options that several verbs share, checked: each mistake is one line that says the fix."""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.errors import UserError


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number not below `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return parse


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="where the model runs: auto, cpu, cuda, cuda:1, mps")


def choose_device(name: str) -> str:
    """A device that is there; "auto" takes a GPU if it finds one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r} is not a device: use auto, cpu, cuda, cuda:1 or mps") from None
    available = {
        "cpu": device.index in (None, 0),
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise UserError(f"--device {name!r} is not there on this machine: use --device auto")
    return name


def check_output(path: Path, endings: tuple[str, ...]) -> None:
    """Refuses a file whose folder is missing or whose ending is unknown, before any work is done."""
    if path.suffix.lower() not in endings:
        raise UserError(f"--output {str(path)!r} must end in {' or '.join(endings)}")
    if not path.resolve().parent.is_dir():
        raise UserError(f"--output {str(path)!r}: the folder {path.resolve().parent} does not exist, create it first")
    if path.is_dir():
        raise UserError(f"--output {str(path)!r} is a folder: name a file")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its ending, that takes its place when the block succeeds."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.resolve().parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)  # mkstemp makes files private
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        beside.unlink(missing_ok=True)
