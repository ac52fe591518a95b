"""Log-probabilities of points or images under a model, in nats; without --input, a map of a density of the plane.

Points (.npy or .csv, a row each) get the logarithm of their density in the units of the file. Images (.npy, of shape
(N, C, H, W), in [-1, 1] on the grid of grey levels of the model's data) get the logarithm of their probability, or a
lower bound of it: `density MODEL --help` says which, and explains the options of that model. All is computed in float32
or better, never in bfloat16.
"""

import argparse
import inspect
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.labels import classes, label
from commands.models import library_messages
from commands.numbers import write_numbers
from commands.options import add_device, at_least, check_output, choose_device
from zoo.errors import RowError, UserError

if TYPE_CHECKING:
    from torch import Tensor

IMAGES, POINTS = 100, 10_000  # scored at once
ENDINGS = (".npy", ".csv", ".safetensors", ".png")
SEEN = 2000  # samples that decide how far a map reaches


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the noise, where the likelihood is an estimate")
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

    from checkpoints.store import load
    from datamodules.tables import check_rows, in_order, read_table

    rows, names = (None, ()) if args.input is None else read_table(args.input, "--input")
    model: Any = load(args.described, choose_device(args.device))
    if picture and model.shape != (2,):
        dims = math.prod(model.shape)
        raise UserError(f"{args.model!r} is a density of {dims} dimensions, and a map has 2: use --output with .npy")
    if args.precision == "fp64":
        model = model.double()
    answer: dict[str, Any] = {"output": str(args.output)}
    if rows is not None:
        what = f"--input {str(args.input)!r}"
        rows, note = in_order(rows, names, args.described.data.get("columns", ()), what)
        if note:
            print(note, file=sys.stderr)
        check_rows(rows, model.shape, what)
        # a density of points centres its columns before it rounds them to its own precision
        rows = rows if len(model.shape) == 1 else rows.to(next(model.parameters()))
        log_probs = score(model, rows, args)
        answer |= summary(log_probs, model.shape)
        if not picture:
            write_numbers(args.output, log_probs, "log_prob", "log_prob_nats")
    if picture:
        draw_map(args, model, rows)
    if args.json:
        print(json.dumps(answer, allow_nan=False))
    else:
        print(", ".join([f"wrote {args.output}", *in_words(answer, 0 if rows is None else len(rows))]))
    return 0


def score(model: Any, rows: "Tensor", args: argparse.Namespace) -> "Tensor":
    """Log-likelihoods of rows (N, *shape), (N,) float64 on the CPU.

    Raises:
        UserError: if labels are missing, a row is not of the model's data, or one has no likelihood (NaN), naming it.
    """
    import torch

    asked = classes(args, model)
    if args.labels is None and asked is not None:
        raise UserError(f"--labels is missing: {args.model!r} is a density given the class")
    options = dict(args.own)
    if "levels" in inspect.signature(args.method).parameters:
        options["levels"] = args.described.data.get("levels", 0)
    generator, like = torch.Generator().manual_seed(args.seed), next(model.parameters())
    found = []
    with torch.inference_mode(), library_messages(args):
        for rank in torch.arange(len(rows)).split(IMAGES if len(model.shape) == 3 else POINTS):
            labels = None if asked is None else asked[rank % len(asked)].to(like.device)
            try:
                part = model.log_likelihood(rows[rank].to(like.device), labels=labels, generator=generator, **options)
            except RowError as error:
                raise error.after(int(rank[0])) from None
            found.append(part)
    log_probs = torch.cat(found).double().cpu()
    if log_probs.isnan().any():
        row = int(log_probs.isnan().nonzero()[0]) + 1
        raise UserError(f"{args.model!r} gives row {row} (counted from 1) no number: its weights are damaged")
    return log_probs


def summary(log_probs: "Tensor", shape: tuple[int, ...]) -> dict[str, float | int | None]:
    """The mean in nats with its standard error, of images in bits per dimension too; None for what is not finite."""
    mean = log_probs.mean().item()
    error = log_probs.std().item() / math.sqrt(len(log_probs)) if len(log_probs) > 1 else math.nan
    bits = -mean / (math.prod(shape) * math.log(2)) if len(shape) == 3 else math.nan
    numbers = {"mean_nats": mean, "standard_error": error, "bits_per_dim": bits}
    impossible = int(log_probs.isinf().sum())
    return {key: value if math.isfinite(value) else None for key, value in numbers.items()} | (
        {"impossible_rows": impossible} if impossible else {}
    )


def in_words(answer: dict[str, Any], rows: int) -> list[str]:
    """What `summary` found, as people read it."""
    found = []
    if answer.get("mean_nats") is not None:
        found.append(f"{answer['mean_nats']:.4f} nats in the mean of {rows} rows")
    if answer.get("bits_per_dim") is not None:
        found.append(f"{answer['bits_per_dim']:.4f} bits/dim")
    if "impossible_rows" in answer:
        found.append(f"{answer['impossible_rows']} of {rows} rows have probability 0")
    return found


def draw_map(args: argparse.Namespace, model: Any, rows: "Tensor | None") -> None:
    """The density over a box about samples of the model, and about the given points."""
    import torch

    from commands.drawing.flows import around, in_batches, write_map

    asked = classes(args, model)
    if asked is not None and (args.labels is None or len(asked) > 1):
        raise UserError(f"--labels: a map is of one class, and {args.model!r} has {math.prod(model.labels)}: name it")
    labels = None if asked is None else asked.expand(SEEN, *asked.shape[1:])
    seen = model.sample(SEEN, labels=labels, generator=torch.Generator().manual_seed(0)).float().cpu()
    box = around(seen if rows is None else torch.cat([seen, rows.float()]))
    points = torch.empty(0, 2) if rows is None else rows
    with library_messages(args):
        write_map(args.output, str(args.model), in_batches(model, asked, **args.own), box, points)
