"""Time and memory of our training step by batch, image size and network size; writes a plot.

    python -m benchmarks.diffusion scaling [--output docs/scaling.png] [--device cuda]

Each point is a process of its own. Memory is the growth of its peak since before the first step.
"""

import argparse
import json
import resource
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import child, machine, seconds, table
from benchmarks.peers import Setting, Size, build

BATCHES, SIDES, WIDTHS = (8, 16, 32, 64, 128, 256), (8, 16, 32, 64), (16, 32, 64, 128)
POINT = {"batch": 32, "side": 16, "channels": 32}  # the values of the others while one varies
AXES = {
    "batch": ("images a batch", BATCHES),
    "side": ("image side, pixels", SIDES),
    "channels": ("channels of the first level", WIDTHS),
}


def measure(batch: int, side: int, channels: int, device: str, precision: str, steps: int = 5) -> dict[str, float]:
    """ms a step, MiB of peak memory, parameters."""
    size = Size((3, side, side), channels, (1, 2), 1, (1,), {})
    ours = build("ours", size, Setting(precision), device=device)
    images = torch.rand(batch, 3, side, side, device=device) * 2 - 1
    before = _peak(device)
    seconds(lambda: ours.update(images), 2)
    times = [seconds(lambda: ours.update(images)) for _ in range(steps)]
    weights = sum(weight.numel() for weight in ours.weights)
    return {"ms": 1e3 * statistics.median(times), "mib": _peak(device) - before, "parameters": weights}


def _peak(device: str) -> float:
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--output", type=Path, default=Path("docs/scaling.png"))


def run(args: argparse.Namespace) -> None:
    print(machine(args.device))
    results: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for axis, (label, values) in AXES.items():
        results[axis] = []
        for value in values:
            point = POINT | {axis: value}
            options = [str(item) for name in point for item in (f"--{name}", point[name])]
            options += ["--device", args.device, "--precision", args.precision]
            results[axis].append((value, child(["benchmarks.scaling", *options], args.threads)))
        rows = [(v, f"{p['ms']:.1f}", f"{p['mib']:.0f}", f"{p['parameters'] / 1e6:.2f} M") for v, p in results[axis]]
        table(label, (label, "ms a step", "MiB", "parameters"), rows)
    plot(results, args.output, f"{args.precision}, {args.device}, {args.threads} threads")
    print(f"wrote {args.output}")


def plot(results: dict[str, list[tuple[int, dict[str, float]]]], path: Path, conditions: str) -> None:
    """A row of panels for time and one for memory, a column for each axis; both scales logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    panels: Any = figure.subplots(2, len(results), sharex="col", sharey="row")
    for column, (axis, points) in enumerate(results.items()):
        x = [value for value, _ in points]
        rest = ", ".join(f"{name} {value}" for name, value in POINT.items() if name != axis)
        for row, (key, label, colour) in enumerate((("ms", "ms a step", "C0"), ("mib", "MiB of memory", "C1"))):
            panel = panels[row][column]
            panel.loglog(x, [max(point[key], 0.1) for _, point in points], "o-", color=colour)
            panel.grid(True, which="major", alpha=0.3)
            panel.set_xticks(x)
            panel.xaxis.set_major_formatter(ScalarFormatter())
            panel.xaxis.set_minor_formatter(NullFormatter())
            if column == 0:
                panel.set_ylabel(label)
            if row == 0:
                panel.set_title(rest, fontsize=9)
            else:
                panel.set_xlabel(AXES[axis][0])
    figure.suptitle(f"Cost of a training step ({conditions})", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in POINT.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    print(json.dumps(measure(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
