"""Draw images or points from a model: a PNG to look at, or the numbers as .npy or .safetensors (images in [-1, 1]).

A model that was trained for it draws what is asked for: --labels 7, and --guidance-scale 2 to insist. An unconditional
model does so with the help of a --classifier. With classifier-free guidance at other scales than 0 and 1 one evaluation
of the network answers for both branches, as a batch of twice the size: `network_evaluations` counts it once,
`evaluations_per_image` twice.

A flow (nice, realnvp, glow, cnf) draws in one pass; --temperature scales its noise, and the options of steps and
guidance are not for it.
"""

import argparse
import io
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.catalogue import CONFIG, read_json
from checkpoints.locate import find
from checkpoints.whole import written_whole
from commands.labels import label, resolve
from commands.options import (
    add_device,
    add_speed,
    at_least,
    check_output,
    choose_device,
    number,
    positive,
    share,
    speed_up,
)
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.diffusion.model import ImageDiffusion

BATCH = 160  # images drawn at once: their feature maps still fit the caches of a CPU
# as in `zoo.diffusion`, which brings in PyTorch: too slow for --help
SAMPLERS = ("ddim", "ddpm", "heun", "dpm++2m", "dpm++2m-sde", "euler-maruyama", "predictor-corrector")
SPACINGS = ("trailing", "leading", "linspace", "quadratic", "karras")
# options of diffusion models alone, and their defaults
DIFFUSION = {
    "sampler": "ddim",
    "steps": 50,
    "eta": 0.0,
    "spacing": "trailing",
    "guidance_scale": None,
    "guidance_interval": None,
    "guidance_rescale": 0.0,
    "classifier": None,
    "compile": False,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a shipped name, or a model folder")
    parser.add_argument("--num-samples", type=at_least(1), default=64, help="how many images, or points")
    parser.add_argument("--seed", type=at_least(0), default=0, help="the same seed draws the same samples")
    parser.add_argument("--output", type=Path, default=Path("samples.png"), help="a .png, .npy or .safetensors file")
    parser.add_argument("--sampler", choices=SAMPLERS, default=DIFFUSION["sampler"], help="ddpm is ancestral sampling")
    parser.add_argument(
        "--steps",
        type=at_least(1),
        default=DIFFUSION["steps"],
        help="one network evaluation each; two for heun, predictor-corrector",
    )
    parser.add_argument("--eta", type=float, default=0.0, help="ddim: 0 deterministic ... 1 as noisy as ddpm")
    parser.add_argument(
        "--spacing", choices=SPACINGS, default="trailing", help="which steps a short run visits; karras for heun"
    )
    parser.add_argument(
        "--temperature", type=positive, default=1.0, help="flows: factor of the noise; below 1 is tamer"
    )
    parser.add_argument(
        "--labels",
        type=label,
        nargs="+",
        help="what to draw, in turn: 7, or for several columns triangle,red 0,3 any,blue",
    )
    parser.add_argument(
        "--guidance-scale",
        type=number,
        nargs="+",
        metavar="S",
        help="how strongly the label counts, in turn: 1 as learned (the default), 0 not at all, above 1 more",
    )
    parser.add_argument(
        "--guidance-interval",
        type=number,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide only where sigma / a, the noise level, is in between",
    )
    parser.add_argument(
        "--guidance-rescale", type=share, default=0.0, metavar="PHI", help="0 ... 1: keep guided images from glaring"
    )
    parser.add_argument(
        "--classifier", metavar="MODEL", help="a noisy classifier, which guides a model without labels of its own"
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_device(parser)
    add_speed(parser)


def run(args: argparse.Namespace) -> int:
    check_output(args.output, (".png", ".npy", ".safetensors"))
    for name in (args.model, args.classifier):  # a wrong name is told before PyTorch is imported
        if name is not None:
            find(name)

    import torch

    import checkpoints
    from zoo.diffusion.model import ImageDiffusion
    from zoo.flows.model import Flow

    device = choose_device(args.device)
    model = checkpoints.load(args.model, device)
    if isinstance(model, Flow):
        from commands.sample_flow import draw

        return draw(args, model, device)
    if not isinstance(model, ImageDiffusion):
        raise UserError(f"{args.model!r} does not draw images: its class is {type(model).__name__}")
    if args.temperature != 1:
        raise UserError(f"--temperature {args.temperature:g} has no meaning for {args.model!r}: it belongs to flows")
    if args.eta and args.sampler != "ddim":
        raise UserError(f"--eta {args.eta} has no meaning for --sampler {args.sampler}: it belongs to ddim")
    if args.output.suffix.lower() == ".png" and model.image_shape[0] not in (1, 3):
        raise UserError(f"{args.model!r} draws images of {model.image_shape[0]} channels: use --output with .npy")
    classifier = _classifier(args.classifier, device)
    check_guidance(args, model)
    classes = _classes(args, model, classifier)
    scales = torch.tensor(args.guidance_scale or [1.0])
    speed_up(model.network, device, args.precision, args.compile)
    calls = _Calls(model)

    generator = torch.Generator().manual_seed(args.seed)
    start = time.perf_counter()
    batches = []
    with Progress(args.num_samples, args.steps) as progress:
        for first in range(0, args.num_samples, BATCH):
            count = min(BATCH, args.num_samples - first)
            turn = torch.arange(first, first + count)
            images = model.sample(
                count,
                sampler=args.sampler,
                steps=args.steps,
                eta=args.eta,
                spacing=args.spacing,
                labels=None if classes is None else classes[turn % len(classes)],
                guidance_scale=scales[turn % len(scales)],
                guidance_interval=tuple(args.guidance_interval) if args.guidance_interval else None,
                guidance_rescale=args.guidance_rescale,
                classifier=classifier,
                generator=generator,
                on_step=lambda _t, _x, _x0, count=count: progress.advance(count),  # type: ignore[misc]
            )
            batches.append(images.cpu())
    seconds = time.perf_counter() - start
    write_samples(torch.cat(batches), args.output)
    counted = {"network_evaluations": calls.number, "evaluations_per_image": calls.images / args.num_samples}
    return tell(args, seconds, counted, f"images, {args.steps} steps each")


def tell(args: argparse.Namespace, seconds: float, counted: dict[str, float], what: str) -> int:
    """Prints the answer of a finished `sample`."""
    answer = {"output": str(args.output), "num_samples": args.num_samples, "seconds": round(seconds, 3)} | counted
    print(json.dumps(answer) if args.json else f"wrote {args.output}: {args.num_samples} {what}, {seconds:.1f} s")
    return 0


def check_guidance(args: argparse.Namespace, model: "ImageDiffusion") -> None:
    """Raises a UserError for guidance that has nothing to guide, or that would guide nothing."""
    if args.guidance_scale is not None:
        if args.classifier is None and model.null_labels is None:
            raise UserError(
                f"--guidance-scale has nothing to guide: {args.model!r} has no null label; name a --classifier"
            )
        if args.labels is None:
            raise UserError("--guidance-scale needs --labels: guidance is towards a class")
    for name in ("guidance_interval", "guidance_rescale"):
        option = "--" + name.replace("_", "-")
        if not getattr(args, name):
            continue
        if args.classifier is not None:
            raise UserError(f"{option} must not be given with --classifier: it belongs to classifier-free guidance")
        if not args.guidance_scale or set(args.guidance_scale) == {1.0}:
            raise UserError(f"{option} has no meaning without a --guidance-scale other than 1")
    if args.guidance_interval and not 0 <= args.guidance_interval[0] <= args.guidance_interval[1]:
        low, high = args.guidance_interval
        raise UserError(f"--guidance-interval must be two noise levels, the lower first, got {low} {high}")


def _classifier(name: str | None, device: str) -> Any:
    """The noisy classifier of that name."""
    if name is None:
        return None
    import checkpoints
    from zoo.diffusion.noisy_classifier import NoisyClassifier

    classifier = checkpoints.load(name, device)
    if not isinstance(classifier, NoisyClassifier):
        raise UserError(f"--classifier {name!r} does not read noised images: its class is {type(classifier).__name__}")
    return classifier


def _classes(args: argparse.Namespace, model: "ImageDiffusion", classifier: Any) -> "Tensor | None":
    """The labels to draw in turn, as numbers."""
    if args.labels is None:
        return None
    if classifier is not None:
        return resolve(args.labels, (classifier.num_classes,), null_label=False)
    if not model.num_classes:
        raise UserError(
            f"labels must not be given: this model is unconditional; leave --labels {args.labels[0][0]} out, or name a "
            "--classifier"
        )
    return resolve(args.labels, model.num_classes, model.null_labels is not None, _names(args.model, model.num_classes))


def _names(name: str, counts: tuple[int, ...]) -> tuple[tuple[str, ...], ...]:
    """The names of the classes, for the data whose classes have names."""
    from zoo.synthetic.shapes import COLOURS, SHAPES

    origin = read_json(find(name) / CONFIG).get("origin")
    data = origin.get("data", "shapes") if isinstance(origin, dict) else "shapes"
    return (SHAPES, COLOURS) if data == "shapes" and counts == (len(SHAPES), len(COLOURS)) else ()


class _Calls:
    """Counts the evaluations of a module, and the images in them."""

    def __init__(self, module: "nn.Module") -> None:
        self.number = self.images = 0
        module.register_forward_pre_hook(self._count)

    def _count(self, _module: Any, inputs: tuple[Any, ...]) -> None:
        self.number += 1
        self.images += len(inputs[0])


def write_samples(images: Any, path: Path) -> None:
    """Images (N, C, H, W) in [-1, 1], or points (N, D), as a picture or as numbers, by the ending of the path."""
    if path.suffix.lower() == ".png" and images.ndim == 2:
        from commands.drawing.flows import write_scatter

        return write_scatter(images, path)
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
