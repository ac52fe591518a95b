"""Log-probabilities of given points or images under a flow, in nats; without --input, a map of a density of the plane.

Points (.npy or .csv, a row each) get the logarithm of their density in the units of the file. Images (.npy, of shape
(N, C, H, W), in [-1, 1] on the model's grid of grey levels) get the logarithm of their probability, estimated from
below with --draws draws of the dequantising noise. All is computed in float32 or better, never in bfloat16.
"""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.locate import find
from checkpoints.whole import written_whole
from commands.labels import label
from commands.options import add_device, at_least, check_output, choose_device
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.flows.model import Flow

BATCH = {True: 100, False: 10_000}  # images, points at once
ENDINGS = (".npy", ".csv", ".safetensors", ".png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a shipped name, or a model folder")
    parser.add_argument("--input", type=Path, help="a .npy or .csv file, a point or an image a row")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("density.png"),
        help="a .npy, .csv or .safetensors file for the numbers; .png for a map, with the points of the input on it",
    )
    parser.add_argument(
        "--labels", type=label, nargs="+", help="of a conditional model: the classes of the rows, in turn"
    )
    parser.add_argument("--draws", type=at_least(1), default=32, help="images: draws of the noise behind each estimate")
    parser.add_argument("--seed", type=at_least(0), default=0, help="images: of that noise")
    parser.add_argument("--precision", choices=("fp32", "fp64", "bf16"), default="fp32", help="bf16 is refused")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    check_output(args.output, ENDINGS)
    picture = args.output.suffix.lower() == ".png"
    if args.precision == "bf16":
        raise UserError("--precision bf16 is for sampling: a likelihood needs fp32 or fp64")
    if args.input is None and not picture:
        raise UserError("--input is missing: name a .npy or .csv file, or an --output that ends in .png for a map")
    find(args.model)

    import checkpoints
    from datamodules.tables import check_rows, read_numbers
    from zoo.flows.model import Flow

    rows = None if args.input is None else read_numbers(args.input, "--input")
    model = checkpoints.load(args.model, choose_device(args.device))
    if not isinstance(model, Flow):
        raise UserError(f"{args.model!r} has no density: its class is {type(model).__name__}, no flow")
    if picture and model.shape != (2,):
        raise UserError(
            f"{args.model!r} is a density of {model.dims} dimensions, and a map has 2: use --output with .npy"
        )
    if args.precision == "fp64":
        model = model.double()
    answer: dict[str, Any] = {"output": str(args.output)}
    log_probs = None
    if rows is not None:
        check_rows(rows, model.shape, f"--input {str(args.input)!r}")
        log_probs = score(model, rows, args)
        answer |= summary(log_probs, model)
    if picture:
        draw_map(args, model, rows)
    else:
        assert log_probs is not None
        write_numbers(log_probs, args.output)
    if args.json:
        print(json.dumps(answer))
    else:
        found = [f"{answer['mean_nats']:.4f} nats in the mean of {len(rows)} rows"] if rows is not None else []
        found += [f"{answer['bits_per_dim']:.4f} bits/dim"] if answer.get("bits_per_dim") is not None else []
        print(", ".join([f"wrote {args.output}", *found]))
    return 0


def score(model: "Flow", rows: "Tensor", args: argparse.Namespace) -> "Tensor":
    """Log-densities of points, or estimates of the log-probabilities of images, (N,) float64 on the CPU."""
    import torch

    from commands.sample_flow import classes_of_flow

    classes = classes_of_flow(args, model) if args.labels is not None or not model.num_classes else None
    if model.num_classes and classes is None:
        raise UserError(f"--labels is missing: {args.model!r} is a density given the class")
    generator = torch.Generator().manual_seed(args.seed)
    found = []
    with torch.inference_mode():
        for rank in torch.arange(len(rows)).split(BATCH[bool(model.levels)]):
            part = rows[rank].to(model.like)
            labels = None if classes is None else classes[rank % len(classes)]
            if model.levels:
                found.append(model.log_likelihood(part, labels=labels, generator=generator, draws=args.draws))
            else:
                found.append(model.log_prob(part, labels))
    return torch.cat(found).double().cpu()


def summary(log_probs: "Tensor", model: "Flow") -> dict[str, float | None]:
    """The mean in nats with its standard error, and of images in bits per dimension."""
    mean = log_probs.mean().item()
    error = log_probs.std().item() / math.sqrt(len(log_probs)) if len(log_probs) > 1 else None
    bits = -mean / (model.dims * math.log(2)) if model.levels else None
    return {"mean_nats": mean, "standard_error": error, "bits_per_dim": bits}


def draw_map(args: argparse.Namespace, model: "Flow", rows: "Tensor | None") -> None:
    """The density over a box about samples of the model, and about the given points."""
    import torch

    from commands.drawing.flows import around, in_batches, write_map
    from commands.sample_flow import classes_of_flow

    classes = classes_of_flow(args, model)
    if classes is not None and (args.labels is None or len(classes) > 1):
        raise UserError(f"--labels: a map is of one class, and {args.model!r} knows {model.num_classes}: name it")
    labels = None if classes is None else classes.expand(2000)
    seen = model.sample(2000, labels=labels, generator=torch.Generator().manual_seed(0)).float().cpu()
    box = around(seen if rows is None else torch.cat([seen, rows]))
    points = torch.empty(0, 2) if rows is None else rows
    write_map(args.output, str(args.model), in_batches(model, classes), box, points)


def write_numbers(log_probs: "Tensor", path: Path) -> None:
    """One number a row: .csv with a line of names, .npy, or .safetensors as "log_prob"."""
    with written_whole(path) as beside:
        if path.suffix.lower() == ".csv":
            beside.write_text("log_prob_nats\n" + "".join(f"{value!r}\n" for value in log_probs.tolist()))
        elif path.suffix.lower() == ".npy":
            import numpy as np

            with beside.open("wb") as file:
                np.lib.format.write_array(file, log_probs.numpy())
        else:
            from safetensors.torch import save

            beside.write_bytes(save({"log_prob": log_probs}))
