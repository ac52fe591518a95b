"""Train a small diffusion model on handwritten digits for two to six minutes, and sample from it.

Writes samples.png: real digits, samples of the new model, samples of the shipped model.
"""

import argparse
import shutil
import sys
from pathlib import Path

from zoo.errors import UserError

MARK = ".demo"  # marks a folder that a demo may replace; a training run never has this file


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

    print("Training a diffusion model on 1,000 handwritten digits, two to six minutes ...", file=sys.stderr)
    status = train.run("fit", ["--config", "demo", "--trainer.default_root_dir", str(folder)])
    if status:
        return status
    content = read_checkpoint(folder / LAST)
    mine = build(content["model"], content["arguments"])
    mine.load_state_dict({name.removeprefix("model."): weight for name, weight in content["state_dict"].items()})

    def draw(model: torch.nn.Module) -> torch.Tensor:
        return model.sample(100, generator=torch.Generator().manual_seed(1))  # type: ignore[operator]

    real = Digits().images("test")[:100]
    panels = [("real digits", real), ("samples of your model", draw(mine))]
    panels.append(("samples of the shipped ddpm-digits", draw(checkpoints.load("ddpm-digits"))))
    picture = folder / "samples.png"
    draw_panels(picture, panels)
    print(f"\nLook at {picture}: real digits, samples of your model, samples of the shipped model.")
    print(f"Learning curves: {folder / 'curves.png'}.  Next: `lightning-zoo sample ddpm-digits --output digits.png`")
    return 0


def prepare(folder: Path) -> None:
    """Makes an empty folder for the demo; the only content that it replaces is an earlier demo."""
    try:
        if (folder / MARK).is_file():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"--folder {str(folder)!r} is not empty, and not an earlier demo: choose another folder")
        (folder / MARK).touch()
    except OSError as error:
        raise UserError(f"--folder {str(folder)!r} cannot be used: {error.strerror or error}") from None
