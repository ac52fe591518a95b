"""Download a model and verify it: from the Hub (hf://owner/repo[@revision]), or a shipped one by name.

Verification checks the checksums, the name and shape of every weight, and that the model reproduces its stored
reference output. Without --to, the model stays in the Hub's cache. An interrupted download resumes where it stopped.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

from checkpoints.catalogue import FILES, REFERENCE
from checkpoints.locate import find
from checkpoints.whole import made_whole
from zoo.errors import UserError

TOLERANCE = 1e-3  # between machines, relative; see `checkpoints.store.verify`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a shipped name, hf://owner/repo[@revision], or a model folder")
    parser.add_argument("--to", metavar="DIR", type=Path, help="a new folder to copy the model into")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(args: argparse.Namespace) -> int:
    folder = download(args.model, args.to)
    print(json.dumps({"output": str(folder)}) if args.json else f"verified, in {folder}")
    return 0


def download(model: str, to: Path | None = None) -> Path:
    """The folder of a MODEL, once verified: the new folder `to`, or by default where it is shipped or cached.

    Raises:
        UserError: if `to` exists or its parent does not, or as `find` and `check` do.
    """
    if to is not None:
        if os.path.lexists(to):
            raise UserError(f"--to {str(to)!r} exists already: name a new folder")
        if not os.path.isdir(to.resolve().parent):
            raise UserError(f"--to {str(to)!r}: the folder {to.resolve().parent} does not exist")
    folder = find(model)
    check(folder)
    if to is None:
        return folder
    with made_whole(to) as copy:
        for name in FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, copy / name)
    return to


def check(folder: Path) -> None:
    """Loads a model folder strictly and reproduces its reference output, if it has one."""
    from checkpoints.store import load, verify

    if not (folder / REFERENCE).is_file():
        load(str(folder))
        return
    difference = verify(str(folder))
    if not difference <= TOLERANCE:
        raise UserError(f"{folder} does not reproduce its reference output (off by {difference:.2g}): do not use it")
