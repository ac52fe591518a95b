"""Files and folders written whole or not at all: made under a temporary name, then renamed. Standard library only."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.errors import UserError

PREFIX = ".partial-"  # of what a killed process may leave


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, with its ending, that replaces it when the block succeeds."""
    try:
        handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=path.suffix, dir=path.resolve().parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp makes files private
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes the new `folder` when the block succeeds."""
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder.resolve().parent) as temporary:
            whole = Path(temporary) / folder.name
            whole.mkdir()
            yield whole
            os.rename(whole, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None
