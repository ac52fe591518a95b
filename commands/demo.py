"""Train a small diffusion model on hand-written digits for two to six minutes, then draw what it learned.

Writes samples.png: real digits, what the new model draws, what the shipped model draws.
"""

import argparse
import shutil
import sys
from pathlib import Path

from zoo.errors import UserError

MARK = ".demo"  # stands in the folders that a demo may replace: a training run is never one of them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/demo"), help="the run folder; an earlier demo is replaced"
    )


def run(args: argparse.Namespace) -> int:
    folder: Path = args.folder
    prepare(folder)

    import torch

    import checkpoints
    from checkpoints.store import build
    from commands.drawing.panels import draw_panels
    from commands.training import cli as train
    from commands.training.runs import LAST, read_checkpoint
    from datamodules import Digits

    print("Training a diffusion model on 1,000 hand-written digits, two to six minutes ...", file=sys.stderr)
    status = train.run("fit", ["--config", "demo", "--trainer.default_root_dir", str(folder)])
    if status:
        return status
    content = read_checkpoint(folder / LAST)
    mine = build(content["model"], content["arguments"])
    mine.load_state_dict({name.removeprefix("model."): weight for name, weight in content["state_dict"].items()})

    def draw(model: torch.nn.Module) -> torch.Tensor:
        return model.sample(100, generator=torch.Generator().manual_seed(1))  # type: ignore[operator]

    real = Digits().images("test")[:100]
    panels = [("real digits", real), ("drawn by your model", draw(mine))]
    panels.append(("drawn by the shipped ddpm-digits", draw(checkpoints.load("ddpm-digits"))))
    picture = folder / "samples.png"
    draw_panels(picture, panels)
    print(f"\nLook at {picture}: real digits, digits that your model draws, digits that the shipped model draws.")
    print(f"Learning curves: {folder / 'curves.png'}.  Next: `lightning-zoo sample ddpm-digits --output digits.png`")
    return 0


def prepare(folder: Path) -> None:
    """Makes an empty folder for the demo, in place of an earlier demo only."""
    try:
        if (folder / MARK).is_file():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(
                f"--folder {str(folder)!r} holds something that is not an earlier demo: choose another folder"
            )
        (folder / MARK).touch()
    except OSError as error:
        raise UserError(f"--folder {str(folder)!r} cannot be used: {error.strerror or error}") from None
