"""Defaults compared on digits: how long our `fit` takes to reach the best loss of diffusers' recipe.

    python -m benchmarks.diffusion time-to-loss [--minutes 20] [--fit "--model.compile true"]

diffusers: the defaults of examples/unconditional_image_generation/train_unconditional.py (huggingface/diffusers, commit
00769f6) except for the batch of 64: eps, linear schedule, AdamW 1e-4, betas 0.95 and 0.999, cosine decay with 500 steps
of warm-up (it ends when the time does), gradients clipped at 1, EMA to the power 3/4, fp32. Digits are not flipped.
Ours: `fit` with its defaults, through the command line, in a process whose start and imports count.

The loss of both: the mean squared error in eps of the averaged weights on the 350 validation images, with the same
noise, at ten levels of the linear schedule. Ours is trained on another schedule, so it is evaluated at the times of
equal signal-to-noise ratio. Both clocks stop while the loss is measured. An interrupted run resumes. On a busy machine,
--clock cpu with --threads 1 counts the CPU seconds of the process and of the compilers that it starts.
"""

import argparse
import math
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from benchmarks.clock import ROOT, alternate, machine, milliseconds, ratios, read, table, write
from benchmarks.peers import (
    SIZES,
    TINY,
    Size,
    assert_equal_cost,
    build,
    diffusers_average,
    diffusers_loss,
    diffusers_optimizer,
    diffusers_unet,
)
from datamodules import Digits
from zoo.diffusion.model import ImageDiffusion
from zoo.diffusion.process import NoiseProcess

Noise = Callable[[Tensor, int], Tensor]  # (x_t, whole t of the linear schedule) -> eps
FIT = "fit --model DDPM --data Digits --data.batches_per_epoch 100 --trainer.callbacks+=lightning_modules.callbacks.EMA"


def cpu_seconds() -> float:
    """CPU seconds of this process and of the children that it has waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


CLOCKS = {"wall": time.time, "cpu": cpu_seconds}


class Ruler:
    """Mean |eps - prediction|^2 at fixed images, noise and times 50, 150 ... 950 of the linear schedule."""

    def __init__(self) -> None:
        self.process = NoiseProcess("linear", 1000)
        self.images = Digits().images("val")
        generator = torch.Generator().manual_seed(0)
        self.noise = [torch.randn(self.images.shape, generator=generator) for _ in range(10)]

    @torch.no_grad()
    def __call__(self, predict: Noise) -> float:
        errors = []
        for i, noise in enumerate(self.noise):
            t = 50 + 100 * i
            signal, sigma = self.process.at(t)
            x_t = signal * self.images + sigma * noise
            predicted = torch.cat([predict(part, t) for part in x_t.split(70)])
            errors.append((predicted - noise).square().mean().item())
        return statistics.mean(errors)

    def of_ours(self, model: ImageDiffusion) -> float:
        """At the fractional time of our process with the same noise level; x_0 not clipped."""
        denoise = model.eval().denoiser(clip=False)

        def predict(x_t: Tensor, t: int) -> Tensor:
            signal, sigma = self.process.at(t)
            own = torch.full((len(x_t),), model.process.time_of(sigma / signal))
            return (x_t - signal * denoise(x_t, own)) / sigma

        return self(predict)

    def of_diffusers(self, network: nn.Module) -> float:
        network.eval()
        return self(lambda x_t, t: network(x_t, t - 1, return_dict=False)[0])  # it counts its times from 0


def train_diffusers(
    size: Size, folder: Path, limit_s: float, every_s: float, now: Callable[[], float]
) -> list[list[float]]:
    """[[seconds, loss], ...] of the averaged weights; the clock runs in the training loop only."""
    from diffusers import DDPMScheduler

    saved, ruler, data = folder / "diffusers.pt", Ruler(), Digits()
    torch.manual_seed(0)
    network = diffusers_unet(size)
    weights = list(network.parameters())
    optimizer, average = diffusers_optimizer(weights), diffusers_average(weights)
    clock, step, curve = 0.0, 0, []
    if saved.is_file():
        state = torch.load(saved, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average.load_state_dict(state["average"])
        clock, step, curve = state["clock"], state["step"], state["curve"]
        torch.manual_seed(step)
    dataset = torch.utils.data.TensorDataset(data.images("train"))
    loader = torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True)
    schedule, measured = DDPMScheduler(num_train_timesteps=1000), clock
    while clock < limit_s:
        network.train()
        for (images,) in loader:
            start = now()
            rate = 1e-4 * min(1, step / 500) * 0.5 * (1 + math.cos(math.pi * min(1, clock / limit_s)))
            optimizer.param_groups[0]["lr"] = rate
            diffusers_loss(network, schedule, images).backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            average.step(weights)
            optimizer.zero_grad()
            step += 1
            clock += now() - start
        if clock - measured >= every_s or clock >= limit_s:
            measured = clock
            average.store(weights)
            average.copy_to(weights)
            curve.append([clock, ruler.of_diffusers(network)])
            average.restore(weights)
            print(f"diffusers: {clock:6.0f} s, step {step}, loss {curve[-1][1]:.5f}", file=sys.stderr, flush=True)
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "clock": clock}
            state |= {"average": average.state_dict(), "step": step, "curve": curve}
            torch.save(state, saved.with_suffix(".part"))
            saved.with_suffix(".part").replace(saved)
    return curve


class Until(Callback):
    """Records the loss of the averaged weights after each validation, and stops a run at a loss or a time."""

    def __init__(self, clock: str, started: float, target: float, limit_s: float, folder: Path) -> None:
        self.now = CLOCKS[clock]
        self.started, self.target, self.limit_s, self.folder = started, target, limit_s, folder
        self.own_s = 0.0  # spent in here
        self.curve: list[list[float]] = []
        self.ruler = Ruler()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = self.now()
        if trainer.sanity_checking:
            return
        module: Any = pl_module
        model = ImageDiffusion(**module.arguments)  # a copy, which is not compiled
        model.load_state_dict(module.model.state_dict())
        clock, loss = now - self.started - self.own_s, self.ruler.of_ours(model)
        self.curve.append([clock, loss])
        print(f"ours: {clock:6.0f} s, step {trainer.global_step}, loss {loss:.5f}", file=sys.stderr, flush=True)
        write(self.folder / "ours.json", {"curve": self.curve})
        if loss <= self.target or clock >= self.limit_s:
            torch.save({"arguments": module.arguments, "state": model.state_dict()}, self.folder / "ours.pt")
            trainer.should_stop = True
        self.own_s += self.now() - now


def fit(arguments: list[str], callback: Until) -> int:
    """Our command line, with one more callback."""
    from commands import main, train

    class CommandLine(train.CommandLine):
        def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            trainer.callbacks.insert(0, callback)
            return trainer

    train.CommandLine = CommandLine  # type: ignore[misc]
    return main.main(arguments)


def train_ours(
    fit_options: str, target: float, limit_s: float, folder: Path, threads: int, clock: str
) -> list[list[float]]:
    """[[seconds since the process was started, loss], ...]."""
    number = sum(1 for _ in folder.glob("fit-*"))  # the clock of an interrupted run is lost: start again
    command = [*shlex.split(FIT), "--trainer.max_epochs", "-1", "--trainer.enable_progress_bar", "false"]
    command += ["--trainer.default_root_dir", str(folder.resolve() / f"fit-{number}"), *shlex.split(fit_options)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    own = [clock, str(time.time() if clock == "wall" else 0.0), str(target), str(limit_s), str(folder.resolve())]
    started = [sys.executable, "-m", "benchmarks.time_to_loss", *own, *command]
    subprocess.run(started, cwd=ROOT, env=environment, stdout=sys.stderr, check=True)
    return read(folder / "ours.json")["curve"]


def quality(size: Size, folder: Path, rounds: int) -> dict[str, Any]:
    """Feature-FID of 448 samples by 50 DDIM steps on both sides, 3 draws, and the seconds of 64 samples."""
    import checkpoints
    from zoo.metrics.samples import FeatureFID

    fid = FeatureFID(checkpoints.load("classifier-digits"), Digits().images("test"))
    saved = torch.load(folder / "ours.pt", weights_only=True)
    model = ImageDiffusion(**saved["arguments"]).eval()
    model.load_state_dict(saved["state"])
    theirs: Any = build("diffusers", size, best=False)
    average = diffusers_average(theirs.weights)
    average.load_state_dict(torch.load(folder / "diffusers.pt", weights_only=True)["average"])
    average.copy_to(theirs.weights)
    theirs.network.eval()
    draws = {"ours": lambda: model.sample(64, sampler="ddim", steps=50), "diffusers": lambda: 2 * theirs.sample(64) - 1}
    answer: dict[str, Any] = {"seconds": alternate(draws, rounds)}
    torch.manual_seed(0)
    answer["fid"] = {
        name: [fid(torch.cat([draw() for _ in range(7)])) for _ in range(3)] for name, draw in draws.items()
    }
    return answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=20.0, help="of diffusers; ours stops there too")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two measurements of diffusers")
    parser.add_argument("--fit", default="", help="further options of our fit, as one string")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tiny", action="store_true", help="a small network for diffusers: only to try this out")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/time-to-loss"))


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    print(machine())
    size, limit_s, results = TINY if args.tiny else SIZES["8x8"], 60 * args.minutes, args.folder / "results.json"
    args.folder.mkdir(parents=True, exist_ok=True)
    costs = assert_equal_cost(size, ("ours", "diffusers"))
    table("networks", ("side", "parameters", "forward FLOPs"), [(side, *numbers) for side, numbers in costs.items()])
    curve = train_diffusers(size, args.folder, limit_s, args.every, CLOCKS[args.clock])
    reached_s, target = min(curve, key=lambda point: point[1])
    if read(results).get("fit") != args.fit:
        ours = train_ours(args.fit, target, limit_s, args.folder, args.threads, args.clock)
        write(results, {"fit": args.fit, "ours": ours, "diffusers": curve})
    result = read(results)
    if "fid" not in result:
        result |= quality(size, args.folder, args.rounds)
        write(results, result)
    report(result, reached_s, target)


def report(result: dict[str, Any], reached_s: float, target: float) -> None:
    for side in ("diffusers", "ours"):
        shown = result[side][:: max(1, len(result[side]) // 20)]
        rows = [(f"{clock:.0f}", f"{loss:.5f}") for clock, loss in [*shown, result[side][-1]]]
        table(f"{side}: the curve", ("seconds", "loss"), rows)
    clock, loss = result["ours"][-1]
    print(f"\ndiffusers' best: {target:.5f} after {reached_s:.0f} s")
    if loss <= target:
        print(f"our fit {result['fit']!r}: {loss:.5f} after {clock:.0f} s, {100 * clock / reached_s:.0f} % of its time")
    else:
        print(f"our fit {result['fit']!r}: not reached in {clock:.0f} s, {loss:.5f}")
    rows = []
    for side in ("diffusers", "ours"):
        fid, times = result["fid"][side], result["seconds"][side]
        spread = f"{statistics.mean(fid):.3f} ({min(fid):.3f} to {max(fid):.3f})"
        rows.append((side, spread, milliseconds(times), ratios(times, result["seconds"]["diffusers"])))
    table("64 samples in 50 DDIM steps", ("side", "feature-FID of 448, 3 draws", "ms", "over diffusers"), rows)


if __name__ == "__main__":
    clock, started, target, limit_s, folder, *arguments = sys.argv[1:]
    sys.exit(fit(arguments, Until(clock, float(started), float(target), float(limit_s), Path(folder))))
