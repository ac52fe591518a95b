"""Files and folders written whole or not at all: made beside their place, then renamed. Standard library only."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.errors import UserError

PREFIX = ".partial-"  # of what a killed process may leave


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its ending, that takes its place when the block succeeds."""
    try:
        handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=path.suffix, dir=path.resolve().parent)
        os.close(handle)
        beside = Path(name)
        try:
            yield beside
            umask = os.umask(0)
            os.umask(umask)
            beside.chmod(0o666 & ~umask)  # mkstemp makes files private
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside a new `folder`, of the same name, that moves there when the block succeeds."""
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder.resolve().parent) as beside:
            whole = Path(beside) / folder.name
            whole.mkdir()
            yield whole
            os.rename(whole, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None
