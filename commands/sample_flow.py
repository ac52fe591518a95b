"""`sample` for flows: points or images in one pass, and what the verbs about flows share."""

import argparse
import time
from typing import TYPE_CHECKING

import torch

from commands.labels import resolve
from commands.sample import BATCH, DIFFUSION, tell, write_samples
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.flows.model import Flow

POINTS = 10_000  # points drawn at once


def draw(args: argparse.Namespace, model: "Flow", device: str) -> int:
    """Points or images of a flow; an evaluation is a pass through its layers, or through a continuous one's field."""
    for name, default in DIFFUSION.items():
        if (given := getattr(args, name)) != default:
            option, value = "--" + name.replace("_", "-"), "" if given is True else f" {given}"
            raise UserError(f"{option}{value} has no meaning for {args.model!r}, a flow: leave it out")
    what = "images" if model.image_shape else "points"
    channels = model.image_shape[0] if model.image_shape else 0
    if args.output.suffix.lower() == ".png" and channels not in (1, 3) and model.shape != (2,):
        size = f"images of {channels} channels" if channels else f"points of {model.dims} columns"
        raise UserError(f"{args.model!r} draws {size}: use --output with .npy")
    classes = classes_of_flow(args, model)
    generator = torch.Generator().manual_seed(args.seed)
    batch = BATCH if model.image_shape else POINTS
    start = time.perf_counter()
    batches, evaluations = [], 0
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=args.precision == "bf16"):
        for first in range(0, args.num_samples, batch):
            turn = torch.arange(first, min(first + batch, args.num_samples))
            labels = None if classes is None else classes[turn % len(classes)]
            batches.append(
                model.sample(len(turn), labels=labels, generator=generator, temperature=args.temperature).float().cpu()
            )
            evaluations += passes(model)
    seconds = time.perf_counter() - start
    write_samples(torch.cat(batches), args.output)
    return tell(args, seconds, {"network_evaluations": evaluations}, what)


def passes(model: "Flow") -> int:
    """Evaluations of the latest pass: 1, or of a continuous flow as many as its solver took."""
    continuous = getattr(model, "cnf", None)
    return 1 if continuous is None else int(continuous.evaluations)


def classes_of_flow(args: argparse.Namespace, model: "Flow") -> "Tensor | None":
    """The labels of a conditional flow in turn, as numbers; all classes unless some are asked for."""
    if not model.num_classes:
        if args.labels is not None:
            raise UserError(f"--labels must not be given: {args.model!r} knows no classes")
        return None
    return torch.arange(model.num_classes) if args.labels is None else resolve(args.labels, (model.num_classes,), False)
