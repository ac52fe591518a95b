"""Draw images or points from a model: a PNG to look at, or numbers as .npy, .safetensors or .csv (images in [-1, 1]).

A model of text prints what it writes: `sample transformer-sort --source 31415926`. --output sample.txt keeps it.

A conditional model draws what is asked for: `--labels 7`, or in turn `--labels 7 8`. Each model has options of its own,
which `sample MODEL --help` explains: a diffusion model its sampler, its steps and its guidance, a flow a temperature.
"""

import argparse
import inspect
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.table import class_of
from checkpoints.whole import written_whole
from commands.labels import classes, label
from commands.models import Turns, library_messages, option_values
from commands.numbers import write_numbers
from commands.options import KNOWN, add_device, add_speed, at_least, check_output, choose_device, speed_up
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from commands.known import Given

BATCH = 160  # images drawn at once: their feature maps still fit the caches of a CPU
POINTS = 10_000  # points drawn at once
ENDINGS = (".png", ".npy", ".safetensors", ".csv")
IMAGES = 64  # are drawn by default
BETWEEN = "\n" + 40 * "-" + "\n"  # two texts of several lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-samples", type=at_least(1), help=f"how many (default: {IMAGES}; of text one, or one a --source)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="the same seed draws the same samples")
    parser.add_argument(
        "--output",
        type=Path,
        help=f"a file: {', '.join(ENDINGS)}, of text .txt (default: samples.png; text is printed)",
    )
    parser.add_argument(
        "--labels",
        type=label,
        nargs="+",
        help="the classes to draw, in turn: 7, or of several label columns triangle,red 0,3 any,blue",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_device(parser)
    add_speed(parser)


def run(args: argparse.Namespace) -> int:
    writes = hasattr(class_of(args.described.model), "text")
    args.num_samples = args.num_samples or (len(args.own.get("source", [""])) if writes else IMAGES)
    if not writes:
        args.output = args.output or Path("samples.png")
    if args.output is not None:
        check_output(args.output, (".txt",) if writes else ENDINGS)

    from checkpoints.store import load

    device = choose_device(args.device)
    model: Any = load(args.described, device)
    if not writes:
        _check_ending(args.output, model.shape, args.model)
    classifier = None
    if "classifier" in args.own:
        classifier = args.own["classifier"] = _classifier(args.own["classifier"], device)
    hint = "name a --classifier, or leave them out" if "classifier" in option_values(args) else "leave them out"
    labels = classes(args, model, classifier, hint)
    given = _given(args, model)
    if args.compile and not hasattr(model, "network"):
        raise UserError(f"--compile has no meaning for {args.model!r}, which has no network of its own: leave it out")
    if hasattr(model, "network"):
        speed_up(model.network, device, args.precision, args.compile)
    steps = option_values(args).get("steps")
    steps = given.steps(steps) if given else steps
    calls = _Calls(model)
    start = time.perf_counter()
    with Progress(args.num_samples, steps or 1) as progress:
        samples = _draw(args, model, labels, given, calls, progress)
    seconds = time.perf_counter() - start
    if writes:
        return _write_texts(model.text(samples), args)
    columns = args.described.data.get("columns") or []  # names of a table
    write_samples(samples, args.output, ",".join(map(str, columns)))
    answer = {"output": str(args.output), "num_samples": args.num_samples, "seconds": round(seconds, 3)}
    answer |= calls.counted(args.num_samples)
    what = {3: "images", 1: "points"}.get(len(model.shape), "samples") + (f", {steps} steps each" if steps else "")
    print(json.dumps(answer) if args.json else f"wrote {args.output}: {args.num_samples} {what}, {seconds:.1f} s")
    return 0


def _draw(
    args: argparse.Namespace,
    model: Any,
    labels: "Tensor | None",
    given: "Given | None",
    calls: "_Calls",
    progress: "Progress",
) -> "Tensor":
    """The samples in batches, on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(args.seed)
    device = next(model.parameters()).device.type
    whole = args.precision == "bf16" and not hasattr(model, "network")
    batches = []
    for turn in torch.arange(args.num_samples).split(BATCH if len(model.shape) == 3 else POINTS):
        options = {name: _in_turn(value, turn) for name, value in args.own.items()}
        options |= given.arguments(turn) if given else {}
        if "on_step" in inspect.signature(args.method).parameters:
            options["on_step"] = lambda *_, count=len(turn): progress.advance(count)  # noqa: B008
        asked = None if labels is None else labels[turn % len(labels)]
        with library_messages(args), torch.autocast(device, torch.bfloat16, enabled=whole):
            drawn = model.sample(len(turn), labels=asked, generator=generator, **options)
        batches.append(drawn.to(torch.promote_types(drawn.dtype, torch.float32)).cpu())
        calls.end_of_batch()
    samples = torch.cat(batches)
    if not samples.isfinite().all():
        raise UserError(f"{args.model!r} draws numbers that are not finite: it diverged, or an option is extreme")
    return samples


def _given(args: argparse.Namespace, model: Any) -> "Given | None":
    """What files say of the images that are to be drawn."""
    if not {"repeats", *(name for options in KNOWN.values() for name in options)} & args.own.keys():
        return None
    from commands.known import read

    return read(args, model.shape)


def write_samples(samples: "Tensor", path: Path, header: str = "") -> None:
    """Images (N, C, H, W) in [-1, 1], or points (N, D), as a picture or numbers, by the ending of the path."""
    if path.suffix.lower() != ".png":
        write_numbers(path, samples, "samples", header)
    elif samples.ndim == 2:
        from commands.drawing.flows import write_scatter

        write_scatter(samples, path)
    else:
        from commands.numbers import write_pixels
        from zoo.pictures import image_grid

        write_pixels(path, image_grid(samples))


def _write_texts(texts: list[str], args: argparse.Namespace) -> int:
    """Prints texts or writes them into a file: one a line, or with a rule between them if one has several lines."""
    between = BETWEEN if any("\n" in text for text in texts) else "\n"
    if args.output is not None:
        with written_whole(args.output) as beside:
            beside.write_text(between.join(texts) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps({"output": args.output and str(args.output), "texts": texts}))
    else:
        print(between.join(texts) if args.output is None else f"wrote {args.output}: {len(texts)} texts")
    return 0


def _check_ending(path: Path, shape: tuple[int, ...], name: str) -> None:
    """Raises a UserError for a picture of what cannot be seen, or a table of what is no row of numbers."""
    ending = path.suffix.lower()
    if len(shape) == 1:
        what, fits = f"points of {shape[0]} columns", ending != ".png" or shape == (2,)
    else:
        what = f"images of {shape[0]} channels" if len(shape) == 3 else f"samples of shape {shape}"
        fits = ending != ".csv" and (ending != ".png" or (len(shape) == 3 and shape[0] in (1, 3)))
    if not fits:
        raise UserError(f"{name!r} draws {what}: use --output with .npy{' or .png' if ending == '.csv' else ''}")


def _classifier(name: str, device: str) -> Any:
    """The classifier of noised images of that name: one that takes the time too."""
    import checkpoints
    from checkpoints.catalogue import describe

    described = describe(checkpoints.find(name))
    classifier: Any = checkpoints.load(described, device)
    if described.task != "classifier" or "t" not in inspect.signature(classifier.forward).parameters:
        raise UserError(f"--classifier {name!r} is no classifier of noised images")
    return classifier


def _in_turn(value: Any, turn: "Tensor") -> Any:
    """The value of an option for these samples."""
    import torch

    return torch.tensor(value)[turn % len(value)] if isinstance(value, Turns) else value


class _Calls:
    """Counts evaluations of a network, and the samples in them.

    A model that draws without its `forward` says itself how many evaluations its latest pass took; else it is one.
    """

    def __init__(self, model: "nn.Module") -> None:
        self._model, self._batches = model, 0
        self.number = self.samples = 0
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.number += 1
        self.samples += len(next(iter([*inputs, *named.values()])))

    def end_of_batch(self) -> None:
        self._batches += getattr(self._model, "evaluations", 1)

    def counted(self, num_samples: int) -> dict[str, float]:
        """What the answer says of it."""
        if not self.number:
            return {"network_evaluations": self._batches}
        return {"network_evaluations": self.number, "evaluations_per_image": self.samples / num_samples}


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

    def advance(self, samples: int) -> None:
        self._bar.advance(self._task, samples)
