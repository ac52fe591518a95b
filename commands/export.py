"""Turn a training checkpoint into a model folder: safetensors and JSON that load without Lightning.

The averaged weights are taken where the run averaged them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from zoo.errors import UserError

PREFIX = "model."  # of a weight's name, in a LightningModule that holds the model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="a .ckpt of a run folder")
    parser.add_argument("folder", metavar="DIR", type=Path, help="the model folder to create")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(args: argparse.Namespace) -> int:
    from checkpoints.store import save
    from commands.training.runs import read_checkpoint

    content = read_checkpoint(args.checkpoint)
    weights = content["state_dict"]
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise UserError(f"{args.checkpoint} is not a checkpoint of this project: its state_dict must name weights")
    state = {name.removeprefix(PREFIX): weight for name, weight in weights.items() if name.startswith(PREFIX)}
    config = args.checkpoint.parent / "config.yaml"
    try:
        training = config.read_text(encoding="utf-8") if config.is_file() else None
    except (OSError, ValueError) as error:
        raise UserError(f"{config} cannot be read: {error}") from None
    about: dict[str, Any] = {key: content[key] for key in ("algorithm", "paper", "data", "protocol") if key in content}
    save(args.folder, content["model"], content["arguments"], state, content["origin"], training, about)
    print(json.dumps({"output": str(args.folder)}) if args.json else f"wrote {args.folder}")
    return 0
