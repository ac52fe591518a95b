"""Coupling flows of ours, zuko, nflows and normflows: log_prob, training step, sample; and our cost by size.

    python -m benchmarks.flows speed [--depths 1 2] [--threads 1 2]
    python -m benchmarks.flows scaling [--output docs/flows-scaling.png]

The flows of `speed` are equal: 8 affine couplings of halves of 64 dimensions, perceptrons 128 wide, batch 512.
Parameters and FLOPs are counted and compared. A training step is forward, backward and a fused AdamW. All variants take
turns in one process for each thread count. "compiled" is torch.compile of log_prob and of sample, where a library's
code can be compiled.
"""

import argparse
import json
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clock import alternate, child, first_call, machine, milliseconds, ratios, seconds, table
from zoo.flows.builders import realnvp

DIMS, LAYERS, WIDTH, BATCH = 64, 8, 128, 512
WORKS = ("train", "log_prob", "sample")
VARIANTS = ("eager", "compiled")
SCALES = {"dims": ("numbers in a point", (2, 8, 32, 128, 512)), "layers": ("couplings", (2, 4, 8, 16, 32, 64))}


class Side(NamedTuple):
    """A flow and its two calls."""

    flow: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], Tensor]


def ours(dims: int = DIMS, layers: int = LAYERS, depth: int = 2, coupling: str = "affine") -> Side:
    flow = realnvp((dims,), couplings=layers, hidden=WIDTH, depth=depth, coupling=coupling)
    return Side(flow, flow.log_prob, flow.sample)


def of_zuko(depth: int) -> Side:
    import zuko

    flow = zuko.flows.RealNVP(DIMS, transforms=LAYERS, hidden_features=[WIDTH] * depth)
    return Side(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def of_nflows(depth: int) -> Side:
    from nflows.distributions.normal import StandardNormal
    from nflows.flows import Flow
    from nflows.nn.nets import MLP
    from nflows.transforms import AffineCouplingTransform, CompositeTransform

    class Net(MLP):
        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            return super().forward(x)

    masks = [torch.arange(DIMS) % 2 == i % 2 for i in range(LAYERS)]
    couplings = [
        AffineCouplingTransform(mask.int() * 2 - 1, lambda i, o: Net([i], [o], [WIDTH] * depth)) for mask in masks
    ]
    flow = Flow(CompositeTransform(couplings), StandardNormal([DIMS]))
    return Side(flow, flow.log_prob, flow.sample)


def of_normflows(depth: int) -> Side:
    import normflows

    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        net = normflows.nets.MLP([DIMS // 2, *[WIDTH] * depth, DIMS], init_zeros=True)
        layers += [normflows.flows.AffineCouplingBlock(net), normflows.flows.Permute(DIMS, mode="swap")]
    flow = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(DIMS, trainable=False), layers)
    return Side(flow, flow.log_prob, lambda n: flow.sample(n)[0])


SIDES: dict[str, Callable[[int], Side]] = {
    "ours": lambda depth: ours(depth=depth),
    "zuko": of_zuko,
    "nflows": of_nflows,
    "normflows": of_normflows,
}


def cost(side: Side) -> tuple[int, int]:
    """Parameters, and FLOPs of a log_prob of one batch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        side.log_prob(torch.randn(BATCH, DIMS))
    return sum(weight.numel() for weight in side.flow.parameters()), counter.get_total_flops()


def calls(side: Side, x: Tensor) -> dict[str, Callable[[], object]]:
    """A training step, log_prob and sample without gradients."""
    optimizer = torch.optim.AdamW(side.flow.parameters(), lr=1e-4, fused=True)

    def train() -> None:
        optimizer.zero_grad()
        (-side.log_prob(x).mean()).backward()
        optimizer.step()

    return {
        "train": train,
        "log_prob": torch.no_grad()(lambda: side.log_prob(x)),
        "sample": torch.no_grad()(lambda: side.sample(len(x))),
    }


def measure(names: list[str], depth: int, rounds: int, eager: bool) -> dict[str, Any]:
    """{costs, works: {work: {"side, variant": {times, compile_s}}}}."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, DIMS)
    costs, works = {}, {work: {} for work in WORKS}
    compiling: dict[tuple[str, str], float] = {}
    for name in names:
        side = SIDES[name](depth)
        costs[name] = cost(side)
        for variant in VARIANTS[: 1 if eager else 2]:
            if variant == "compiled":
                side = Side(side.flow, torch.compile(side.log_prob), torch.compile(side.sample))
            for work, call in calls(side, x).items():
                try:
                    compiling[work, f"{name}, {variant}"] = first_call(call)
                except Exception as error:  # whatever torch.compile raises for code that it cannot trace
                    print(f"{name}, {work}: {type(error).__name__}")
                    continue
                works[work][f"{name}, {variant}"] = call
    result = {}
    for work, named in works.items():
        times = alternate(named, rounds, max(1, int(0.1 / max(seconds(call) for call in named.values()))))
        result[work] = {key: {"times": t, "compile_s": compiling[work, key]} for key, t in times.items()}
    return {"costs": costs, "works": result}


def speed(args: argparse.Namespace) -> None:
    print(machine())
    for depth in args.depths:
        for threads in args.threads:
            options = ["measure", "--depths", str(depth), "--rounds", str(args.rounds), *["--eager"] * args.eager]
            options += ["--sides", *args.sides]
            with tempfile.TemporaryDirectory() as cache:
                answer = child(["benchmarks.flows", *options], threads, cache)
            assert_equal(answer["costs"])
            report(f"{depth} hidden layers, {threads} threads", answer["works"])


def assert_equal(costs: dict[str, tuple[int, int]]) -> None:
    """Parameters and FLOPs of all sides within 1 %."""
    for what, values in zip(("parameters", "FLOPs"), zip(*costs.values(), strict=True), strict=True):
        if max(values) > 1.01 * min(values):
            raise ValueError(f"the flows are not equal: {what} of {', '.join(costs)} are {values}")
    parameters, flops = costs["ours"]
    print(f"\neach flow: {parameters:,} parameters, {flops / 1e6:.0f} MFLOP a log_prob of {BATCH} points")


def report(title: str, works: dict[str, Any]) -> None:
    for work, entries in works.items():
        medians = {key: statistics.median(entry["times"]) for key, entry in entries.items()}
        best = min((key for key in medians if key.startswith("ours")), key=medians.__getitem__)
        rows = []
        for key, entry in entries.items():
            variant = key.split(", ")[1]
            row = [*key.split(", "), milliseconds(entry["times"])]
            row.append(ratios(entry["times"], entries[f"ours, {variant}"]["times"]))
            row.append(ratios(entry["times"], entries[best]["times"]))
            rows.append([*row, f"{entry['compile_s']:.0f}" if variant == "compiled" else ""])
        header = ("side", "variant", "ms", "over ours, same variant", f"over {best}", "compile s")
        table(f"{title}: {work}", header, rows)


def scaling(args: argparse.Namespace) -> None:
    """Median ms of our three works by dimension and depth, for both couplings: a table and a plot."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    torch.set_num_threads(args.threads[0])
    print(machine())
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels: Any = figure.subplots(1, len(SCALES), sharey=True)
    for panel, (axis, (label, values)) in zip(panels, SCALES.items(), strict=True):
        rows = []
        for line, coupling in (("-", "affine"), ("--", "spline")):
            points = [_point(coupling, {axis: value}, args.rounds) for value in values]
            for colour, work in zip(("C0", "C1", "C2"), WORKS, strict=True):
                style = {"color": colour, "label": f"{coupling}, {work}"}
                panel.loglog(values, [point[work] for point in points], f"o{line}", markersize=3, **style)
            rows += [(coupling, v, *(f"{p[w]:.2f}" for w in WORKS)) for v, p in zip(values, points, strict=True)]
        table(label, ("coupling", label, *(f"{work}, ms" for work in WORKS)), rows)
        rest = f"{LAYERS} couplings" if axis == "dims" else f"{DIMS} numbers"
        panel.set_title(f"{rest}, batch {BATCH}, 2 x {WIDTH} hidden", fontsize=9)
        panel.set_xlabel(label)
        panel.set_xticks(values)
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(True, alpha=0.3)
    panels[0].set_ylabel("ms")
    panels[0].legend(fontsize=7)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=130)
    print(f"wrote {args.output}")


def _point(coupling: str, size: dict[str, int], rounds: int) -> dict[str, float]:
    side = ours(coupling=coupling, **size)
    named = calls(side, torch.randn(BATCH, size.get("dims", DIMS)))
    for call in named.values():
        seconds(call, 2)
    return {work: 1e3 * statistics.median(times) for work, times in alternate(named, rounds).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "scaling", "measure"), help="measure: a part of speed, as JSON")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES])
    parser.add_argument("--depths", nargs="+", type=int, default=[1, 2], help="hidden layers of a conditioner")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--eager", action="store_true", help="leave the compiled variants out")
    parser.add_argument("--output", type=Path, default=Path("docs/flows-scaling.png"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # the peers'
    if args.what == "measure":
        print(json.dumps(measure(args.sides, args.depths[0], args.rounds, args.eager)))
    else:
        (speed if args.what == "speed" else scaling)(args)


if __name__ == "__main__":
    main()
