"""Turn a training checkpoint into a model folder: safetensors and JSON that load without Lightning.

The averaged weights are taken where the run averaged them.
"""

import argparse
import json
import shutil
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="a .ckpt of a run folder")
    parser.add_argument("folder", metavar="DIR", type=Path, help="the model folder to create")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(args: argparse.Namespace) -> int:
    from checkpoints.store import save
    from commands.train import read_checkpoint

    content = read_checkpoint(args.checkpoint)
    prefix = "model."
    state = {
        name.removeprefix(prefix): weight for name, weight in content["state_dict"].items() if name.startswith(prefix)
    }
    save(args.folder, content["model"], content["arguments"], state, content["origin"])
    config = args.checkpoint.parent / "config.yaml"
    if config.is_file():
        shutil.copyfile(config, args.folder / "train.yaml")
    print(json.dumps({"output": str(args.folder)}) if args.json else f"wrote {args.folder}")
    return 0
