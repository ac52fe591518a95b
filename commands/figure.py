"""Draw what a model does.

steps          samplers against their number of steps, by the FID of what they draw
guidance       the scale of guidance against the label that is read, FID, precision and recall
denoising      two rows a sample: x_t on its way down, and below it the network's estimate of x_0
interpolation  images between two latents, along the arc that joins them
traversal      what each latent of a VAE does to an image, and how many nats it carries
inversion      real images, and what DDIM makes of their latents with 10 to 200 steps
completion     real images, their upper halves, and samples that keep these; of a diffusion model also colours for greys
forecast       of a series: quantiles of samples given the past, beside what was observed
flow           a GIF of noise on its way to the data, or of a flow's images as their noise grows
values         a GIF of the values and greedy actions of a table in a grid world as it learns again; its end as a PNG
payoff           takes no MODEL, two minutes: what methods of value decomposition make of a game that defeats some
policy-gradient  takes no MODEL: bias and variance of estimators of the policy gradient on a process where it is known
value-learning   takes no MODEL: what double estimators, dueling, prioritised replay and potentials are for

Which of these there are depends on what the model can do; a wrong one is refused with the right ones. The first two
measure (minutes; the numbers with --json), on data that a shipped classifier reads, as digits; the others take seconds.
"""

import argparse
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoints.catalogue import describe
from checkpoints.locate import find
from commands.labels import has_null_label
from commands.models import MODEL, require
from commands.options import add_device, add_speed, at_least, check_output, choose_device, speed_up
from zoo.errors import UserError

Numbers = list[dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=sorted((*KINDS, *WITHOUT_MODEL)), help="what to draw")
    parser.add_argument("model", **MODEL, nargs="?")
    parser.add_argument("--output", type=Path, help="figure.png by default, figure.gif of a flow and of values")
    parser.add_argument("--draws", type=at_least(1), default=4, help="sets of samples behind each measured point")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the latents")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    add_device(parser)
    add_speed(parser)


def run(args: argparse.Namespace) -> int:
    endings = {"flow": (".gif",), "values": (".gif", ".png")}.get(args.kind, (".png",))
    args.output = args.output or Path("figure").with_suffix(endings[0])
    check_output(args.output, endings)
    if (args.kind in WITHOUT_MODEL) != (args.model is None):
        raise UserError(
            f"figure {args.kind} {'needs a MODEL' if args.model is None else 'takes no MODEL: leave it out'}"
        )
    if args.kind in WITHOUT_MODEL:
        return _say(args, _draw_without_model(args))
    args.described = describe(find(args.model))
    require(args.described, "figure", args.model)

    from checkpoints.store import load

    device = choose_device(args.device)
    model: Any = load(args.described, device)
    able = [kind for kind, can in KINDS.items() if can(model)]
    if args.kind not in able:
        raise UserError(f"{args.model!r} has no figure {args.kind!r}; it has {', '.join(able) or 'none'}")
    if hasattr(model, "network"):
        speed_up(model.network, device, args.precision, args.compile)
    elif args.precision != "fp32" or args.compile:
        raise UserError(f"--precision bf16 and --compile have no meaning for {args.model!r}: leave them out")
    return _say(args, _draw(args, model))


def _say(args: argparse.Namespace, numbers: Numbers) -> int:
    if args.json:
        print(json.dumps({"output": str(args.output), "points": numbers}, indent=2))
    else:
        print(f"wrote {args.output}")
    return 0


def _draw_without_model(args: argparse.Namespace) -> Numbers:
    if args.kind == "policy-gradient":
        from commands.drawing.gradients import write_gradients

        return write_gradients(args.output, args.draws, args.seed)
    if args.kind == "payoff":
        from commands.drawing.payoffs import write_payoffs

        return write_payoffs(args.output, args.draws, args.seed)
    from commands.drawing.lessons import write_lessons

    return write_lessons(args.output, args.draws, args.seed)


def _draw(args: argparse.Namespace, model: Any) -> Numbers:
    if args.kind == "flow":
        from commands.drawing.flows import write_animation

        write_animation(args.output, model, args.seed)
        return []
    if args.kind == "values":
        from commands.drawing.values import write_values

        return write_values(args.output, model, args.described)
    if args.kind == "forecast":
        from commands.drawing.forecast import write_forecast

        return write_forecast(args.output, model, args.described)
    if args.kind in ("steps", "guidance"):
        from commands.drawing import sweeps

        return sweeps.steps(model, args) if args.kind == "steps" else sweeps.guidance(model, args)
    from commands.drawing import latents

    drawn: Callable[[Any, argparse.Namespace], Numbers] = getattr(latents, args.kind)
    return drawn(model, args)


def _draws_images(model: Any) -> bool:
    return hasattr(model, "sample") and len(model.shape) == 3 and model.shape[0] in (1, 3) and model.shape[2] > 1


def _takes(model: Any, *names: str) -> bool:
    """Whether the model's `sample` has parameters of these names."""
    return hasattr(model, "sample") and {*names} <= inspect.signature(model.sample).parameters.keys()


def _keeps_rows(model: Any) -> bool:
    """Whether the model continues an image from its upper rows: of one order, which these come first in."""
    return _takes(model, "prefix") and model.orders == 1


WITHOUT_MODEL = ("payoff", "policy-gradient", "value-learning")
# kind -> whether a model can be drawn so
KINDS: dict[str, Callable[[Any], bool]] = {
    "steps": lambda model: _draws_images(model) and _takes(model, "sampler", "steps"),
    "guidance": lambda model: _draws_images(model) and _takes(model, "guidance_scale") and has_null_label(model),
    "denoising": lambda model: _draws_images(model) and _takes(model, "noise", "steps", "on_step"),
    "interpolation": lambda model: _draws_images(model) and _takes(model, "noise"),
    "traversal": lambda model: hasattr(model, "encode") and hasattr(model, "mean_image"),
    "inversion": lambda model: _draws_images(model) and hasattr(model, "denoiser"),
    "completion": lambda model: _draws_images(model) and (_takes(model, "known", "steps") or _keeps_rows(model)),
    "forecast": lambda model: _takes(model, "prefix") and model.shape[::2] == (1, 1),
    "flow": lambda model: (
        (hasattr(model, "path") and model.shape == (2,))
        or (_draws_images(model) and (_takes(model, "temperature") or _takes(model, "steps", "on_step")))
    ),
    "values": lambda model: hasattr(model, "state_values"),
}
