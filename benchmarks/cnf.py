"""The neural-ODE flow compared with FFJORD's usual loop, and flow matching with maximum likelihood.

    python -m benchmarks.cnf [step] [cost] [race] [--rounds 7] [--minutes 2]

step: one training step on the same field and batch, at equal error. FFJORD's loop is written from its description
    (Grathwohl et al. 2019, arXiv:1810.01367): torchdiffeq's odeint_adjoint with dopri5, and one differentiation a
    dimension for the trace. Errors are those of the mean log-density and of the gradient, compared with float64 at
    1e-9. For each side, the cheapest row with a gradient error of at most 1 % counts.
cost: milliseconds of the field with its exact trace, forward and backward, by dimension and depth: ours in one pass,
    and with one differentiation a dimension.
race: CPU seconds until the KL divergence to the true density falls below --mark: with likelihood alone, and with flow
    matching first.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchdiffeq import odeint_adjoint

from benchmarks.clock import alternate, machine, milliseconds, ratios, table
from zoo.flows.cnf import CNF, DATA, NOISE, flow_matching_loss
from zoo.flows.cnf_model import cnf
from zoo.flows.ode import Solver
from zoo.flows.velocity import VelocityMLP
from zoo.synthetic.densities import draw, log_density

DENSITY = "8gaussians"
FULL = {"ours, rk4 x 4": 4, "ours, rk4 x 6": 6, "ours, rk4 x 8": 8, "ours, rk4 x 12": 12}
TOLERANCES = {"FFJORD's, 1e-3": 1e-3, "FFJORD's, 1e-4": 1e-4, "FFJORD's, 1e-5": 1e-5}


def traced_by_autograd(field: VelocityMLP, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """v, and its divergence by D differentiations, which can be differentiated again."""
    with torch.enable_grad():
        x = x if x.requires_grad else x.requires_grad_()
        v = field(t, x)
        parts = [torch.autograd.grad(v[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1])]
        return v, torch.stack(parts).sum(0)


class Usual(torch.nn.Module):
    """FFJORD's dynamics: (x, log p) under (v, -trace)."""

    def __init__(self, field: VelocityMLP) -> None:
        super().__init__()
        self.field, self.evaluations = field, 0

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        self.evaluations += 1
        v, divergence = traced_by_autograd(self.field, t, state[0])
        return v, -divergence[:, None]

    def loss(self, x: Tensor, tolerance: float) -> Tensor:
        times = torch.tensor([DATA, NOISE], dtype=x.dtype)
        state = (x, x.new_zeros(len(x), 1))
        z, delta = odeint_adjoint(self, state, times, atol=tolerance, rtol=tolerance, method="dopri5")
        return -(log_normal(z[1]) - delta[1, :, 0]).mean()


def log_normal(z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


def loss_of(field: VelocityMLP, x: Tensor, solver: Solver) -> Tensor:
    z, ladj = CNF(field, solver)(x)
    return -(log_normal(z) + ladj).mean()


def trained_field(points: Tensor, steps: int, hidden: int = 64) -> VelocityMLP:
    """A field after some steps of flow matching: neither untrained nor stiff."""
    torch.manual_seed(0)
    field = VelocityMLP(points.shape[1], hidden, activation="tanh")
    optimizer = torch.optim.Adam(field.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        flow_matching_loss(field, points[torch.randint(len(points), (512,))]).mean().backward()
        optimizer.step()
    return field


def gradient(field: torch.nn.Module, loss: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """The loss, and its gradient with respect to the field's weights as one vector."""
    for parameter in field.parameters():
        parameter.grad = None
    value = loss()
    value.backward()
    return value.item(), torch.cat([p.grad.double().flatten() for p in field.parameters() if p.grad is not None])


def compare_steps(rounds: int, batch: int = 512, training: int = 2000) -> dict[str, tuple[float, float, list[float]]]:
    """For each method: error of the mean log-density in nats, relative error of the gradient, seconds a step."""
    points = draw(DENSITY, 50_000, torch.Generator().manual_seed(0)).float()
    points = (points - points.mean(0)) / points.std(0)
    field, x = trained_field(points, training), points[:batch]
    exact = copy.deepcopy(field).double()
    truth, slope = gradient(exact, lambda: loss_of(exact, x.double(), Solver(tolerance=1e-9)))
    usual = Usual(field)
    losses: dict[str, Callable[[], Tensor]] = {}
    for name, steps in FULL.items():
        losses[name] = lambda steps=steps: loss_of(field, x, Solver("rk4", steps=steps))
    losses["ours, dopri5 1e-4"] = lambda: loss_of(field, x, Solver(tolerance=1e-4))
    for name, tolerance in TOLERANCES.items():
        losses[name] = lambda tolerance=tolerance: usual.loss(x, tolerance)
    times = alternate({name: lambda loss=loss: gradient(field, loss) for name, loss in losses.items()}, rounds)
    results = {}
    for name, loss in losses.items():
        value, found = gradient(field, loss)
        results[name] = (abs(value - truth), float((found - slope).norm() / slope.norm()), times[name])
    return results


def print_steps(results: dict[str, tuple[float, float, list[float]]], goal: float = 0.01) -> None:
    rows = [
        (name, f"{nats:.1e}", f"{100 * error:.2g} %", milliseconds(times))
        for name, (nats, error, times) in results.items()
    ]
    table("A training step, 8 Gaussians, batch 512", ("way", "error, nats", "error of gradient", "ms"), rows)
    sides = {}
    for side in ("ours", "FFJORD's"):
        good = {n: r[2] for n, r in results.items() if n.startswith(side) and r[1] <= goal}
        sides[side] = min(good.items(), key=lambda item: sum(item[1]), default=(f"none of {side}", []))
    (ours, fast), (theirs, slow) = sides.values()
    if fast and slow:
        print(f"\nAt a gradient within {100 * goal:g} %: {theirs} / {ours} = {ratios(slow, fast)} times the time")


def compare_costs(rounds: int, batch: int = 256, hidden: int = 64) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for dims in (2, 8, 32, 64):
        for depth in (2, 3):
            field, x, t = VelocityMLP(dims, hidden, depth), torch.randn(batch, dims), torch.tensor(0.5)

            def one_pass(field: VelocityMLP = field, x: Tensor = x, t: Tensor = t) -> None:
                change = field.change(t, x)
                (change.velocity.sum() + change.divergence.sum()).backward()

            def differentiated(field: VelocityMLP = field, x: Tensor = x, t: Tensor = t) -> None:
                v, divergence = traced_by_autograd(field, t, x)
                (v.sum() + divergence.sum()).backward()

            times = alternate({"ours": one_pass, "autograd": differentiated}, rounds, repeats=3)
            ratio = ratios(times["autograd"], times["ours"])
            rows.append((dims, depth, milliseconds(times["ours"]), milliseconds(times["autograd"]), ratio))
    return rows


def race(mark: float, matching_steps: int, minutes: float, seed: int = 0) -> float:
    """CPU seconds of training, without measuring, until KL <= mark; infinite if it is not reached in `minutes`."""
    torch.manual_seed(seed)
    points = draw(DENSITY, 200_000, torch.Generator().manual_seed(0)).float()
    held_out = draw(DENSITY, 4_000, torch.Generator().manual_seed(1)).float()
    truth = log_density(DENSITY, held_out)
    model = cnf((2,), hidden=64)
    model.standardise(points.mean(0), points.std(0))
    model.cnf.solver, model.cnf.training_solver = Solver("rk4", steps=12), Solver("rk4", steps=6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    spent = 0.0
    step = 0
    while spent < 60 * minutes:
        matching = step < matching_steps
        start = time.process_time()
        for group in optimizer.param_groups:  # flow matching ends at a rate of 0; likelihood continues at a lower rate
            cosine = (1 + math.cos(math.pi * step / max(1, matching_steps))) / 2
            group["lr"] = 3e-3 * cosine if matching else 1e-3 if matching_steps else 3e-3
        for _ in range(100 if matching else 10):
            x = points[torch.randint(len(points), (512,))]
            loss = model.flow_matching_loss(x) if matching else model.likelihood_loss(x)[0]
            optimizer.zero_grad()
            loss.mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            step += 1
        spent += time.process_time() - start
        model.eval()
        if matching and step < matching_steps:
            continue
        with torch.no_grad():
            divergence = (truth - model.log_prob(held_out)).mean().item()
        model.train()
        if divergence <= mark:
            return spent
    return math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["step", "cost", "race"], help="step, cost, race")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mark", type=float, default=0.05, help="KL divergence in nats that ends the race")
    parser.add_argument("--minutes", type=float, default=2, help="of training after which a method gives up")
    options = parser.parse_args()
    print(machine())
    if "step" in options.parts:
        print_steps(compare_steps(options.rounds))
    if "cost" in options.parts:
        header = ("D", "hidden layers", "ours, ms", "a differentiation a dimension, ms", "ratio")
        table(
            "The field with its exact trace, forwards and backwards, batch 256", header, compare_costs(options.rounds)
        )
    if "race" in options.parts:
        ways = {"likelihood": 0, "flow matching, 2,000 steps, then likelihood": 2000}
        rows = [(name, f"{race(options.mark, steps, options.minutes):.0f}") for name, steps in ways.items()]
        table(f"CPU seconds to KL {options.mark} nats, {DENSITY}", ("method", "s"), rows)


if __name__ == "__main__":
    main()
