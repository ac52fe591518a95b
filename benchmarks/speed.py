"""A training step, a network evaluation and sampling: ours, diffusers and lucidrains, by default and each at its best.

    python -m benchmarks.diffusion speed [--sizes 8x8 32x32] [--threads 1 2] [--device cuda]

A training step is forward, backward, optimizer and EMA at batch 64; an evaluation is the network's prediction for 64
images; sampling is 64 images by DDIM, in 50 steps, but 10 above 8x8 on a CPU. All variants of one thread count take
turns in one process. Results are kept, so that an interrupted run resumes.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import (
    alternate,
    child,
    first_call,
    machine,
    milliseconds,
    peak_flops,
    ratios,
    read,
    seconds,
    table,
    write,
)
from benchmarks.peers import SIDES, SIZES, TINY, Setting, assert_equal_cost, build, quiet

WORKS = ("train", "evaluate", "sample")
PRECISIONS = ("fp32", "bf16")
DEFAULT = "defaults"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES, "tiny"], help="default: 8x8 32x32, on a GPU all")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=[*PRECISIONS], help="at their best")
    parser.add_argument("--eager", action="store_true", help="leave the compiled variants out")
    parser.add_argument(
        "--warm", action="store_true", help="reuse compiled code of earlier runs; compile times are then not real"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=Path("runs/bench/speed.json"))


def variants(side: str, precisions: list[str], eager: bool) -> dict[str, tuple[Setting, bool]]:
    """name -> (setting, whether at its best): the defaults, then precision x compilation, diffusers also in layout."""
    found = {DEFAULT: (Setting(), False)}
    for precision in precisions:
        for compiled in (False,) if eager else (False, True):
            for last in (False, True) if side == "diffusers" else (False,):
                setting = Setting(precision, compiled, last)
                found[str(setting)] = setting, True
    return found


def sampling_steps(size: str, device: str) -> int:
    return 10 if device == "cpu" and size != "8x8" else 50


def measure(
    size: str, sides: list[str], precisions: list[str], *, rounds: int, batch: int, eager: bool, device: str
) -> dict[str, Any]:
    """{work: {side: {variant: {times, compile_s}}}} of one size in this process."""
    shape = TINY if size == "tiny" else SIZES[size]
    images = torch.rand(batch, *shape.image_shape, device=device) * 2 - 1
    answer: dict[str, Any] = {}
    built = {
        (side, name): build(side, shape, setting, best=best, device=device, steps=sampling_steps(size, device))
        for side in sides
        for name, (setting, best) in variants(side, precisions, eager).items()
    }
    for work in WORKS:
        calls, compiling = {}, {}
        for key, side in built.items():
            calls[key] = {
                "train": lambda side=side: side.update(images),
                "evaluate": lambda side=side: side.evaluate(images),
                "sample": lambda side=side: side.draw(batch),
            }[work]
            compiling[key] = first_call(calls[key]) if side.setting.compiled else 0.0
        once = max(seconds(call) for call in calls.values())
        repeats = max(1, min(20, int(0.5 / once)))
        times = alternate({json.dumps(key): call for key, call in calls.items()}, rounds, repeats)
        answer[work] = {side: {} for side in sides}
        for (side_name, name), taken in compiling.items():
            values = times[json.dumps((side_name, name))]
            answer[work][side_name][name] = {"times": values, "compile_s": taken}
    return answer


def run(args: argparse.Namespace) -> None:
    print(machine(args.device))
    sizes = args.sizes or ([*SIZES] if args.device != "cpu" else ["8x8", "32x32"])
    threads = args.threads if args.device == "cpu" else args.threads[:1]
    results = read(args.results)
    peak = peak_flops(args.device) if args.device != "cpu" else 0.0
    for size in sizes:
        with quiet():
            costs = assert_equal_cost(TINY if size == "tiny" else SIZES[size], args.sides)
        table(f"{size}: networks", ("side", "parameters", "forward FLOPs"), [(s, *n) for s, n in costs.items()])
        for count in threads:
            key = _key(args, size, count)
            if key not in results or args.sides != list(results[key]["train"]):
                results[key] = _in_a_process(args, size, count)
                write(args.results, results)
            report(key, results[key], args.batch, sampling_steps(size, args.device), costs, peak)
        if len(threads) > 1:
            best_over_threads(size, [(c, results[_key(args, size, c)]) for c in threads])


def _key(args: argparse.Namespace, size: str, threads: int) -> str:
    return f"{size}, {args.device}, batch {args.batch}, {threads} threads"


def _in_a_process(args: argparse.Namespace, size: str, threads: int) -> Any:
    options = ["--sizes", size, "--device", args.device, "--rounds", str(args.rounds), "--batch", str(args.batch)]
    options += ["--eager"] * args.eager + ["--sides", *args.sides, "--precisions", *args.precisions]
    with tempfile.TemporaryDirectory() as cache:
        return child(["benchmarks.speed", *options], threads, None if args.warm else cache)


def report(
    title: str, result: dict[str, Any], batch: int, steps: int, costs: dict[str, tuple[int, int]], peak: float
) -> None:
    sampling = f"ms for {batch} images in {steps} steps"
    headings = {"train": ("ms a step", 3), "evaluate": ("ms", 1), "sample": (sampling, steps)}
    for work, (what, flops) in headings.items():  # a backward is counted as two forwards
        best = {side: _best(rows) for side, rows in result[work].items()}
        rows = []
        for side, entries in result[work].items():
            for name, entry in entries.items():
                reference = DEFAULT if name == DEFAULT else best["ours"]
                rate = batch / statistics.median(entry["times"])
                row = [side, name + " (best)" * (name == best[side]), milliseconds(entry["times"])]
                row += [ratios(entry["times"], result[work]["ours"][reference]["times"]) if "ours" in best else ""]
                row += [f"{entry['compile_s']:.0f}" if entry["compile_s"] else "", f"{rate:.0f}"]
                rows.append(row + ([f"{100 * flops * costs[side][1] * rate / peak:.1f} %"] if peak else []))
        header = ["side", "variant", what, "over ours (defaults: defaults; else: best)", "compile s", "images/s"]
        table(f"{title}: {work}", header + ["of the peak"] * bool(peak), rows)
    if peak:
        print(f"peak: {peak / 1e12:.0f} TFLOP/s in a bfloat16 product")


def best_over_threads(size: str, results: list[tuple[int, dict[str, Any]]]) -> None:
    """Each side at its best variant and thread count: medians of different processes."""
    rows = []
    for work in WORKS:
        medians = {
            side: min(
                (statistics.median(entry["times"]), name, count)
                for count, result in results
                for name, entry in result[work][side].items()
                if name != DEFAULT
            )
            for side in results[0][1][work]
        }
        for side, (value, name, count) in medians.items():
            ratio = f"{value / medians['ours'][0]:.2f}" if "ours" in medians else ""
            rows.append((work, side, f"{name}, {count} threads", f"{1e3 * value:.1f}", ratio))
    table(f"{size}: each side at its best", ("work", "side", "variant", "ms", "over ours"), rows)


def _best(entries: dict[str, Any]) -> str:
    return min((n for n in entries if n != DEFAULT), key=lambda name: statistics.median(entries[name]["times"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    args = parser.parse_args()
    torch.manual_seed(0)
    with quiet():
        result = measure(
            args.sizes[0],
            args.sides,
            args.precisions,
            rounds=args.rounds,
            batch=args.batch,
            eager=args.eager,
            device=args.device,
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
