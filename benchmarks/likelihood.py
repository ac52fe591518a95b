"""How far a card's bits per dimension are from the exact value: the card's way compared with a nearly exact solve.

    python -m benchmarks.likelihood [MODEL] [--images 100] [--points 96] [--draws 4] [--threads 1]

Both score the same dequantised test digits. The card's way is that of `evaluate`: float32, Runge-Kutta steps,
Hutchinson's trace. The exact solve is float64 with every diagonal entry of the Jacobian: the flow takes two Runge-Kutta
steps from point to point, and Simpson's rule gives the integral along it. The same rule over every second point shows
how far that is from convergence.
"""

import argparse
import math
import statistics
from typing import Any

import torch
from torch import Tensor

import checkpoints
from benchmarks.clock import machine, seconds, table
from commands.measures.images import LIKELIHOOD_STEPS
from datamodules import Digits
from zoo.diffusion.autograd import vector_jacobian
from zoo.diffusion.likelihood import dequantise, log_bin_volume, probability_flow
from zoo.diffusion.model import ImageDiffusion
from zoo.metrics.likelihood import bits_per_dim

SUBSTEPS = 2  # Runge-Kutta steps of the flow from point to point


def exact_log_likelihood(model: ImageDiffusion, x0: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """log p(x0) in nats, (B,), of float64 images and a float64 model: over all points, and over every second.

    log p(x_0) = log N(x_T / a_T; 0, (prior_std / a_T)^2 I) + integral over u of (d - trace of dD/dz), as in
    `zoo.diffusion.likelihood`, at an even number `points` of intervals of u = log(sigma / a).
    """
    process, denoise = model.process, model.denoiser(None, clip=False)
    low, high = (math.log(process.noise_levels[t].item()) for t in (1, process.num_timesteps))
    width = (high - low) / points
    times = [process.time_of(math.exp(low + i * width)) for i in range(points + 1)]
    x, rates = x0, []
    for i, t in enumerate(times):
        if i:
            x = probability_flow(denoise, process, x, times[i - 1], t, SUBSTEPS)
        rates.append(x[0].numel() - process.at(t)[0] * _jacobian_trace(model, x, t))  # z = x / a
    signal, _ = process.at(times[-1])
    prior = torch.distributions.Normal(0.0, process.prior_std / signal).log_prob(x / signal).flatten(1).sum(1)
    return prior + _simpson(rates, width), prior + _simpson(rates[::2], 2 * width)


def _jacobian_trace(model: ImageDiffusion, x: Tensor, t: float) -> Tensor:
    """Of dD/dx, (B,), one product with the Jacobian for each dimension."""
    times = torch.full((len(x),), t, dtype=torch.float64)
    unit = torch.eye(x[0].numel(), dtype=x.dtype).view(-1, 1, *x.shape[1:])
    probes = [row.expand_as(x) for row in unit]
    _, products = vector_jacobian(lambda leaf: model.denoiser(None, clip=False)(leaf, times), x, probes)
    return sum(((v * p).flatten(1).sum(1) for v, p in zip(probes, products, strict=True)), x.new_zeros(len(x)))


def _simpson(values: list[Tensor], width: float) -> Tensor:
    """The integral of values an equal width apart, an odd number of them."""
    return width / 3 * (values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2]))


def measure(name: str, images: int, points: int, draws: int) -> dict[str, list[float]]:
    """Bits per dimension of each image: "card" (a mean of draws of the trace), "exact", "half" the points."""
    data = Digits()
    x0 = data.images("test")[:images]
    x0 = dequantise(x0, data.levels, torch.Generator().manual_seed(0))
    dims = x0[0].numel()

    def bits(nats: Tensor) -> Tensor:
        return bits_per_dim(nats + log_bin_volume(dims, data.levels), dims)

    model: Any = checkpoints.load(name)
    generator = torch.Generator().manual_seed(1)
    card = [bits(model.log_likelihood(x0, steps=LIKELIHOOD_STEPS, generator=generator)) for _ in range(draws)]
    with torch.no_grad():
        exact, half = exact_log_likelihood(model.double(), x0.double(), points)
    answer = {"card": torch.stack(card).mean(0), "exact": bits(exact), "half": bits(half)}
    return {name: values.tolist() for name, values in answer.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="score-digits", metavar="MODEL")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--points", type=int, default=96, help="intervals of Simpson's rule, a multiple of 4")
    parser.add_argument("--draws", type=int, default=4, help="of Hutchinson's probes, for the card's way")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.points < 4 or args.points % 4:
        parser.error(f"--points must be a multiple of 4, got {args.points}")
    torch.set_num_threads(args.threads)
    print(machine())
    found: dict[str, list[float]] = {}
    took = seconds(lambda: found.update(measure(args.model, args.images, args.points, args.draws)))
    rows = [("the card's way", *_mean(found["card"])), ("exact", *_mean(found["exact"]))]
    for text, other in (("the card's way - exact", "card"), ("exact, half of the points - exact", "half")):
        rows.append((text, *_mean([a - b for a, b in zip(found[other], found["exact"], strict=True)])))
    table(f"{args.model}: {args.images} images, {took:.0f} s", ("", "bits per dimension", "standard error"), rows)


def _mean(values: list[float]) -> tuple[str, str]:
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.5f}", f"{error:.5f}"


if __name__ == "__main__":
    main()
