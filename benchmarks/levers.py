"""What each optimisation gains: alone on a plain baseline, and on top of the ones before it.

    python -m benchmarks.diffusion levers [--sizes 8x8 32x32 32x32-patch2] [--threads 1] [--device cuda]

The baseline is fp32, eager, torch's DataLoader, EMA tensor by tensor, AdamW tensor by tensor, dropout 0.1. Compiling
pays for itself after the seconds it takes, divided by what it saves in each step: the break-even.
"""

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.clock import alternate, child, first_call, machine, milliseconds, ratios, seconds, table
from benchmarks.peers import Average, quiet
from datamodules.loader import InMemoryLoader
from zoo.diffusion.model import ImageDiffusion

ARGUMENTS: dict[str, dict[str, Any]] = {
    "tiny": {"image_shape": (1, 8, 8), "channels": 8},
    "8x8": {"image_shape": (1, 8, 8)},
    "32x32": {"image_shape": (3, 32, 32), "channel_multipliers": (1, 2, 2)},
    "32x32-patch2": {"image_shape": (3, 32, 32), "channel_multipliers": (1, 2, 2), "patch_size": 2},
}


class Plan(NamedTuple):
    """How a training step runs."""

    in_memory: bool = False
    foreach_ema: bool = False
    fused: bool = False
    no_dropout: bool = False
    bf16: bool = False
    compiled: bool = False
    channels_last: bool = False


LEVERS = {
    "in_memory": "loader in memory",
    "foreach_ema": "EMA by foreach",
    "fused": "fused AdamW",
    "no_dropout": "no dropout",
    "bf16": "bf16 autocast",
    "compiled": "compile",
    "channels_last": "channels_last",
}


def network(size: str, plan: Plan, device: str) -> ImageDiffusion:
    model = ImageDiffusion(**ARGUMENTS[size], dropout=0.0 if plan.no_dropout else 0.1).to(device)
    if plan.channels_last:
        model.to(memory_format=torch.channels_last)
    if plan.bf16:
        in_bf16 = torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
        model.network.forward = in_bf16(model.network.forward)  # type: ignore[method-assign]
    if plan.compiled:
        model.network.compile()
    return model


def batches(plan: Plan, images: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """An endless stream of batches of 64."""
    data, labels = images.repeat(16, 1, 1, 1), torch.zeros(16 * len(images), dtype=torch.int64, device=images.device)
    if plan.in_memory:
        loader: Any = InMemoryLoader(data, labels, len(images), shuffle=True)
    else:
        loader = DataLoader(TensorDataset(data.cpu(), labels.cpu()), batch_size=len(images), shuffle=True)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def training(size: str, plan: Plan, device: str, batch: int) -> Callable[[], None]:
    """A whole training step as the plan says."""
    model = network(size, plan, device).train()
    weights = list(model.parameters())
    one_by_one = {"fused": False, "foreach": False}
    optimizer = torch.optim.AdamW(weights, lr=1e-3, **({"fused": True} if plan.fused else one_by_one))
    stream = batches(plan, torch.rand(batch, *model.image_shape, device=device) * 2 - 1)
    average, blend = Average(weights), get_ema_avg_fn(0.999)

    def step() -> None:
        images = next(stream)[0].to(device)
        if plan.channels_last:
            images = images.to(memory_format=torch.channels_last)
        t = torch.randint(1, 1001, (len(images),), device=device)
        model.loss(images, t, torch.randn_like(images)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if plan.foreach_ema:
            average.update()
            return
        with torch.no_grad():
            for slow, weight in zip(average.average, weights, strict=True):
                slow.copy_(blend(slow, weight, average.count))

    return step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", nargs="+", choices=[*ARGUMENTS], default=["8x8", "32x32", "32x32-patch2"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--eager", action="store_true", help="leave the compiled variants out")
    parser.add_argument("--device", default="cpu")


def plans(eager: bool) -> dict[str, Plan]:
    """ "plain", each lever alone, each with all before it; channels_last is tried last."""
    levers = [lever for lever in LEVERS if not (eager and lever == "compiled")]
    found, so_far = {"plain": Plan()}, Plan()
    for lever in levers:
        found[f"alone: {LEVERS[lever]}"] = Plan(**{lever: True})
    for lever in levers:
        so_far = so_far._replace(**{lever: True})
        found[f"so far: + {LEVERS[lever]}"] = so_far
    return found


def sampling_plans(eager: bool) -> dict[str, Plan]:
    kinds = itertools.product((False, True), (False,) if eager else (False, True), (False, True))
    return {
        " ".join(("bf16" if b else "fp32", "compiled" if c else "eager", *["channels_last"] * last)): Plan(
            no_dropout=True, bf16=b, compiled=c, channels_last=last
        )
        for b, c, last in kinds
    }


def measure(size: str, rounds: int, batch: int, eager: bool, device: str) -> dict[str, Any]:
    """{"train": {plan: [times, compile_s]}, "sample": the same, "batch": {size: times}}; seconds."""
    answer: dict[str, Any] = {}
    steps = {name: training(size, plan, device, batch) for name, plan in plans(eager).items()}
    answer["train"] = _timed(steps, plans(eager), rounds, 10)

    def evaluation(plan: Plan, count: int) -> Callable[[], object]:
        model = network(size, plan, device).eval()
        return lambda: model.sample(count, sampler="ddim", steps=5)

    calls = {name: evaluation(plan, batch) for name, plan in sampling_plans(eager).items()}
    answer["sample"] = _timed(calls, sampling_plans(eager), rounds, 4)
    several = {str(count): evaluation(Plan(), count) for count in (16, 32, 64, 128, 160, 256, 512)}
    answer["batch"] = _timed(several, dict.fromkeys(several, Plan()), rounds, 1)
    return answer


def _timed(works: dict[str, Any], how: dict[str, Plan], rounds: int, repeats: int) -> dict[str, Any]:
    compiling = {name: first_call(work) if how[name].compiled else 0.0 * seconds(work) for name, work in works.items()}
    once = max(seconds(work) for work in works.values())
    times = alternate(works, rounds, max(1, min(repeats, int(0.5 / once))))
    return {name: [times[name], compiling[name]] for name in works}


def run(args: argparse.Namespace) -> None:
    print(machine(args.device))
    for size in args.sizes:
        options = ["--sizes", size, "--rounds", str(args.rounds), "--batch", str(args.batch), "--device", args.device]
        with tempfile.TemporaryDirectory() as cache:
            result = child(["benchmarks.levers", *options, *["--eager"] * args.eager], args.threads, cache)
        report(f"{size}, {args.device}, {args.threads} threads", result, args.batch)


def report(title: str, result: dict[str, Any], batch: int) -> None:
    train, rows, former = result["train"], [], "plain"
    for name, (times, compiling) in train.items():
        before = former if name.startswith("so far") else "plain"
        saved = statistics.median(train[before][0]) - statistics.median(times)
        even = f"{compiling / saved:.0f}" if compiling and saved > 0 and LEVERS["compiled"] in name else ""
        gains = ratios(train["plain"][0], times), ratios(train[before][0], times)
        rows.append((name, milliseconds(times), *gains, f"{compiling:.0f}" if compiling else "", even))
        former = name if name.startswith("so far") else former
    header = ("training step", "ms", "plain over it", "the one before over it", "compile s", "break-even steps")
    table(f"{title}: training, batch {batch}", header, rows)

    plain, rows = next(iter(result["sample"].values()))[0], []
    for name, (times, compiling) in result["sample"].items():
        each = [10 * value / batch for value in times]  # 5 steps were measured
        saved = (statistics.median(plain) - statistics.median(times)) * 10 / batch
        even = f"{compiling / saved:.0f}" if compiling and saved > 0 else ""
        rows.append((name, milliseconds(each), ratios(plain, times), f"{compiling:.0f}" if compiling else "", even))
    header = ("sampling", "ms an image, 50 steps", "plain over it", "compile s", "break-even images")
    table(f"{title}: sampling, batch {batch}", header, rows)
    each = {count: [10 * value / int(count) for value in times] for count, (times, _) in result["batch"].items()}
    rows = [(count, milliseconds(times), ratios(each["64"], times)) for count, times in each.items()]
    table(f"{title}: batch size of sampling", ("batch", "ms an image, 50 steps", "64 over it"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    args = parser.parse_args()
    with quiet():
        print(json.dumps(measure(args.sizes[0], args.rounds, args.batch, args.eager, args.device)))


if __name__ == "__main__":
    main()
