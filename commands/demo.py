"""Train a small diffusion model on handwritten digits for about five minutes, and sample each digit from it.

Writes samples.png: real digits, samples of the new model, samples of the shipped model, one row for each digit.
"""

import argparse
import shutil
import sys
from pathlib import Path

from zoo.errors import UserError

SHIPPED, JUDGE = "cfg-mnist5k", "classifier-mnist5k"
DRAWN = {"guidance_scale": 1.5, "steps": 20}
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
    from datamodules import MNIST5k

    print("Training a diffusion model on 4,000 handwritten digits, about five minutes ...", file=sys.stderr)
    status = train.run("fit", ["--config", "demo", "--trainer.default_root_dir", str(folder)])
    if status:
        return status
    content = read_checkpoint(folder / LAST)
    mine = build(content["model"], content["arguments"])
    mine.load_state_dict({name.removeprefix("model."): weight for name, weight in content["state_dict"].items()})

    print("Drawing ten of each digit ...", file=sys.stderr)
    asked = torch.arange(100) // 10
    judge = checkpoints.load(JUDGE)
    data = MNIST5k()
    real = torch.cat([data.images("test")[data.labels("test") == digit][:10] for digit in range(10)])
    panels = [("real digits", real)]
    for title, model in (("drawn by your model", mine), (f"drawn by the shipped {SHIPPED}", checkpoints.load(SHIPPED))):
        images = model.sample(100, labels=asked, generator=torch.Generator().manual_seed(1), **DRAWN)  # type: ignore[operator]
        with torch.inference_mode():
            read = int((judge(images).argmax(1) == asked).sum())
        panels.append((f"{title}\n{JUDGE} reads {read} of 100 as asked", images))
    picture = folder / "samples.png"
    draw_panels(picture, panels)
    print(f"\nLook at {picture}: real digits, samples of your model, samples of the shipped model.")
    print(
        f"Learning curves: {folder / 'curves.png'}.  Next: `lightning-zoo sample {SHIPPED} --labels 7 --output 7.png`"
    )
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
