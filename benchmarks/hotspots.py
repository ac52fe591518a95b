"""Where our forward pass and our training step spend their time, operator by operator, by torch's profiler.

    python -m benchmarks.diffusion hotspots [--sizes 8x8] [--threads 1]

Types are read from operator names. Compiled code appears as its fused kernels, which are named after their contents.
"between operators" is wall time outside all operators: Python and dispatch.
"""

import argparse
import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.clock import machine, synchronise, table
from benchmarks.peers import SIZES, TINY, Setting, build

# an operator belongs to the first kind that has a word in its name
KINDS = {
    "optimizer": ("optimizer", "adam"),
    "EMA and other foreach": ("_foreach", "clamp"),
    "convolution, backward": ("convolution_backward",),
    "convolution, forward": ("mkldnn_convolution", "_convolution_pointwise", "cudnn_conv", "conv2d", "slow_conv"),
    "normalisation, backward": ("group_norm_backward",),
    "normalisation, forward": ("group_norm",),
    "attention": ("attention", "flash", "softmax", "bmm", "baddbmm"),
    "linear layers": ("addmm", "::mm", "linear"),
    "activations": ("silu", "sigmoid", "gelu"),
    "random numbers": ("bernoulli", "dropout", "randn", "normal_", "randint", "random_"),
    "copies and casts": ("copy_", "_to_copy", "aten::to", "contiguous", "clone", "reorder", "::cat", "upsample"),
    "fused kernels": ("cpp_fused", "graph_", "triton", "CompiledFunction", "Torch-Compiled"),
    "sums, products, fills": ("add", "mul", "sub", "sum", "mean", "pow", "fill_", "zero_", "sqrt", "div", "native_"),
}
REST = "other operators"
BETWEEN = "between operators"


def kind(name: str) -> str:
    return next((label for label, words in KINDS.items() if any(word in name for word in words)), REST)


def spent(work: Callable[[], object], calls: int = 10) -> Mapping[str, float]:
    """ms a call by kind; the whole, without the profiler, as "wall"."""
    for _ in range(3):
        work()
    synchronise()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    synchronise()
    wall = 1e3 * (time.perf_counter() - start) / calls
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    start = time.perf_counter()
    with profile(activities=activities) as trace:
        for _ in range(calls):
            work()
        synchronise()
        profiled = 1e3 * (time.perf_counter() - start) / calls
    times: Counter[str] = Counter()
    for event in trace.key_averages():
        on_device = getattr(event, "self_device_time_total", 0.0)
        times[kind(event.key)] += (on_device or event.self_cpu_time_total) / 1e3 / calls
    times[BETWEEN] = max(0.0, profiled - sum(times.values()))
    return {**times, "with the profiler": profiled, "wall": wall}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES, "tiny"], default=["8x8"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="leave the compiled variants out")
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--device", default="cpu")


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    print(machine(args.device))
    for name in args.sizes:
        size = TINY if name == "tiny" else SIZES[name]
        images = torch.rand(args.batch, *size.image_shape, device=args.device) * 2 - 1
        t = torch.full((args.batch,), 500, device=args.device)
        columns: dict[str, Mapping[str, float]] = {}
        for compiled in (False,) if args.eager else (False, True):
            for precision in ("fp32", "bf16"):
                setting = Setting(precision, compiled)
                side = build("ours", size, setting, best=False, device=args.device)
                columns[f"step, {setting}"] = spent(functools.partial(side.update, images), args.calls)
                side.network.eval()
                with torch.inference_mode():
                    columns[f"forward, {setting}"] = spent(functools.partial(side.network, images, t), args.calls)
        kinds = [*KINDS, REST, BETWEEN, "with the profiler", "wall"]
        rows = [(label, *(f"{column.get(label, 0):.2f}" for column in columns.values())) for label in kinds]
        table(f"{name}: ms a call, batch {args.batch}", ["kind", *columns], rows)
