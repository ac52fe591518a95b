"""Draw images from a model: a PNG grid to look at, or the numbers as .npy or .safetensors (floats in [-1, 1])."""

import argparse
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

from checkpoints.catalogue import find
from checkpoints.whole import written_whole
from commands.options import add_device, add_speed, at_least, check_output, choose_device, speed_up
from zoo.errors import UserError

BATCH = 160  # images drawn at once: their feature maps still fit the caches of a CPU


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a shipped name, or a model folder")
    parser.add_argument("--num-samples", type=at_least(1), default=64, help="how many images")
    parser.add_argument("--seed", type=at_least(0), default=0, help="the same seed draws the same images")
    parser.add_argument("--output", type=Path, default=Path("samples.png"), help="a .png, .npy or .safetensors file")
    parser.add_argument("--sampler", choices=("ddim", "ddpm"), default="ddim", help="ddpm is ancestral sampling")
    parser.add_argument("--steps", type=at_least(1), default=50, help="network evaluations an image")
    parser.add_argument("--eta", type=float, default=0.0, help="ddim: 0 deterministic ... 1 as noisy as ddpm")
    parser.add_argument(
        "--spacing",
        choices=("trailing", "leading", "linspace", "quadratic"),
        default="trailing",
        help="which steps a short run visits",
    )
    parser.add_argument(
        "--labels", type=at_least(0), nargs="+", help="classes to draw in turn, for a class-conditional model"
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_device(parser)
    add_speed(parser)


def run(args: argparse.Namespace) -> int:
    check_output(args.output, (".png", ".npy", ".safetensors"))
    find(args.model)  # a wrong name is told before PyTorch is imported

    import torch

    import checkpoints
    from zoo.diffusion.model import ImageDiffusion

    device = choose_device(args.device)
    model = checkpoints.load(args.model, device)
    if not isinstance(model, ImageDiffusion):
        raise UserError(f"{args.model!r} does not draw images: it is a {type(model).__name__}")
    if args.eta and args.sampler != "ddim":
        raise UserError(f"--eta {args.eta} has no meaning for --sampler {args.sampler}: it belongs to ddim")
    if args.output.suffix.lower() == ".png" and model.image_shape[0] not in (1, 3):
        raise UserError(f"{args.model!r} draws images of {model.image_shape[0]} channels: use --output with .npy")
    speed_up(model.network, device, args.precision, args.compile)
    classes = torch.tensor(args.labels) if args.labels else None

    generator = torch.Generator().manual_seed(args.seed)
    start = time.perf_counter()
    batches = []
    with Progress(args.num_samples, args.steps) as progress:
        for first in range(0, args.num_samples, BATCH):
            count = min(BATCH, args.num_samples - first)
            images = model.sample(
                count,
                sampler=args.sampler,
                steps=args.steps,
                eta=args.eta,
                spacing=args.spacing,
                labels=None if classes is None else classes[torch.arange(first, first + count) % len(classes)],
                generator=generator,
                on_step=lambda _t, _x, count=count: progress.advance(count),  # type: ignore[misc]
            )
            batches.append(images.cpu())
    seconds = time.perf_counter() - start
    write_images(torch.cat(batches), args.output)
    answer = {
        "output": str(args.output),
        "num_samples": args.num_samples,
        "seconds": round(seconds, 3),
        "network_evaluations": args.steps * len(batches),
    }
    if args.json:
        print(json.dumps(answer))
    else:
        print(f"wrote {args.output}: {args.num_samples} images, {args.steps} steps each, {seconds:.1f} s")
    return 0


def write_images(images: Any, path: Path) -> None:
    """Images (N, C, H, W) in [-1, 1] as a picture or as numbers, by the ending of the path."""
    with written_whole(path) as beside:
        if path.suffix.lower() == ".png":
            from PIL import Image

            from zoo.pictures import image_grid

            Image.fromarray(image_grid(images)).save(beside)
        elif path.suffix.lower() == ".npy":
            import numpy as np

            content = io.BytesIO()  # given a file, numpy would hide why a write failed
            np.save(content, images.numpy())
            beside.write_bytes(content.getvalue())
        else:
            from safetensors.torch import save

            beside.write_bytes(save({"samples": images.contiguous()}))


class Progress:
    """A one-line progress bar on standard error; silent when that is not a terminal."""

    def __init__(self, num_samples: int, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        columns = TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Bar(*columns, console=console, transient=True, disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("sampling", total=num_samples * steps)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()  # also after a mistake or Ctrl-C: it gives the cursor back

    def advance(self, images: int) -> None:
        self._bar.advance(self._task, images)
