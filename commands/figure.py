"""Draw what a model does.

steps          samplers against their number of steps, by the FID of what they draw
guidance       the scale of guidance against the label that is read, FID, precision and recall
denoising      one line a sample: x_t on its way down, and below it the network's estimate of x_0
interpolation  images between two latents, along the arc that joins them
inversion      real images, and what DDIM makes of their latents with 10 to 200 steps
flow           of a flow: a GIF of noise on its way to the data, or of images as their noise grows

The first two measure (minutes; the numbers with --json), on digits; the others take seconds. All but the last are of
diffusion models.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.locate import find
from checkpoints.whole import written_whole
from commands.options import add_device, add_speed, at_least, check_output, choose_device, speed_up
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from commands.measures.judge import Judge
    from zoo.flows.model import Flow

STEPS = (5, 10, 20, 50, 100, 1000)
SWEPT = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # scales of guidance
LINES = {  # sampler -> its spacing
    "ddpm": "trailing",
    "ddim": "trailing",
    "heun": "karras",
    "dpm++2m": "trailing",
    "dpm++2m-sde": "trailing",
}
INVERTED = (10, 50, 200)
Numbers = list[dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=sorted([*KINDS, "flow"]), help="what to draw")
    parser.add_argument("model", metavar="MODEL", help="a shipped name, or a model folder")
    parser.add_argument("--output", type=Path, default=Path("figure.png"), help="a .png file; a .gif of a flow")
    parser.add_argument("--draws", type=at_least(1), default=4, help="sets of samples behind each point")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the latents")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    add_device(parser)
    add_speed(parser)


def run(args: argparse.Namespace) -> int:
    check_output(args.output, (".gif",) if args.kind == "flow" else (".png",))
    find(args.model)

    import checkpoints
    from zoo.diffusion.model import ImageDiffusion
    from zoo.flows.model import Flow

    device = choose_device(args.device)
    model: Any = checkpoints.load(args.model, device)
    if (args.kind == "flow") != isinstance(model, Flow):
        kinds = "only the figure 'flow'" if isinstance(model, Flow) else "any figure but 'flow'"
        raise UserError(f"{args.model!r} is a {type(model).__name__}, of which there is {kinds}")
    if isinstance(model, Flow):
        if args.precision != "fp32" or args.compile:
            raise UserError("--precision bf16 and --compile have no meaning for the figure 'flow': leave them out")
        return draw_flow(model, args)
    if not isinstance(model, ImageDiffusion):
        raise UserError(f"{args.model!r} draws nothing: its class is {type(model).__name__}")
    if model.num_classes and model.null_labels is None:
        raise UserError(f"{args.model!r} needs labels: a figure is of a model that can do without")
    speed_up(model.network, device, args.precision, args.compile)
    numbers = KINDS[args.kind](model, args)
    if args.json:
        print(json.dumps({"output": str(args.output), "points": numbers}, indent=2))
    else:
        print(f"wrote {args.output}")
    return 0


def draw_flow(model: "Flow", args: argparse.Namespace) -> int:
    """The animation of a flow's card."""
    from commands.drawing.flows import write_animation

    if not model.image_shape and model.dims != 2:
        raise UserError(f"{args.model!r} is a density of {model.dims} dimensions: this figure is for 2, and for images")
    write_animation(args.output, model, args.seed)
    print(json.dumps({"output": str(args.output), "points": []}) if args.json else f"wrote {args.output}")
    return 0


def draw_steps(model: Any, args: argparse.Namespace) -> Numbers:
    """Each sampler at each number of steps; FID over that of training images."""
    from commands.measures.common import Measurement, draw_samples, say

    judge = _judge(model, args)
    last = model.process.num_timesteps
    numbers: Numbers = []
    for sampler, spacing in LINES.items():
        for steps in STEPS:
            # beyond 100, the fast ones have nothing left to gain
            if steps > last or (steps > 100 and sampler not in ("ddpm", "ddim")):
                continue
            found = []
            for draw in range(args.draws):
                say(f"{sampler}, {steps} steps: draw {draw + 1} of {args.draws}")
                options: dict[str, Any] = {"sampler": sampler, "steps": steps, "spacing": spacing}
                found.append(judge(draw_samples(model, len(judge.test), args.seed + draw, **options)).fid)
            ratio = Measurement.of(found, "", 1 / judge.base)
            cost = 2 * steps - 1 if sampler == "heun" else steps
            point = {"sampler": sampler, "steps": steps, "network_evaluations": cost}
            numbers.append(point | {"fid_ratio": ratio.value, "standard_error": ratio.spread / ratio.size**0.5})

    def plot(axes: Any) -> None:
        for sampler in LINES:
            line = [point for point in numbers if point["sampler"] == sampler]
            cost, height = ([point[key] for point in line] for key in ("network_evaluations", "fid_ratio"))
            errors = [point["standard_error"] for point in line]
            axes.errorbar(cost, height, yerr=errors, label=sampler, marker="o", markersize=4, capsize=2)
        axes.axhline(1, color="0.6", linewidth=1, linestyle=":")
        axes.set(xscale="log", yscale="log", xlabel="network evaluations a sample", ylabel="FID over training images'")
        axes.legend(frameon=False)

    _plot(args.output, plot, f"{args.model}: {len(judge.test)} samples, {args.draws} draws")
    return numbers


def draw_guidance(model: Any, args: argparse.Namespace) -> Numbers:
    """Each scale: the label that the judge reads, FID, precision, recall."""
    from commands.measures.common import draw_samples, mean, say

    if not model.num_classes:
        raise UserError(f"{args.model!r} knows no labels, so nothing can guide it: take cfg-digits")
    judge = _judge(model, args)
    numbers: Numbers = []
    for scale in SWEPT:
        found = []
        for draw in range(args.draws):
            say(f"guidance scale {scale:g}: draw {draw + 1} of {args.draws}")
            options: dict[str, Any] = {"labels": judge.labels, "guidance_scale": scale}
            found.append(judge(draw_samples(model, len(judge.test), args.seed + draw, **options), judge.labels))
        point = {"guidance_scale": scale, "asked_label": mean([mean(scores.read) for scores in found])}
        point["fid_ratio"] = mean([scores.fid for scores in found]) / judge.base
        point |= {name: mean([getattr(scores, name) for scores in found]) for name in ("precision", "recall")}
        numbers.append(point)

    def plot(axes: Any) -> None:
        scales = [point["guidance_scale"] for point in numbers]
        for name, text in (("asked_label", "asked label read"), ("precision", "precision"), ("recall", "recall")):
            axes.plot(scales, [point[name] for point in numbers], marker="o", markersize=4, label=text)
        axes.set(xlabel="guidance scale (0 unconditional, 1 conditional)", ylabel="share of samples", ylim=(0, 1.05))
        beside = axes.twinx()
        ratios = [point["fid_ratio"] for point in numbers]
        beside.plot(scales, ratios, marker="s", markersize=4, color="0.4", linestyle="--", label="FID (right)")
        beside.set(ylabel="FID over training images'", ylim=(0, None))
        lines = [*axes.get_lines(), *beside.get_lines()]
        axes.legend(lines, [line.get_label() for line in lines], frameon=False, loc="lower right")

    _plot(args.output, plot, f"{args.model}: {len(judge.test)} samples a scale, {args.draws} draws, 50 DDIM steps")
    return numbers


def draw_denoising(model: Any, args: argparse.Namespace) -> Numbers:
    """x_t and the estimate of x_0 at ten times of a DDIM run."""
    import torch

    steps = min(50, model.process.num_timesteps)
    noisy = [_latents(model, 4, args.seed)]
    clean: list[Tensor] = []

    def watch(t: int, x: "Tensor", x0: "Tensor") -> None:
        noisy.append(x)
        clean.append(x0)

    labels = model.labels_in_turn(torch.arange(4))
    model.sample(4, labels=labels, steps=steps, noise=noisy[0], on_step=watch)
    shown = [round(i * (steps - 1) / 8) for i in range(9)]
    lines = [torch.stack([*(run[i] for i in shown), noisy[-1]], dim=1).cpu() for run in (noisy, clean)]
    _grid(args.output, torch.stack(lines, dim=1).flatten(0, 2), columns=10)
    return []


def draw_interpolation(model: Any, args: argparse.Namespace) -> Numbers:
    """Six pairs of latents, nine images along the arc of each."""
    import torch

    from zoo.diffusion.samplers import slerp

    left, right = _latents(model, 12, args.seed).split(6)
    latents = torch.stack([slerp(left, right, i / 8) for i in range(9)], dim=1).flatten(0, 1)
    labels = model.labels_in_turn(torch.arange(6))
    labels = None if labels is None else labels.repeat_interleave(9, dim=0)  # one class a line
    steps = min(50, model.process.num_timesteps)
    _grid(args.output, model.sample(54, steps=steps, noise=latents, labels=labels).cpu(), columns=9)
    return []


def draw_inversion(model: Any, args: argparse.Namespace) -> Numbers:
    """Ten test images, and their round trips: a line for each number of steps."""
    import torch

    from zoo.diffusion.samplers import ddim, ddim_invert
    from zoo.diffusion.schedules import timesteps

    data = _data(model, args.model)
    process, device = model.process, next(model.parameters()).device
    images = data.images("test")[:10].to(device)
    denoise = model.denoiser(data.labels("test")[:10].to(device) if model.num_classes else None, clip=False)
    lines, numbers = [images.cpu()], []
    with torch.inference_mode():
        for steps in [steps for steps in INVERTED if steps <= process.num_timesteps]:
            times = timesteps(process.num_timesteps, steps)
            back = ddim(denoise, process, ddim_invert(denoise, process, images, times), times)
            lines.append(back.cpu())
            numbers.append({"steps": steps, "mean_squared_error": (back - images).square().mean().item()})
    _grid(args.output, torch.cat(lines), columns=10)
    return numbers


KINDS: dict[str, Callable[[Any, argparse.Namespace], Numbers]] = {
    "steps": draw_steps,
    "guidance": draw_guidance,
    "denoising": draw_denoising,
    "interpolation": draw_interpolation,
    "inversion": draw_inversion,
}


def _latents(model: Any, count: int, seed: int) -> "Tensor":
    import torch

    latents = torch.randn((count, *model.image_shape), generator=torch.Generator().manual_seed(seed))
    return latents.to(next(model.parameters()).device)


def _data(model: Any, name: str) -> Any:
    """The data that fits a model's images."""
    from datamodules import Digits, Shapes

    for kind in (Digits, Shapes):
        if tuple(model.image_shape) == kind.image_shape:
            return kind()
    raise UserError(f"{name!r} draws images of {tuple(model.image_shape)}: this figure is for digits and shapes")


def _judge(model: Any, args: argparse.Namespace) -> "Judge":
    from commands.measures.judge import Judge
    from datamodules import Digits

    data = _data(model, args.model)
    if not isinstance(data, Digits):
        raise UserError(f"{args.model!r} is not of digits, for which alone there is a judge")
    return Judge(data)


def _grid(path: Path, images: "Tensor", columns: int) -> None:
    from PIL import Image

    from zoo.pictures import image_grid

    with written_whole(path) as beside:
        Image.fromarray(image_grid(images, columns, scale=max(1, 64 // images.shape[-1]))).save(beside)


def _plot(path: Path, plot: Callable[[Any], None], title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    plot(axes)
    axes.spines[["top"]].set_visible(False)
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=120)
